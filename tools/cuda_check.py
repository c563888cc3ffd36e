"""Compile the CUDA kernels for every architecture and check what came out; `make cuda-check`.

Nothing is run, so no GPU is needed: nvcc compiles each csrc/cuda/*.cu against the headers of the
installed PyTorch, which may be one for the CPU, and nvdisasm shows the instructions. Refused are
- a warning, of nvcc, ptxas or the host's compiler;
- a spilled register, or a stack frame;
- arithmetic in double precision in a kernel none of whose template arguments is double;
- a global or shared atomic in a kernel that has neither `atomic` nor `scatter` in its name: sums
  are to have one order;
- a function that was not inlined into its kernel;
- a number unlike the one in benchmarks/results/cuda_kernels.json; --update writes that file.

Environment variables: CUDA_HOME (the toolkit, otherwise looked for in PATH), MAX_JOBS (compilers
at a time, 2 unless set).
"""

import argparse
import dataclasses
import inspect
import json
import os
import re
import shutil
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch.utils import cpp_extension

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / 'csrc' / 'cuda'
TABLE = ROOT / 'benchmarks' / 'results' / 'cuda_kernels.json'
ARCHITECTURES = [75, 80, 86, 90, 100]
UPDATE = 'make cuda-check CUDA_CHECK_ARGS=--update'

LOADS_OF_16_BYTES = re.compile(r'LDG(STS)?\..*\b(128|256)\b')
FP64 = re.compile(r'D(ADD|MUL|FMA|MMA|MNMX|SET|SETP)\b|.*\.F64\b|MUFU\..*64H\b')
ATOMICS = re.compile(r'(ATOM|ATOMG|ATOMS|RED|REDG|SUATOM|SURED|UBLKRED|UTMAREDG)\b')


@dataclasses.dataclass(frozen=True, order=True)
class Row:
    """A line of the table: what one kernel was compiled to for one architecture."""

    file: str
    kernel: str
    sm: int
    registers: int
    shared_bytes: int  # static ones; what a launch asks for is not known here
    instructions: int
    loads_of_16_bytes: int
    fp64: int
    atomics: int

    def place(self) -> str:
        return f'{self.file}: {self.kernel}, sm_{self.sm}'


@dataclasses.dataclass
class Usage:
    """What ptxas says of a function; registers and shared memory of kernels alone."""

    stack: int = 0
    spill_stores: int = 0
    spill_loads: int = 0
    registers: int | None = None
    shared_bytes: int = 0


@dataclasses.dataclass
class Result:
    """What compiling one file for one architecture gave."""

    rows: list[Row]
    problems: list[str]


@dataclasses.dataclass(frozen=True)
class Tools:
    nvcc: str
    release: str  # of nvcc, such as 13.0.88
    nvdisasm: str
    filt: str


@dataclasses.dataclass(frozen=True)
class Task:
    sources: list[Path]
    architectures: list[int]
    left_out: list[int]  # architectures that this nvcc does not know
    everything: bool  # neither files nor architectures were named

    def covers(self, row: Row) -> bool:
        named = self.everything or row.file in {path.name for path in self.sources}
        return named and row.sm in self.architectures


def main() -> None:
    """Compile, print what came out, and compare it with the table or write that."""
    options = parse_options()
    nvcc = find_nvcc()
    if not nvcc and options.if_available:
        print('CUDA kernels: NOT checked, there is no nvcc here.')
        return
    tools = find_tools(nvcc)
    task = choose_task(options, architectures_of(tools.nvcc))
    results = compile_all(task, tools)
    rows = sorted(row for result in results for row in result.rows)
    problems = [problem for result in results for problem in result.problems] + same_names(rows)
    summarize(rows, task, tools)
    if problems:
        print(f'{options.table.name} was left alone: first, what is below has to be mended.')
    elif options.update:
        update(options.table, rows, task, tools)
    else:
        problems = compare(options.table, rows, task, tools)
    if problems:
        raise SystemExit('\n'.join(['', *(f'error: {problem}' for problem in problems)]))


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('sources', nargs='*', type=Path, help='default: all of csrc/cuda/*.cu')
    parser.add_argument('--arch', action='append', type=int, help=f'default: {ARCHITECTURES}')
    parser.add_argument('--update', action='store_true', help='write what was compiled')
    parser.add_argument('--if-available', action='store_true', help='no nvcc is no error')
    parser.add_argument('--table', type=Path, default=TABLE)
    return parser.parse_args()


