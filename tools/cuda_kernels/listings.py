"""What ptxas, nvdisasm and c++filt print, as Python objects."""

import dataclasses
import re
import subprocess
from collections.abc import Iterable


@dataclasses.dataclass
class Usage:
    """What ptxas says of a function; registers and shared memory of kernels alone."""

    stack: int = 0
    spill_stores: int = 0
    spill_loads: int = 0
    registers: int | None = None
    shared_bytes: int = 0


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
