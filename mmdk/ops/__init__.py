"""The operators: `deform_kernel2d` and `sample_kernel`; `reference` defines what they compute."""

from mmdk.ops import (
    _library,  # noqa: F401  (registers torch.ops.mmdk.*)
    reference,
)
from mmdk.ops.functional import deform_kernel2d, sample_kernel

__all__ = ['deform_kernel2d', 'reference', 'sample_kernel']
