"""Calls of nvcc: every file for every architecture."""

import dataclasses
import inspect
import os
import re
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from torch.utils import cpp_extension

from cuda_kernels.inspection import Result, Row, inspect_cubin
from cuda_kernels.listings import parse_ptxas
from cuda_kernels.toolkit import Tools, run

CSRC = Path(__file__).resolve().parents[2] / 'csrc'


@dataclasses.dataclass(frozen=True)
class Task:
    sources: list[Path]
    architectures: list[int]
    left_out: list[int]  # architectures that this nvcc does not know
    everything: bool  # neither files nor architectures were named

    def covers(self, row: Row) -> bool:
        named = self.everything or row.file in {path.name for path in self.sources}
        return named and row.sm in self.architectures


def compile_all(task: Task, tools: Tools) -> list[Result]:
    """A call of nvcc for each file and architecture.

    One for all of a file's architectures would not be faster: it reads the headers and runs the
    compiler anew for each of them, in turn.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        ThreadPoolExecutor(int(os.environ.get('MAX_JOBS') or 2)) as pool,
    ):
        started = [
            pool.submit(compile_one, source, sm, sm == task.architectures[0], tools, Path(folder))
            for sm in task.architectures  # the host's part, with the first, takes longest
            for source in task.sources
        ]
        return [job.result() for job in started]


def compile_one(source: Path, sm: int, with_host: bool, tools: Tools, folder: Path) -> Result:
    began = time.monotonic()
    own = folder / f'{source.stem}.{sm}'
    own.mkdir()
    # The host's part makes an object; nvcc is to keep the cubin that it puts into it.
    kind = ['-c', '-o', own / 'object.o', '--keep', '--keep-dir', own]
    if not with_host:
        kind = ['-cubin', '-o', own / 'only.cubin']
    architecture = f'-gencode=arch=compute_{sm},code=sm_{sm}'
    status, output = run([tools.nvcc, *flags(), architecture, *kind, source])
    result = Result([], messages(output))
    if status:
        result.problems = result.problems or [f'nvcc ended with status {status}']
    else:
        (cubin,) = own.glob('*.cubin')
        inspect_cubin(cubin, source, sm, parse_ptxas(output), tools, result)
    seconds, host = time.monotonic() - began, ', host part too' if with_host else ''
    place = f'{source.name}, sm_{sm}'
    print(f'{seconds:6.1f} s  {place}: {len(result.rows)} kernels{host}', flush=True)
    return Result(result.rows, [f'{place}: {problem}' for problem in result.problems])


def flags() -> list[str]:
    """What PyTorch's own build of an extension passes, and no mercy for warnings."""
    include = Path(cpp_extension.include_paths()[0])
    # Written by a build for CUDA only, and told nothing that matters here.
    if not (include / 'c10/cuda/impl/cuda_cmake_macros.h').exists():
        configured = ['-DC10_CUDA_NO_CMAKE_CONFIGURE_FILE']
    else:
        configured = []
    return [
        '-O3',
        f'-std={language()}',
        *cpp_extension.COMMON_NVCC_FLAGS,
        *configured,
        *('--Werror', 'all-warnings', '-Xptxas', '-v,--warning-as-error'),
        *('-Xcompiler', '-fPIC,-Wall,-Wextra,-Werror'),
        f'-I{CSRC}',
        *(flag for path in cpp_extension.include_paths() for flag in ('-isystem', path)),
    ]


def language() -> str:
    """The C++ that PyTorch's headers are written in: the newest that its build tools name."""
    return max(re.findall(r'-std=(c\+\+\d\d)', inspect.getsource(cpp_extension)))


def messages(output: str) -> list[str]:
    """What nvcc prints beside the resources of each function: warnings and errors."""
    resources = r'ptxas info|\s+\d+ bytes stack frame'
    rest = [line for line in output.splitlines() if not re.match(resources, line)]
    text = '\n'.join(rest).strip()
    return [text[:3000]] if text else []
