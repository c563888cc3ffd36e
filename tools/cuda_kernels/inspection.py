"""What one file was compiled to: a row for each kernel, and what is refused."""

import dataclasses
import re
from pathlib import Path

from cuda_kernels.listings import Usage, demangle, parse_sass
from cuda_kernels.toolkit import Tools, run

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
class Result:
    """What compiling one file for one architecture gave."""

    rows: list[Row]
    problems: list[str]


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


def refused(name: str, usage: Usage, codes: list[str]) -> list[str]:
    problems = spills(usage) + refused_instructions(name, codes)
    if not codes:
        problems.append('nvdisasm shows no instructions of it')
    elif usage.registers is None:
        problems.append('a function that was not inlined into its kernel')
    return problems


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
