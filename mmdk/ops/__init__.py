"""The operators: `deform_kernel2d` and `sample_kernel`; `reference` defines what they compute."""

from mmdk.ops import _library  # noqa: F401, I001  (torch.ops.mmdk.*, which the next two need)
from mmdk.ops import batching, flops, reference
from mmdk.ops.functional import deform_kernel2d, sample_kernel

__all__ = ['batching', 'deform_kernel2d', 'flops', 'reference', 'sample_kernel']
