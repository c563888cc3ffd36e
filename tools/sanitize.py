"""Run the operators' tests with them compiled for GCC's sanitizers; `make sanitize` runs this.

`address` (AddressSanitizer and UndefinedBehaviorSanitizer) reports reads and writes out of bounds,
use after free and undefined arithmetic; `thread` (ThreadSanitizer) reports data races. Each builds
the package in a folder of its own, build/sanitize/..., first shows that planted errors are
reported, then runs the tests; the first report ends them with an error. `emulation` is
ThreadSanitizer for the CUDA kernels, where tests/cuda_emulation runs them: each thread of a block
is a thread to it, ordered by the barriers of the block and of its warp alone.
"""

import argparse
import dataclasses
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import setuptools
from torch.utils import cpp_extension

ROOT = Path(__file__).resolve().parent.parent
HERE = ROOT / 'tests' / 'sanitizers'


@dataclasses.dataclass(frozen=True)
class Sanitizer:
    flags: list[str]
    libraries: list[str]
    environment: dict[str, str]
    planted: dict[str, str]  # call of an operator -> pattern of what is reported
    tests: list[str]
    operators: str = 'import mmdk, torch; torch.ops.mmdk_planted'  # in planted.cpp


SANITIZERS = {
    'address': Sanitizer(
        flags=[
            '-fsanitize=address,undefined',
            '-fno-sanitize-recover=all',
            '-fno-wrapv',  # Python's flags define signed overflow, which then goes unreported
        ],
        libraries=['libasan', 'libubsan'],
        environment={
            # Leaks are not looked for: Python and PyTorch keep much until the process ends.
            'ASAN_OPTIONS': 'detect_leaks=0',
            'UBSAN_OPTIONS': 'print_stacktrace=1',
        },
        planted={
            'out_of_bounds(5)': 'AddressSanitizer: heap-buffer-overflow',
            'overflow(1)': 'runtime error: signed integer overflow',
        },
        # Without the thousands of random cases, which take too long, and another compiler's test.
        tests=['tests/ops', '-k', 'not thousands and not aarch64'],
    ),
    'thread': Sanitizer(
        flags=[
            '-fsanitize=thread',
            *('-fno-openmp', '-fopenmp-simd', '-include', str(HERE / 'threads.h')),
            '-Wno-tsan',  # a fence in PyTorch's headers, which it does not understand
        ],
        libraries=['libtsan'],
        environment={
            # No reports of mutexes: PyTorch's are partly used where the suppressions hide it.
            'TSAN_OPTIONS': 'halt_on_error=1 report_mutex_bugs=0 '
            f'suppressions={HERE / "thread_suppressions.txt"}',
            # More than any machine has to have: threads.h starts as many as PyTorch names.
            'OMP_NUM_THREADS': '4',
        },
        planted={'race(4)': 'ThreadSanitizer: data race'},
        tests=['tests/ops/test_deform_kernel2d.py', 'tests/ops/test_sample_kernel.py'],
    ),
    'emulation': Sanitizer(
        flags=[],
        libraries=['libtsan'],
        environment={
            'TSAN_OPTIONS': 'halt_on_error=1 report_mutex_bugs=0 '
            f'suppressions={HERE / "thread_suppressions.txt"}',
            'OMP_NUM_THREADS': '1',
            'EMULATION_SANITIZER': 'thread',
            'PYTHONPATH': str(ROOT),
        },
        planted={
            'missing_barrier(torch.zeros(64))': r'ThreadSanitizer: data race(.|\n)*planted\.cu:\d'
        },
        tests=[
            'tests/cuda_emulation/test_operator.py',
            '-k',
            '(test_float64 and 1 or fixed_order) and '
            '(everything or wide_8 or dense_dcn or global_dcn)',
        ],
        # The emulator's own search for races would be first.
        operators='from tests.cuda_emulation import emulator; import torch; emulator.load(); '
        'torch.ops.mmdk_emulation.watch_for_races(False); torch.ops.mmdk_emulation',
    ),
}