def choose_task(options: argparse.Namespace, known: set[int]) -> Task:
    sources = options.sources or sorted(SOURCES.glob('*.cu'))
    if not sources:
        raise SystemExit(f'error: there is no .cu file in {SOURCES}, so nothing was checked.')
    wanted = options.arch or ARCHITECTURES
    if not known.intersection(wanted):
        raise SystemExit(f'error: this nvcc knows none of {wanted}; it knows {sorted(known)}.')
    return Task(
        sources=sources,
        architectures=[sm for sm in wanted if sm in known],
        left_out=[sm for sm in wanted if sm not in known],
        everything=not options.sources and not options.arch,
    )


# tools


def find_nvcc() -> str | None:
    home = os.environ.get('CUDA_HOME') or os.environ.get('CUDA_PATH')
    if home:
        return shutil.which('nvcc', path=Path(home, 'bin'))
    return shutil.which('nvcc') or shutil.which('nvcc', path='/usr/local/cuda/bin')


def find_tools(nvcc: str | None) -> Tools:
    if not nvcc:
        home = os.environ.get('CUDA_HOME') or os.environ.get('CUDA_PATH')
        raise SystemExit(
            f'error: there is no nvcc {f"in {home}/bin" if home else "in PATH"}. Install the '
            'compiler of the CUDA toolkit 12 or newer, no GPU needed (apt install '
            'cuda-nvcc-13-0 cuda-cudart-dev-13-0, from the CUDA repository), and have CUDA_HOME '
            'name its folder. Where there is none to be had: --if-available.'
        )
    version = subprocess.run([nvcc, '--version'], capture_output=True, text=True, check=True)
    return Tools(
        nvcc=nvcc,
        release=re.search(r'\bV(\d+\.\d+\.\d+)', version.stdout)[1],
        nvdisasm=find_nvdisasm(nvcc),
        filt=shutil.which('c++filt') or missing('c++filt', 'apt install binutils'),
    )


def find_nvdisasm(nvcc: str) -> str:
    packages = Path(sysconfig.get_paths()['purelib'])
    installed = [path.as_posix() for path in packages.glob('nvidia/*/bin/nvdisasm')]
    return (
        next(iter(installed), None)
        or shutil.which('nvdisasm', path=Path(nvcc).parent)
        or shutil.which('nvdisasm')
        or missing('nvdisasm', 'pip install -r requirements/cuda-check.txt')
    )


def missing(tool: str, cure: str) -> str:
    raise SystemExit(f'error: {tool} is missing: {cure}')


def architectures_of(nvcc: str) -> set[int]:
    listed = subprocess.run([nvcc, '--list-gpu-code'], capture_output=True, text=True, check=True)
    return {int(sm) for sm in re.findall(r'^sm_(\d+)$', listed.stdout, re.MULTILINE)}


# compiling


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
        f'-I{ROOT / "csrc"}',
        *(flag for path in cpp_extension.include_paths() for flag in ('-isystem', path)),
    ]


def language() -> str:
    """The C++ that PyTorch's headers are written in: the newest that its build tools name."""
    return max(re.findall(r'-std=(c\+\+\d\d)', inspect.getsource(cpp_extension)))


