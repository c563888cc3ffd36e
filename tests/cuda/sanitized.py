"""Calls for compute-sanitizer, which slows kernels down a hundredfold: few and small, of each kind.

compute-sanitizer --tool memcheck python -m tests.cuda.sanitized
"""

import sys

import torch

from mmdk.ops import deform_kernel2d, sample_kernel
from tests.cuda.checks import deterministic, results_of, tensors_on
from tests.cuda_emulation.test_operator import WIDE
from tests.ops.cases import CASES, DENSE, DEPTHWISE, EVERYTHING

NAMES = ('dcn', 'depthwise_dcn', 'global', 'global_dcn', 'mask_only', 'prime_sizes', 'wide_136')
SOME = [DENSE, DEPTHWISE, EVERYTHING, *(case for case in CASES + WIDE if case.name in NAMES)]


def main(device: str) -> None:
    """Run forward and backward of each, in every dtype, format and order of sums."""
    for case in [*SOME, *WIDE[:2]]:
        for dtype in (torch.float32, torch.float16, torch.float64):
            for layout in ('contiguous', 'channels_last'):
                tensors = tensors_on(device, case, layout, dtype=dtype)
                for fixed_order in (False, True) if case.image_offset_groups else (False,):
                    # Not poisoned: initcheck is to see what nobody wrote.
                    with deterministic(fixed_order, poisoned=False):
                        results_of(deform_kernel2d, case, tensors)
        print(case.name, flush=True)
    weight = torch.randn(3, 2, 4, 4, device=device, requires_grad=True)
    offset = torch.randn(2, 18, device=device, requires_grad=True)
    sample_kernel(weight, offset, 3).square().sum().backward()
    print('sample_kernel', flush=True)


if __name__ == '__main__':
    main(*sys.argv[1:] or ['cuda'])
