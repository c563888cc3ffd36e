"""The layer 'GlobalDK' against one sampled kernel per image and a grouped convolution."""

import pytest
import torch
import torch.nn.functional as F

from mmdk.layers import GlobalDeformKernel2d
from mmdk.ops import reference
from tests.layers.family import learnt


def sampled(layer, x):
    """Its definition: sample a kernel per image from the pooled features, then convolve."""
    weight, bias = layer.conv_offset.weight[:, :, 0, 0], layer.conv_offset.bias
    offset = F.linear(x.mean((2, 3)), weight, bias)
    kernels = reference.sample_kernel(layer.weight, offset, layer.kernel_size)
    images = zip(x, kernels, strict=True)
    geometry = (layer.bias, layer.stride, layer.padding, layer.dilation, layer.groups)
    return torch.cat([F.conv2d(image[None], kernel, *geometry) for image, kernel in images])


@pytest.mark.parametrize(
    'args, kwargs',
    [
        ((6, 4, 3), dict(padding=1)),
        ((6, 6, 3), dict(padding=1, groups=6, stride=2)),
        ((6, 4, (1, 3)), dict(groups=2, dilation=2, scope_size=(3, 5))),
        ((6, 8, 1), {}),
    ],
)
def test_forward_is_a_sampled_kernel_per_image(args, kwargs):
    layer = learnt(GlobalDeformKernel2d(*args, **kwargs)).double()
    # Images with means of their own: they are all that the generator sees.
    x = torch.randn(3, 6, 9, 11, dtype=torch.float64) + 3 * torch.randn(3, 6, 1, 1)
    leaves = [x.requires_grad_(), *layer.parameters()]
    results = [
        [y, *torch.autograd.grad(y.square().sum(), leaves)] for y in (layer(x), sampled(layer, x))
    ]
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10)
    assert layer.kernel_offset(x).std(0).min() > 0.01


def test_offset_groups():
    layer = learnt(GlobalDeformKernel2d(6, 4, 3, offset_groups=3)).double()
    x = torch.randn(2, 6, 8, 7, dtype=torch.float64)
    offset = layer.kernel_offset(x)
    assert offset.shape == (2, 3 * 18, 1, 1)
    expected = reference.deform_kernel2d(x, layer.weight, offset, bias=layer.bias, kernel_size=3)
    torch.testing.assert_close(layer(x), expected)


def test_images_do_not_see_each_other():
    layer = learnt(GlobalDeformKernel2d(4, 4, 3))
    x = torch.randn(3, 4, 7, 8)
    torch.testing.assert_close(layer(x), torch.cat([layer(image[None]) for image in x]))


def test_padding_is_not_pooled():
    """Reflected borders would count twice in the mean of the image."""
    layer = learnt(GlobalDeformKernel2d(4, 4, 3, padding=2, padding_mode='reflect'))
    unpadded = GlobalDeformKernel2d(4, 4, 3)
    unpadded.load_state_dict(layer.state_dict())
    x = torch.randn(1, 4, 5, 6)
    assert torch.equal(layer.kernel_offset(x), unpadded.kernel_offset(x))


def test_clips_to_the_scope():
    layer = learnt(GlobalDeformKernel2d(4, 4, 3, offset_clip='scope'), scale=9)
    offset = layer.kernel_offset(torch.randn(2, 4, 5, 5)).view(2, 3, 3, 2)
    coordinate = offset + (torch.cartesian_prod(*[torch.arange(3) + 0.5] * 2)).view(3, 3, 2)
    assert coordinate.min().item() == pytest.approx(0, abs=1e-6)
    assert coordinate.max().item() == pytest.approx(3, abs=1e-6)
