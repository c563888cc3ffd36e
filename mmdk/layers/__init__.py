"""The layers, and their registration as MMCV conv layers."""

from mmdk.layers import registry  # noqa: F401  (registers the MMCV conv layer types)
from mmdk.layers.cond_conv2d import CondConv2d
from mmdk.layers.deform_conv2d import DeformConv2d
from mmdk.layers.deform_kernel2d import DeformKernel2d
from mmdk.layers.deform_kernel_conv2d import DeformKernelConv2d
from mmdk.layers.global_deform_kernel2d import GlobalDeformKernel2d
from mmdk.layers.lifting import lift_kernel

__all__ = [
    'CondConv2d',
    'DeformConv2d',
    'DeformKernel2d',
    'DeformKernelConv2d',
    'GlobalDeformKernel2d',
    'lift_kernel',
]
