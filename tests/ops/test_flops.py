"""What FLOP counters say of the operators, against numbers worked out by hand."""

import pytest
import torch
from mmengine.analysis import ActivationAnalyzer, FlopAnalyzer
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mmdk.layers import DeformKernel2d
from mmdk.ops import deform_kernel2d, sample_kernel
from tests.ops.cases import Case

# C_in = 6, C_out = 4, 77 positions an image, 9 taps, 16 cells, unless a case says otherwise.
DEPTHWISE = dict(in_channels=6, out_channels=6, groups=6)
DCN = dict(kernel_offset_groups=0, scope=(3, 3))

# Multiply-adds of one image; then of the backward for the gradients of all arguments.
#   look x up, mask, look W up, product
EXPECTED = [
    (Case('plain', **DCN), 0, 0, 0, 9 * 24 * 77),
    (Case('grouped', groups=2, **DCN), 0, 0, 0, 9 * 12 * 77),
    (Case('even_scope', kernel_offset_groups=0, scope=(5, 5)), 0, 0, 0, 9 * 24 * 77),
    (Case('dense'), 0, 0, 4 * 9 * 6 * 77, 16 * 24 * 77),
    (Case('dense_grouped', groups=2), 0, 0, 4 * 9 * 6 * 77, 16 * 12 * 77),
    (Case('offset_groups', kernel_offset_groups=3), 0, 0, 4 * 9 * 6 * 77, 16 * 24 * 77),
    (Case('depthwise', **DEPTHWISE), 0, 0, 4 * 9 * 6 * 77, 9 * 6 * 77),
    (Case('per_image', per_image=True), 0, 0, 4 * 9 * 24, 9 * 24 * 77),
    (Case('per_image_depthwise', per_image=True, **DEPTHWISE), 0, 0, 4 * 9 * 6, 9 * 6 * 77),
    (Case('dcn', image_offset_groups=1, **DCN), 4 * 9 * 6 * 77, 0, 0, 9 * 24 * 77),
    (
        Case('dcnv2', image_offset_groups=2, mask_groups=2, **DCN),
        4 * 9 * 6 * 77,
        9 * 6 * 77,
        0,
        9 * 24 * 77,
    ),
    (
        Case('all', image_offset_groups=1, mask_groups=1, bias=True),
        4 * 9 * 6 * 77,
        9 * 6 * 77,
        4 * 9 * 6 * 77,
        16 * 24 * 77,
    ),
    (Case('strided', stride=(2, 3)), 0, 0, 4 * 9 * 6 * 16, 16 * 24 * 16),
    (Case('kernel_1x3', kernel=(1, 3), scope=(2, 5), padding=(0, 1)), 0, 0, 5544, 10 * 24 * 77),
    (Case('one_pixel', size=(3, 3), padding=(0, 0)), 0, 0, 4 * 9 * 6, 16 * 24),
]
each = pytest.mark.parametrize(
    'case, image, mask, kernel, product', EXPECTED, ids=[case.name for case, *_ in EXPECTED]
)


def counted(function, *arguments):
    """PyTorch's count of mmdk's operators, by name."""
    with FlopCounterMode(display=False) as counter:
        function(*arguments)
    counts = counter.get_flop_counts().get('Global', {})
    return {str(op).removeprefix('mmdk.'): n for op, n in counts.items() if 'mmdk' in str(op)}


def leaves_of(case, wanted=None):
    return {
        name: tensor.requires_grad_(wanted is None or name in wanted)
        for name, tensor in case.tensors().items()
    }


class Call(nn.Module):
    """Keyword arguments by position, as a trace needs them."""

    def __init__(self, case):
        super().__init__()
        self.case, self.names = case, list(case.tensors())

    def forward(self, *tensors):
        named = dict(zip(self.names, tensors, strict=True))
        return deform_kernel2d(**named, **self.case.geometry)


@each
def test_forward(case, image, mask, kernel, product):
    expected = case.batch * (image + mask + kernel + product)
    tensors = case.tensors()
    count = counted(lambda: deform_kernel2d(**tensors, **case.geometry))
    assert count == {'deform_kernel2d': 2 * expected}
    assert FlopAnalyzer(Call(case), tuple(tensors.values())).total() == expected


@each
def test_backward_of_all(case, image, mask, kernel, product):
    """Everything twice, once for each operand, and the look-ups and the mask once more."""
    leaves = leaves_of(case)
    output = deform_kernel2d(**leaves, **case.geometry)
    count = counted(lambda: output.sum().backward())
    expected = case.batch * (3 * (image + mask + kernel) + 2 * product)
    assert count == {'deform_kernel2d_backward': 2 * expected}


