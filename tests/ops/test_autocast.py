"""Autocast on the CPU: input, weight and bias in the lower precision, offsets as they come."""

import pytest
import torch
from torch import nn

from mmdk.layers import DeformKernel2d
from mmdk.ops import deform_kernel2d, sample_kernel
from tests.ops.cases import EVERYTHING

HALF = [torch.bfloat16, torch.float16]


def autocasts_to(dtype):
    try:
        with torch.autocast('cpu', dtype):
            return torch.ones(1, 1).mm(torch.ones(1, 1)).dtype == dtype
    except RuntimeError:
        return False


# PyTorch's autocast on the CPU at first knew bfloat16 alone.
skip = pytest.mark.skipif(not autocasts_to(torch.float16), reason='no autocast to float16')
each_half = pytest.mark.parametrize(
    'dtype', [torch.bfloat16, pytest.param(torch.float16, marks=skip)], ids=str
)


@each_half
@pytest.mark.parametrize('offset_dtype', [torch.float32, 'same', 'other'], ids=str)
def test_equals_casting_by_hand(dtype, offset_dtype):
    tensors = EVERYTHING.tensors(dtype=torch.float32)
    other = HALF[1 - HALF.index(dtype)]
    chosen = {'same': dtype, 'other': other}.get(offset_dtype, offset_dtype)
    for name in ('kernel_offset', 'image_offset', 'mask'):
        tensors[name] = tensors[name].to(chosen)
    with torch.autocast('cpu', dtype):
        output = deform_kernel2d(**tensors, **EVERYTHING.geometry)
    by_hand = {
        name: tensor.to(dtype) if name in ('input', 'weight', 'bias') else tensor
        for name, tensor in tensors.items()
    }
    if offset_dtype == 'other':
        by_hand |= {n: by_hand[n].float() for n in ('kernel_offset', 'image_offset', 'mask')}
    assert output.dtype == dtype
    assert torch.equal(output, deform_kernel2d(**by_hand, **EVERYTHING.geometry))


def test_float64_is_left_alone():
    tensors = EVERYTHING.tensors(dtype=torch.float64)
    with torch.autocast('cpu', torch.bfloat16):
        output = deform_kernel2d(**tensors, **EVERYTHING.geometry)
        kernels = sample_kernel(tensors['weight'], torch.zeros(1, 18).double(), 3)
    assert torch.equal(output, deform_kernel2d(**tensors, **EVERYTHING.geometry))
    assert kernels.dtype == torch.float64


@each_half
@pytest.mark.parametrize('offset_dtype', [torch.float32, 'same', 'other'], ids=str)
def test_sample_kernel_equals_casting_by_hand(dtype, offset_dtype):
    other = HALF[1 - HALF.index(dtype)]
    weight = torch.randn(3, 2, 4, 4)
    offset = torch.randn(2, 18).to({'same': dtype, 'other': other}.get(offset_dtype, offset_dtype))
    with torch.autocast('cpu', dtype):
        kernels = sample_kernel(weight, offset, 3)
    assert kernels.dtype == dtype
    by_hand = offset.float() if offset_dtype == 'other' else offset
    assert torch.equal(kernels, sample_kernel(weight.to(dtype), by_hand, 3))


def test_sample_kernel_under_autocast_has_gradients():
    weight = torch.randn(3, 2, 4, 4, requires_grad=True)
    offset = torch.randn(2, 18, requires_grad=True)
    with torch.autocast('cpu', torch.bfloat16):
        kernels = sample_kernel(weight, offset, 3)
    kernels.float().square().sum().backward()
    assert weight.grad.dtype == offset.grad.dtype == torch.float32
    assert weight.grad.any() and offset.grad.any()


@each_half
def test_layer_trains(dtype):
    layer = nn.Sequential(DeformKernel2d(4, 8, 3, padding=1), nn.ReLU(), DeformKernel2d(8, 4, 3))
    x = torch.randn(2, 4, 9, 8)
    with torch.autocast('cpu', dtype):
        output = layer(x)
    assert output.dtype == dtype
    output.float().square().mean().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad.dtype == torch.float32, name
        assert parameter.grad.isfinite().all() and parameter.grad.any(), name
    # The same function, up to rounding.
    exact = layer(x)
    assert (output - exact).norm() < 0.02 * exact.norm()