def main() -> None:
    """Build, prove and test with one sanitizer or all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--only', choices=SANITIZERS)
    parser.add_argument('pytest_args', nargs='*', help='more arguments for pytest, after --')
    options = parser.parse_args()
    os.chdir(ROOT)
    for name in [options.only] if options.only else SANITIZERS:
        sanitizer, folder = SANITIZERS[name], Path('build', 'sanitize', name)
        if name == 'emulation':
            build_emulation(folder)
        else:
            build(sanitizer, folder)
        environment = {**os.environ, **sanitizer.environment, **preload(sanitizer)}
        prove(sanitizer, folder, environment)
        test(sanitizer, folder, environment, options.pytest_args)


def build(sanitizer: Sanitizer, folder: Path) -> None:
    """Build a copy of the package with setup.py's own sources and options, and ours."""
    spec = importlib.util.spec_from_file_location('mmdk_setup', ROOT / 'setup.py')
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    extension = recipe.cpu_operators(cpp_extension)  # GCC's sanitizers see no GPU
    extension.sources.append((HERE / 'planted.cpp').relative_to(ROOT).as_posix())
    extension.extra_compile_args += ['-O1', '-g', '-fno-omit-frame-pointer', *sanitizer.flags]
    extension.extra_link_args += sanitizer.flags[:1]
    setuptools.setup(
        ext_modules=[extension],
        cmdclass={
            'build_ext': recipe.building_command(cpp_extension),
            'build_py': recipe.BuildPython,
        },
        script_args=['-q', 'build', f'--build-base={folder}', f'--build-lib={folder}'],
    )


def build_emulation(folder: Path) -> None:
    """Build the emulator with the CUDA kernels, which tests then find; the folder is empty."""
    sys.path.insert(0, str(ROOT))
    from tests.cuda_emulation import emulator

    folder.mkdir(parents=True, exist_ok=True)
    emulator.build('thread')


def preload(sanitizer: Sanitizer) -> dict[str, str]:
    """Python is not compiled for the sanitizer, so its runtime has to be loaded before all else."""
    compiler = shlex.split(os.environ.get('CXX', 'c++'))
    # libstdc++ as well: the sanitizer looks up the real __cxa_throw when it starts.
    names = [f'{library}.so' for library in (*sanitizer.libraries, 'libstdc++')]
    paths = [
        subprocess.check_output([*compiler, f'-print-file-name={name}'], text=True).strip()
        for name in names
    ]
    return {'LD_PRELOAD': os.pathsep.join(paths)}


def prove(sanitizer: Sanitizer, folder: Path, environment: dict[str, str]) -> None:
    """See each planted error reported: were it not, a clean run would mean nothing."""
    for call, report in sanitizer.planted.items():
        code = f'{sanitizer.operators}.{call}'
        result = subprocess.run(
            [sys.executable, '-c', code],
            env=environment,
            cwd=folder,  # where Python looks first
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if result.returncode == 0 or not re.search(report, result.stdout):
            raise SystemExit(
                f'error: the planted {call} was not reported as "{report}", so the tests would '
                f'prove nothing. Exit status {result.returncode}:\n{result.stdout[-5000:]}'
            )
        print(f'planted error reported: {report}', flush=True)


def test(sanitizer: Sanitizer, folder: Path, environment: dict[str, str], more: list[str]) -> None:
    """Run the tests on the package in the folder; their own subprocesses use it too."""
    # --capture=sys: the sanitizer writes its report to the file descriptor, which stays visible.
    options = f'--capture=sys -p no:cacheprovider -o "pythonpath={folder} ."'
    result = subprocess.run(
        [sys.executable, '-m', 'pytest', *sanitizer.tests, *more],
        env={**environment, 'PYTEST_ADDOPTS': options},
    )
    if result.returncode:
        raise SystemExit(f'error: the tests failed under the {folder.name} sanitizer, see above.')


if __name__ == '__main__':
    main()
