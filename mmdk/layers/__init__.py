"""The layers, and their registration as MMCV conv layers."""

from mmdk.layers import registry  # noqa: F401  (registers the MMCV conv layer types)
from mmdk.layers.deform_kernel2d import DeformKernel2d
from mmdk.layers.lifting import lift_kernel

__all__ = ['DeformKernel2d', 'lift_kernel']
