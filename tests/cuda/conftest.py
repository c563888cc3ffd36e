import os

import pytest
import torch


@pytest.fixture(autouse=True)
def _no_tf32():
    """float32 is compared as float32; the GPU's libraries would round it to 10 bits."""
    backends = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = False
    yield
    for backend, allowed in zip(backends, before, strict=True):
        backend.allow_tf32 = allowed


@pytest.fixture(autouse=True)
def _ends_with_the_gpu_well():
    """A kernel that fails is reported with the test that launched it.

    After an access out of bounds nothing runs in the process any more: all further tests would fail
    for a reason that is not theirs.
    """
    yield
    if not torch.cuda.is_initialized():
        return
    try:
        torch.cuda.synchronize()
    except RuntimeError as error:
        test = os.environ['PYTEST_CURRENT_TEST']
        pytest.exit(f'the GPU gave up in {test}; no further test was run: {error}', returncode=1)
