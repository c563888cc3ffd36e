"""The definition itself: against the equation written as scalar loops, and against PyTorch."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from mmdk.ops import reference
from tests.ops.cases import CASES, Case, ids


def look_up(plane, y, x):
    """Bilinear look-up of one number, straight from the definition."""
    height, width = plane.shape
    if not (-1 < y < height and -1 < x < width):
        return 0.0
    total = 0.0
    for row, column in itertools.product(
        (math.floor(y), math.floor(y) + 1), (math.floor(x), math.floor(x) + 1)
    ):
        if 0 <= row < height and 0 <= column < width:
            total += plane[row, column].item() * (1 - abs(y - row)) * (1 - abs(x - column))
    return total


def by_loops(case, tensors):
    """The equation of `deform_kernel2d`, one number at a time."""
    output = torch.zeros(case.batch, case.out_channels, *case.out_size, dtype=torch.float64)
    group_in = case.in_channels // case.groups
    group_out = case.out_channels // case.groups

    def offset(name, groups, n, c, tap, y, x):
        if name not in tensors:
            return 0.0, 0.0
        tensor = tensors[name]
        if tensor.shape[-2:] == (1, 1):
            y = x = 0
        group = c // (case.in_channels // groups)
        channel = (group * case.kernel[0] * case.kernel[1] + tap) * 2
        return tensor[n, channel, y, x].item(), tensor[n, channel + 1, y, x].item()

    for n, o, y, x in itertools.product(*(range(size) for size in output.shape)):
        total = tensors['bias'][o].item() if case.bias else 0.0
        first = o // group_out * group_in
        for c, i, j in itertools.product(
            range(first, first + group_in), range(case.kernel[0]), range(case.kernel[1])
        ):
            tap = i * case.kernel[1] + j
            at_y, at_x = (
                position * case.stride[a] - case.padding[a] + k * case.dilation[a]
                for a, (position, k) in enumerate(((y, i), (x, j)))
            )
            image_y, image_x = offset('image_offset', case.image_offset_groups, n, c, tap, y, x)
            scope_y, scope_x = offset('kernel_offset', case.kernel_offset_groups, n, c, tap, y, x)
            mask = 1.0
            if 'mask' in tensors:
                group = c // (case.in_channels // case.mask_groups)
                mask = tensors['mask'][
                    n, group * case.kernel[0] * case.kernel[1] + tap, y, x
                ].item()
            total += (
                mask
                * look_up(tensors['input'][n, c], at_y + image_y, at_x + image_x)
                * look_up(
                    tensors['weight'][o, c - first],
                    i + (case.scope[0] - case.kernel[0]) / 2 + scope_y,
                    j + (case.scope[1] - case.kernel[1]) / 2 + scope_x,
                )
            )
        output[n, o, y, x] = total
    return output


SMALL = [
    Case('dense', batch=1, in_channels=2, out_channels=2, size=(4, 3)),
    Case(
        'everything',
        batch=2,
        in_channels=4,
        out_channels=2,
        groups=2,
        size=(3, 4),
        kernel=(2, 3),
        scope=(3, 5),
        stride=(2, 1),
        padding=(1, 2),
        dilation=(1, 2),
        kernel_offset_groups=4,
        image_offset_groups=2,
        mask_groups=2,
        bias=True,
    ),
    Case('global', batch=2, in_channels=2, out_channels=2, groups=2, size=(3, 3), per_image=True),
]


@pytest.mark.parametrize('case', SMALL, ids=ids(SMALL))
def test_equals_the_equation(case):
    tensors = case.tensors()
    output = reference.deform_kernel2d(**tensors, **case.geometry)
    torch.testing.assert_close(output, by_loops(case, tensors), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('groups', [1, 2, 4])
def test_scope_of_the_kernels_size_is_plain_convolution(groups):
    x = torch.randn(2, 4, 9, 8, dtype=torch.float64)
    weight = torch.randn(8, 4 // groups, 3, 2, dtype=torch.float64)
    output = reference.deform_kernel2d(
        x, weight, kernel_size=(3, 2), stride=(2, 1), padding=(0, 1), dilation=(2, 3)
    )
    expected = F.conv2d(x, weight, None, (2, 1), (0, 1), (2, 3), groups)
    torch.testing.assert_close(output, expected, rtol=1e-12, atol=1e-12)


def test_sample_kernel_equals_the_equation():
    weight = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    offset = 1.5 * torch.randn(2, 12, dtype=torch.float64)
    kernels = reference.sample_kernel(weight, offset, (2, 3))
    for n, o, c, i, j in itertools.product(*(range(size) for size in kernels.shape)):
        dy, dx = offset[n].view(2, 3, 2)[i, j].tolist()
        expected = look_up(weight[o, c], i + 1 + dy, j + 1 + dx)
        assert kernels[n, o, c, i, j].item() == pytest.approx(expected, abs=1e-12)


def test_cases_reach_inside_across_and_outside():
    """The random offsets of the matrix are of every kind, or it would prove little."""
    case = next(case for case in CASES if case.name == 'more_than_a_tile')
    offset = case.tensors()['kernel_offset'].unflatten(1, (9, 2))
    taps = torch.cartesian_prod(torch.arange(3), torch.arange(3))[None, :, :, None, None]
    coordinate = taps + 0.5 + offset
    inside = ((coordinate >= 0) & (coordinate <= 3)).all(2)
    outside = ((coordinate <= -1) | (coordinate >= 4)).any(2)
    across = ~inside & ~outside
    for kind in (inside, outside, across):
        assert kind.float().mean() > 0.05
