"""Every instruction set's kernels, on a machine that has it, pass the test matrix."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
CAPABILITIES = ['default', 'avx2', 'avx512']


@pytest.mark.slow
@pytest.mark.parametrize('capability', CAPABILITIES)
def test_matrix(capability):
    best = torch.backends.cpu.get_cpu_capability().lower()
    rank = CAPABILITIES.index(best) if best in CAPABILITIES else 0
    if CAPABILITIES.index(capability) > rank:
        pytest.skip(f'this machine has {best}')
    tests = [HERE / 'test_deform_kernel2d.py', HERE / 'test_sample_kernel.py']
    result = subprocess.run(
        [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', *tests],
        env={**os.environ, 'ATEN_CPU_CAPABILITY': capability},
        cwd=HERE.parents[1],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout[-3000:]
