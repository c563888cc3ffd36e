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
from pathlib import Path

from cuda_kernels.compiling import Task, compile_all
from cuda_kernels.inspection import Row
from cuda_kernels.table import compare, in_words, releases, same_names, update
from cuda_kernels.toolkit import Tools, architectures_of, find_nvcc, find_tools

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / 'csrc' / 'cuda'
TABLE = ROOT / 'benchmarks' / 'results' / 'cuda_kernels.json'
ARCHITECTURES = [75, 80, 86, 90, 100]


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
