"""Which device the tests in this folder run on, and why they cannot."""

import os

import pytest
import torch

from mmdk import ops  # noqa: F401  (loads the operators)

# The tests are proved on the CPU, by test_checks.py: what they ask is right wherever it is asked.
DEVICE = os.environ.get('MMDK_TEST_DEVICE', 'cuda')
IS_GPU = DEVICE != 'cpu'

only_on_a_gpu = pytest.mark.skipif(not IS_GPU, reason='it is about GPUs')


def why_no_gpu() -> str:
    """What is missing for the operators to run on a GPU; '' if nothing is."""
    if not torch.version.cuda:
        return f'the installed PyTorch {torch.__version__} is not built for CUDA'
    if not torch.cuda.is_available():
        return f'PyTorch {torch.__version__} sees no GPU here'
    if not torch._C._dispatch_has_kernel_for_dispatch_key('mmdk::deform_kernel2d', 'CUDA'):
        return 'mmdk was built without CUDA'
    return ''


def skip_without_gpu() -> None:
    """Skip the whole module that calls this."""
    reason = why_no_gpu()
    if IS_GPU and reason:
        pytest.skip(f'no GPU to test on: {reason}', allow_module_level=True)
