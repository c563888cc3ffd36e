"""Every instruction set's kernels pass the test matrix, or at least compile, where that can be."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CAPABILITIES = ['default', 'avx2', 'avx512']


@pytest.mark.slow
@pytest.mark.parametrize('capability', CAPABILITIES)
def test_matrix(capability):
    best = torch.backends.cpu.get_cpu_capability().lower()
    rank = CAPABILITIES.index(best) if best in CAPABILITIES else 0
    if CAPABILITIES.index(capability) > rank:
        pytest.skip(f'this machine has {best}')
    tests = [HERE / 'test_deform_kernel2d.py', HERE / 'test_sample_kernel.py']
    pass_with({'ATEN_CPU_CAPABILITY': capability}, tests)


MKL_TAKES_ITS_BEST = 'int mkl_serv_intel_cpu_true(void) { return 1; }'


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason='preloads a library')
@pytest.mark.skipif(not shutil.which('gcc'), reason='there is no gcc')
def test_threads_with_mkls_best_kernels(tmp_path):
    """MKL asks who made the processor; those it keeps from others once shared sums out."""
    source, library = tmp_path / 'maker.c', tmp_path / 'maker.so'
    source.write_text(MKL_TAKES_ITS_BEST)
    subprocess.run(['gcc', '-shared', '-fPIC', source, '-o', library], check=True)
    tests = [HERE / 'test_deform_kernel2d.py', '-k', 'any_number_of_threads']
    pass_with({'LD_PRELOAD': str(library)}, tests)


def pass_with(environment, tests):
    result = subprocess.run(
        [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', *tests],
        env={**os.environ, **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout[-3000:]


SIMD = sorted((ROOT / 'csrc/cpu/simd').glob('*.cpp'))
CROSS_COMPILER = shutil.which('aarch64-linux-gnu-g++')


@pytest.mark.slow
@pytest.mark.skipif(not CROSS_COMPILER, reason='there is no aarch64-linux-gnu-g++')
@pytest.mark.parametrize('source', SIMD, ids=lambda path: path.name)
def test_compiles_for_aarch64(source):
    """The inner loops need no PyTorch; C++17 is what the oldest PyTorch is compiled as."""
    flags = ['-std=c++17', '-O3', '-fopenmp', '-Wall', '-Wextra', '-Werror', '-I', ROOT / 'csrc']
    command = [CROSS_COMPILER, *flags, '-c', source, '-o', os.devnull]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
