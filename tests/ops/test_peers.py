"""Deformable convolution is a special case: the same numbers as MMCV's operators."""

import pytest
import torch
from mmcv.ops import deform_conv2d, modulated_deform_conv2d

from mmdk.ops import deform_kernel2d

GEOMETRIES = [
    {'stride': 1, 'padding': 1, 'dilation': 1, 'groups': 1, 'offset_groups': 1},
    {'stride': 2, 'padding': 2, 'dilation': 2, 'groups': 2, 'offset_groups': 2},
    {'stride': 1, 'padding': 0, 'dilation': 1, 'groups': 8, 'offset_groups': 4},
]


def make(geometry, dtype=torch.float64):
    groups, offset_groups = geometry['groups'], geometry['offset_groups']
    x = torch.randn(2, 8, 10, 9, dtype=dtype)
    weight = torch.randn(8, 8 // groups, 3, 3, dtype=dtype)
    reach = geometry['dilation'] * 2
    size = [(n + 2 * geometry['padding'] - reach - 1) // geometry['stride'] + 1 for n in (10, 9)]
    offset = 2 * torch.randn(2, offset_groups * 18, *size, dtype=dtype)
    mask = torch.rand(2, offset_groups * 9, *size, dtype=dtype)
    return [t.requires_grad_() for t in (x, offset, mask, weight)]


def gradients(output, leaves):
    generator = torch.Generator().manual_seed(1)
    grad = torch.randn(output.shape, generator=generator, dtype=output.dtype)
    return torch.autograd.grad(output, leaves, grad)


@pytest.mark.parametrize('geometry', GEOMETRIES)
def test_deform_conv2d(geometry):
    x, offset, _, weight = make(geometry)
    g = geometry
    expected = deform_conv2d(
        x, offset, weight, g['stride'], g['padding'], g['dilation'], g['groups'], g['offset_groups']
    )
    output = deform_kernel2d(
        x,
        weight,
        image_offset=offset,
        kernel_size=3,
        stride=g['stride'],
        padding=g['padding'],
        dilation=g['dilation'],
    )
    torch.testing.assert_close(output, expected, rtol=1e-10, atol=1e-10)
    leaves = (x, offset, weight)
    for ours, theirs in zip(gradients(output, leaves), gradients(expected, leaves), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize('geometry', GEOMETRIES)
def test_modulated_deform_conv2d(geometry):
    x, offset, mask, weight = make(geometry)
    bias = torch.randn(8, dtype=torch.float64, requires_grad=True)
    g = geometry
    expected = modulated_deform_conv2d(
        x,
        offset,
        mask,
        weight,
        bias,
        g['stride'],
        g['padding'],
        g['dilation'],
        g['groups'],
        g['offset_groups'],
    )
    output = deform_kernel2d(
        x,
        weight,
        image_offset=offset,
        mask=mask,
        bias=bias,
        kernel_size=3,
        stride=g['stride'],
        padding=g['padding'],
        dilation=g['dilation'],
    )
    torch.testing.assert_close(output, expected, rtol=1e-10, atol=1e-10)
    leaves = (x, offset, mask, weight, bias)
    for ours, theirs in zip(gradients(output, leaves), gradients(expected, leaves), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
