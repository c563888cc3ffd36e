"""The layer 'DK': its scope, its offsets, and what it computes."""

import pytest
import torch
from torch import nn

from mmdk.layers import DeformKernel2d
from mmdk.ops import reference
from tests.layers.family import learnt


def test_forward_is_the_definition():
    layer = learnt(DeformKernel2d(6, 4, 3, stride=2, padding=1, groups=2, offset_groups=3)).double()
    x = torch.randn(2, 6, 9, 7, dtype=torch.float64)
    offset = nn.functional.conv2d(x, layer.conv_offset.weight, layer.conv_offset.bias, 2, 1)
    assert offset.abs().mean() > 0.2
    expected = reference.deform_kernel2d(
        x, layer.weight, offset, bias=layer.bias, kernel_size=3, stride=2, padding=1
    )
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(layer.kernel_offset(x), offset)


@pytest.mark.parametrize(
    'kernel_size, scope_size, expected',
    [
        (3, None, (4, 4)),
        (1, None, (2, 2)),
        ((1, 5), None, (2, 6)),
        (3, 5, (5, 5)),
        (3, (3, 6), (3, 6)),
    ],
)
def test_scope_size(kernel_size, scope_size, expected):
    layer = DeformKernel2d(2, 3, kernel_size, scope_size=scope_size)
    assert layer.scope_size == expected
    assert layer.weight.shape == (3, 2, *expected)


@pytest.mark.parametrize('clip', [0.3, 2])
def test_clip_to_a_number(clip):
    layer = learnt(DeformKernel2d(2, 2, 3, offset_clip=clip), scale=3)
    offset = layer.kernel_offset(torch.randn(1, 2, 8, 8)).detach()
    assert offset.abs().max() == pytest.approx(clip)
    assert (offset.abs() < clip).any()


def test_clip_to_the_scope():
    """Every coordinate stays between the first and the last cell, height and width apart."""
    layer = learnt(
        DeformKernel2d(4, 4, (3, 2), scope_size=(4, 5), offset_groups=2, offset_clip='scope'),
        scale=5,
    )
    offset = layer.kernel_offset(torch.randn(2, 4, 8, 8)).detach().view(2, 2, 6, 2, 6, 7)
    taps = torch.cartesian_prod(torch.arange(3), torch.arange(2)) + torch.tensor([0.5, 1.5])
    coordinate = offset + taps[None, None, :, :, None, None]
    for axis, last in enumerate((3, 4)):
        assert coordinate[:, :, :, axis].min() == pytest.approx(0, abs=1e-5)
        assert coordinate[:, :, :, axis].max() == pytest.approx(last, abs=1e-5)


def test_clip_to_the_scope_is_no_part_of_the_state():
    clipped = DeformKernel2d(2, 2, 3, offset_clip='scope')
    assert clipped.state_dict().keys() == DeformKernel2d(2, 2, 3).state_dict().keys()


def test_extra_repr_tells_the_whole_configuration():
    text = repr(
        DeformKernel2d(
            4,
            8,
            (3, 1),
            2,
            1,
            3,
            2,
            False,
            'reflect',
            scope_size=(5, 2),
            offset_groups=4,
            offset_clip='scope',
        )
    )
    for part in (
        '4, 8',
        'kernel_size=(3, 1)',
        'scope_size=(5, 2)',
        'stride=(2, 2)',
        'padding=(1, 1)',
        'dilation=(3, 3)',
        'groups=2',
        'bias=False',
        "padding_mode='reflect'",
        'offset_groups=4',
        "offset_clip='scope'",
    ):
        assert part in text


@pytest.mark.parametrize(
    'kwargs, message',
    [
        ({'scope_size': 2}, r'scope_size \(2, 2\) is smaller than kernel_size \(3, 3\)'),
        ({'scope_size': (4, 2)}, r'scope_size \(4, 2\) is smaller'),
        ({'scope_size': 4.5}, 'scope_size must be an int'),
        ({'offset_groups': 3}, 'offset_groups=3 does not divide in_channels=4'),
        ({'offset_groups': 0}, 'offset_groups must be an int of at least 1, got 0'),
        ({'offset_clip': 'image'}, "offset_clip must be None, 'scope' or .*got 'image'"),
        ({'offset_clip': -1}, 'offset_clip must be .*got -1'),
        ({'offset_clip': True}, 'offset_clip must be .*got True'),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        DeformKernel2d(4, 6, 3, **kwargs)
