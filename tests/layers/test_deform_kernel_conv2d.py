"""The layer 'DKDCN' against the definition of the operator."""

import pytest
import torch
import torch.nn.functional as F

from mmdk.layers import DeformKernelConv2d
from mmdk.ops import reference
from tests.layers.family import learnt


@pytest.mark.parametrize('modulated', [False, True])
@pytest.mark.parametrize(
    'args, kwargs',
    [
        ((6, 4, 3), dict(padding=1)),
        ((6, 6, 3), dict(padding=1, groups=6, stride=2)),
        ((6, 4, (1, 3)), dict(groups=2, offset_groups=3, image_offset_groups=2)),
        ((6, 4, 3), dict(padding=2, dilation=2, image_offset_groups=6, scope_size=5)),
    ],
)
def test_forward_is_the_definition(args, kwargs, modulated):
    layer = learnt(DeformKernelConv2d(*args, modulated=modulated, **kwargs)).double()
    x = torch.randn(2, 6, 9, 7, dtype=torch.float64)
    geometry = dict(stride=layer.stride, padding=layer.padding, dilation=layer.dilation)
    predicted = F.conv2d(x, layer.conv_offset.weight, layer.conv_offset.bias, **geometry)
    taps = layer.kernel_size[0] * layer.kernel_size[1]
    in_kernel, in_image = layer.offset_groups * taps * 2, layer.image_offset_groups * taps * 2
    kernel_offset, image_offset = predicted[:, :in_kernel], predicted[:, in_kernel:][:, :in_image]
    logits = predicted[:, in_kernel + in_image :]
    assert logits.shape[1] == (layer.image_offset_groups * taps if modulated else 0)
    expected = reference.deform_kernel2d(
        x,
        layer.weight,
        kernel_offset,
        image_offset,
        2 * torch.sigmoid(logits) if modulated else None,
        layer.bias,
        kernel_size=layer.kernel_size,
        **geometry,
    )
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(layer.kernel_offset(x), kernel_offset)
    torch.testing.assert_close(layer.image_offset(x), image_offset)


def test_only_kernel_offsets_are_clipped():
    layer = learnt(DeformKernelConv2d(4, 4, 3, offset_clip=0.25), scale=3)
    x = torch.randn(1, 4, 8, 8)
    assert layer.kernel_offset(x).abs().max().item() == pytest.approx(0.25)
    assert layer.image_offset(x).abs().max() > 1