def run(command: list) -> tuple[int, str]:
    result = subprocess.run(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return result.returncode, result.stdout


def messages(output: str) -> list[str]:
    """What nvcc prints beside the resources of each function: warnings and errors."""
    resources = r'ptxas info|\s+\d+ bytes stack frame'
    rest = [line for line in output.splitlines() if not re.match(resources, line)]
    text = '\n'.join(rest).strip()
    return [text[:3000]] if text else []


# what came out


def parse_ptxas(output: str) -> dict[str, Usage]:
    """Resources of each function, by its mangled name."""
    usages: dict[str, Usage] = {}
    entry = function = ''
    for line in output.splitlines():
        if match := re.search(r"Compiling entry function '(\S+)'", line):
            entry = match[1]
        elif match := re.search(r'Function properties for (\S+)', line):
            function = match[1]
        elif match := re.search(
            r'(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads', line
        ):
            usages[function] = Usage(*(int(number) for number in match.groups()))
        elif match := re.search(r'Used (\d+) registers', line):
            usages[entry].registers = int(match[1])
            shared = re.search(r'(\d+) bytes smem', line)
            usages[entry].shared_bytes = int(shared[1]) if shared else 0
    return usages


def parse_sass(text: str) -> dict[str, list[str]]:
    """Operation codes of each function, by its mangled name, without the padding behind it."""
    functions: dict[str, list[str]] = {}
    for line in text.splitlines():
        if match := re.match(r'//-+ \.text\.(\S+)\s+-+', line):
            functions[match[1]] = codes = []
        elif match := re.match(r'\s*/\*[0-9a-f]{4,}\*/\s+(?:@\S+\s+)?([A-Z][\w.]*)', line):
            if match[1] != 'NOP':
                codes.append(match[1])
    return functions


def demangle(filt: str, names: Iterable[str]) -> dict[str, str]:
    mangled = sorted(set(names))
    result = subprocess.run(
        [filt], input='\n'.join(mangled), capture_output=True, text=True, check=True
    )
    return {
        name: readable(full) for name, full in zip(mangled, result.stdout.splitlines(), strict=True)
    }


def readable(demangled: str) -> str:
    """The name and template arguments: no result, parameters, nor namespaces of ours."""
    name = without_parameters(demangled).removeprefix('void ')
    return re.sub(r'\(anonymous namespace\)::|\b(mmdk|cuda|c10)::', '', name)


def without_parameters(demangled: str) -> str:
    if not demangled.endswith(')'):
        return demangled
    depth = 0
    for index in range(len(demangled) - 1, -1, -1):
        depth += {')': 1, '(': -1}.get(demangled[index], 0)
        if depth == 0:
            return demangled[:index]
    return demangled


def inspect_cubin(
    cubin: Path, source: Path, sm: int, usages: dict[str, Usage], tools: Tools, result: Result
) -> None:
    """Add the kernels in the cubin, and what is wrong with them, to the result."""
    status, text = run([tools.nvdisasm, '-c', cubin])
    if status:
        result.problems.append(f'nvdisasm failed: {text}')
        return
    sass = parse_sass(text)
    names = demangle(tools.filt, usages.keys() | sass.keys())
    for mangled, name in names.items():
        usage, codes = usages.get(mangled, Usage()), sass.get(mangled, [])
        result.problems += [f'{name}: {problem}' for problem in refused(name, usage, codes)]
        if usage.registers is not None:
            result.rows.append(row(source.name, name, sm, usage, codes))


def refused(name: str, usage: Usage, codes: list[str]) -> list[str]:
    problems = spills(usage) + refused_instructions(name, codes)
    if not codes:
        problems.append('nvdisasm shows no instructions of it')
    elif usage.registers is None:
        problems.append('a function that was not inlined into its kernel')
    return problems


def row(file: str, kernel: str, sm: int, usage: Usage, codes: list[str]) -> Row:
    return Row(
        file=file,
        kernel=kernel,
        sm=sm,
        registers=usage.registers,
        shared_bytes=usage.shared_bytes,
        instructions=len(codes),
        loads_of_16_bytes=len(matching(LOADS_OF_16_BYTES, codes)),
        fp64=len(matching(FP64, codes)),
        atomics=len(matching(ATOMICS, codes)),
    )


def spills(usage: Usage) -> list[str]:
    found = {
        'of stack frame': usage.stack,
        'of spill stores': usage.spill_stores,
        'of spill loads': usage.spill_loads,
    }
    text = ', '.join(f'{count} bytes {what}' for what, count in found.items() if count)
    return [f'{text}; all is to be in registers'] if text else []


def refused_instructions(name: str, codes: list[str]) -> list[str]:
    function, _, arguments = name.partition('<')
    problems = []
    fp64 = matching(FP64, codes)
    if fp64 and not re.search(r'\bdouble\b', arguments):
        problems.append(
            f'{counted(fp64)} in double precision, though none of its template arguments is double'
        )
    atomics = matching(ATOMICS, codes)
    if atomics and not re.search('atomic|scatter', function):
        problems.append(
            f'{counted(atomics)}, atomic; only a kernel named for it (atomic, scatter) may'
        )
    return problems


def matching(pattern: re.Pattern, codes: list[str]) -> list[str]:
    return [code for code in codes if pattern.match(code)]


def counted(codes: list[str]) -> str:
    return ', '.join(f'{codes.count(code)} {code}' for code in sorted(set(codes)))


# the table


def same_names(rows: list[Row]) -> list[str]:
    places = [row.place() for row in rows]
    return [
        f'{place}: several kernels of this name; give each its own'
        for place in sorted(set(places))
        if places.count(place) > 1
    ]


def compare(path: Path, rows: list[Row], task: Task, tools: Tools) -> list[str]:
    """Name each difference; with other releases, only which kernels there are is compared."""
    if not path.exists():
        return [f'there is no {path}; write it with --update']
    table = json.loads(path.read_text())
    expected = {row.place(): row for row in read_rows(table) if task.covers(row)}
    found = {row.place(): row for row in rows}
    problems = [f'{place}: is not in the table' for place in found if place not in expected]
    problems += [
        f'{place}: in the table, but not compiled' for place in expected if place not in found
    ]
    if releases(tools) == recorded(table):
        same = [place for place in found if place in expected]
        problems += [text for place in same for text in differences(found[place], expected[place])]
    else:
        print(
            f'Numbers NOT compared with {path.name}, only names: the table is of '
            f'{in_words(recorded(table))}, this is {in_words(releases(tools))}.'
        )
    if problems:
        problems.append(f'{path.name} differs; if that is meant: {UPDATE}')
    return problems


def differences(found: Row, expected: Row) -> list[str]:
    return [
        f'{found.place()}: {field.name.replace("_", " ")}: {getattr(found, field.name)}, '
        f'in the table {getattr(expected, field.name)}'
        for field in dataclasses.fields(Row)
        if getattr(found, field.name) != getattr(expected, field.name)
    ]


def update(path: Path, rows: list[Row], task: Task, tools: Tools) -> None:
    """Write what was compiled; lines of what was not named stay."""
    kept = []
    if path.exists() and not task.everything:
        table = json.loads(path.read_text())
        kept = [row for row in read_rows(table) if not task.covers(row)]
        if kept and releases(tools) != recorded(table):
            raise SystemExit(
                f'error: {path.name} is of {in_words(recorded(table))}, this is '
                f'{in_words(releases(tools))}: write all of it, naming no file or architecture.'
            )
    lines = ',\n'.join(f'  {json.dumps(dataclasses.asdict(row))}' for row in sorted(rows + kept))
    head = json.dumps({'command': UPDATE, **releases(tools)}, indent=1).removesuffix('\n}')
    path.write_text(f'{head},\n "kernels": [\n{lines}\n ]\n}}\n')
    print(f'{path.name}: {len(rows)} lines written, {len(kept)} kept.')


def read_rows(table: dict) -> list[Row]:
    return [Row(**row) for row in table['kernels']]


def releases(tools: Tools) -> dict[str, str]:
    return {'nvcc': tools.release, 'torch': torch.__version__}


def recorded(table: dict) -> dict[str, str]:
    return {name: table[name] for name in ('nvcc', 'torch')}


def in_words(releases: dict[str, str]) -> str:
    return ' and '.join(f'{name} {release}' for name, release in releases.items())


def summarize(rows: list[Row], task: Task, tools: Tools) -> None:
    architectures = ', '.join(f'sm_{sm}' for sm in task.architectures)
    print(
        f'Compiled {len(task.sources)} files for {architectures} with {in_words(releases(tools))}: '
        f'{len(rows)} kernels, of at most {max((row.registers for row in rows), default=0)} '
        'registers. Nothing was run.'
    )
    if task.left_out:
        print(f'NOT compiled for {task.left_out}, which nvcc {tools.release} does not know.')


if __name__ == '__main__':
    main()