X, M, B, Z = 4 * 9 * 6 * 77, 9 * 6 * 77, 4 * 9 * 6 * 77, 16 * 24 * 77
BACKWARD = {
    # Z again, and its product with the output's gradient.
    'weight': X + M + B + Z,
    # The gradient of Z, then through all look-ups to x.
    'input': Z + B + M + X,
    'image_offset': Z + B + M + X,
    # The gradient of Z and the masked x again.
    'kernel_offset': Z + B + M + X,
    # The gradient of the masked x, and x again.
    'mask': Z + B + M + X,
    'bias': 0,
}


@pytest.mark.parametrize('name', BACKWARD)
def test_backward_of_one(name):
    case = Case('all', batch=1, image_offset_groups=1, mask_groups=1, bias=True)
    output = deform_kernel2d(**leaves_of(case, [name]), **case.geometry)
    count = counted(lambda: output.sum().backward())
    assert count == {'deform_kernel2d_backward': 2 * BACKWARD[name]}


def test_backward_of_one_depthwise():
    tapped = 9 * 6 * 77
    case = Case('depthwise', batch=1, **DEPTHWISE)
    for name, expected in {
        'weight': (1 + 4) * tapped,  # the kernels' gradient, spread over the scope
        'kernel_offset': (1 + 4) * tapped,
        'input': (4 + 1) * tapped,  # the kernels again, times the output's gradient
    }.items():
        output = deform_kernel2d(**leaves_of(case, [name]), **case.geometry)
        count = counted(lambda output=output: output.sum().backward())
        assert count == {'deform_kernel2d_backward': 2 * expected}, name


def test_no_offsets_but_taps_between_cells():
    """The scope is sampled once for the whole batch."""
    case = Case('rigid', kernel_offset_groups=0, batch=3)
    tensors = case.tensors()
    count = counted(lambda: deform_kernel2d(**tensors, **case.geometry))
    assert count == {'deform_kernel2d': 2 * (4 * 9 * 24 + 3 * 9 * 24 * 77)}


def test_empty_batch():
    tensors = Case('empty', batch=0).tensors()
    count = counted(lambda: deform_kernel2d(**tensors, kernel_size=3, padding=1))
    assert count == {'deform_kernel2d': 0}


def test_without_offsets_it_is_a_convolution():
    x = torch.randn(2, 6, 7, 11, requires_grad=True)
    weight = torch.randn(4, 6, 3, 3, requires_grad=True)

    def total(function):
        with FlopCounterMode(display=False) as counter:
            function(x, weight).sum().backward()
        return counter.get_total_flops()

    ours = total(lambda x, w: deform_kernel2d(x, w, kernel_size=3, stride=2, dilation=2))
    assert ours == total(lambda x, w: nn.functional.conv2d(x, w, stride=2, dilation=2)) > 0


def test_sample_kernel():
    weight, offset = torch.randn(5, 2, 4, 4), torch.randn(3, 18)
    look_ups = 3 * 5 * 2 * 9
    assert counted(sample_kernel, weight, offset, 3) == {'sample_kernel': 2 * 4 * look_ups}
    for wanted in ((True, False), (False, True), (True, True)):
        weight.requires_grad_(wanted[0])
        offset.requires_grad_(wanted[1])
        kernels = sample_kernel(weight, offset, 3)
        count = counted(lambda kernels=kernels: kernels.sum().backward())
        assert count == {'sample_kernel_backward': 2 * 4 * look_ups * sum(wanted)}

    class Sample(nn.Module):
        def forward(self, weight, offset):
            return sample_kernel(weight, offset, 3)

    analyzer = FlopAnalyzer(Sample(), (weight.detach(), offset.detach()))
    assert analyzer.total() == 4 * look_ups


def test_layer_is_its_operator_and_its_offset_convolution():
    layer = DeformKernel2d(6, 4, 3, padding=1)
    x = torch.randn(1, 6, 7, 11)
    convolution = 9 * 6 * 18 * 77
    operator = (4 * 9 * 6 + 16 * 24) * 77
    with FlopCounterMode(display=False) as counter:
        layer(x)
    assert counter.get_total_flops() == 2 * (convolution + operator)
    by_operator = FlopAnalyzer(layer, x).by_operator()
    assert by_operator == {'conv': convolution, 'deform_kernel2d': operator}
    # As of a convolution, MMEngine counts the outputs as activations.
    activations = ActivationAnalyzer(layer, x).by_operator()
    assert activations == {'conv': 18 * 77, 'deform_kernel2d': 4 * 77}


def test_shapes_alone_can_be_counted():
    """As on a machine that cannot hold the data."""
    layer = DeformKernel2d(6, 4, 3, padding=1, device='meta')
    count = counted(layer, torch.randn(1, 6, 700, 1100, device='meta'))
    assert count == {'deform_kernel2d': 2 * (4 * 9 * 6 + 16 * 24) * 700 * 1100}
