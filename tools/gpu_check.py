"""Test and time mmdk on a GPU and write one report to attach to an issue; `make gpu-check`.

The parts are the tests in tests/cuda, of numbers and of streams, graphs and devices; small calls
under each tool of compute-sanitizer (where that is in PATH or in CUDA_HOME); and benchmarks/gpu.py.
A part that fails stops none of the others. The exit status is 0 if all parts that could be run
passed, otherwise 1.

Without a GPU, or without operators for one, it says what is missing, what it would run and how to
get there, and ends with 1; with --dry-run it lists the parts anywhere, runs none and ends with 0.
"""

import argparse
import dataclasses
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

import torch
from torch.utils import cpp_extension

from benchmarks.report import tables
from tests.cuda.gpu import why_no_gpu

ROOT = Path(__file__).resolve().parent.parent
LOGS = Path('build', 'gpu-check')
RESULTS = LOGS / 'benchmark.json'
SANITIZER = 'compute-sanitizer'
# A kernel that hangs is reported with the test that waits for it.
PYTEST_OPTIONS = '-rs --tb=short -p no:cacheprovider -o faulthandler_timeout=300'.split()
LIMIT_SECONDS = 3600
LAST_LINES = 15

HOW_TO = """\
How to get there:
- a machine with an NVIDIA GPU (compute capability 7.5 or newer) and its driver: nvidia-smi runs;
- the CUDA toolkit (nvcc) of the release that PyTorch is built for, in PATH or CUDA_HOME;
- a checkout of mmdk in which .venv was made on that machine: `make env`. PyTorch's ordinary
  releases for Linux are built for CUDA. If .venv has one for the CPU alone: `make clean`, then
  `make env`; PIP_ARGS names another index.
- If .venv was made while no GPU was seen, compile mmdk again:
  `FORCE_CUDA=1 .venv/bin/python -m pip install --no-build-isolation -e .`
Then: make gpu-check
"""


@dataclasses.dataclass(frozen=True)
class Part:
    """One command; without it, `absent` says why it cannot be run."""

    name: str
    command: list[str]
    environment: dict[str, str] = dataclasses.field(default_factory=dict)
    absent: str = ''

    def __str__(self) -> str:
        settings = [f'{name}={shlex.quote(value)}' for name, value in self.environment.items()]
        return ' '.join([*settings, shlex.join(self.command)])


@dataclasses.dataclass(frozen=True)
class Outcome:
    part: Part
    verdict: str  # passed, failed: ..., or not run: ...
    seconds: float = 0
    output: str = ''

    @property
    def failed(self) -> bool:
        return self.verdict.startswith('failed')


def main() -> None:
    """Run all parts and write the report, or say why not."""
    options = parse_options()
    os.chdir(ROOT)
    parts = [part for part in all_parts() if part.name in options.only]
    reason = why_no_gpu()
    if options.dry_run or reason:
        print('\n'.join(plan(parts, reason)))
        sys.exit(0 if options.dry_run else 1)
    machine = environment()
    print(machine)
    RESULTS.unlink(missing_ok=True)
    outcomes = [run(part) for part in parts]
    options.report.write_text(report(machine, outcomes))
    print(f'\nThe report is in {options.report}: please attach it to an issue.')
    sys.exit(any(outcome.failed for outcome in outcomes))


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [part.name for part in all_parts()]
    parser.add_argument('--dry-run', action='store_true', help='list the parts, run none')
    parser.add_argument(
        '--only', nargs='+', choices=names, default=names, metavar='PART', help=', '.join(names)
    )
    parser.add_argument(
        '--report', type=Path, default=Path('gpu-report.md'), help='file to write [%(default)s]'
    )
    return parser.parse_args()


def all_parts() -> list[Part]:
    python = [sys.executable]
    benchmark = [*python, '-W', 'ignore', '-m', 'benchmarks.gpu', '--out', str(RESULTS)]
    return [
        # Two, since a kernel that fails ends the process: the other is tested all the same.
        Part('tests', [*python, '-m', 'pytest', 'tests/cuda/test_gpu.py', *PYTEST_OPTIONS]),
        Part('runtime', [*python, '-m', 'pytest', 'tests/cuda/test_runtime.py', *PYTEST_OPTIONS]),
        *(sanitizer(tool) for tool in ('memcheck', 'racecheck', 'initcheck', 'synccheck')),
        Part('benchmark', benchmark),
    ]


def sanitizer(tool: str) -> Part:
    program = find_sanitizer()
    command = [program or SANITIZER, '--tool', tool, '--error-exitcode', '1']
    # Of our kernels alone; but what others initialise, initcheck has to see.
    if tool != 'initcheck':
        command += ['--kernel-name', 'kns=mmdk']
    return Part(
        tool,
        [*command, sys.executable, '-m', 'tests.cuda.sanitized'],
        # Each tensor an allocation of its own, so that what lies beside it is out of bounds.
        {'PYTORCH_NO_CUDA_MEMORY_CACHING': '1'},
        '' if program else f'{SANITIZER} is neither in PATH nor in CUDA_HOME/bin',
    )


def find_sanitizer() -> str | None:
    folders = [os.environ.get('PATH', '')]
    if cpp_extension.CUDA_HOME:
        folders.append(str(Path(cpp_extension.CUDA_HOME, 'bin')))
    return shutil.which(SANITIZER, path=os.pathsep.join(folders))


def plan(parts: list[Part], reason: str) -> list[str]:
    lines = [f'gpu-check: nothing was run: {reason}.', ''] if reason else []
    lines += ['On a GPU this runs:', *(f'- {part.name}: {part}' for part in parts)]
    lines += [f'  ({part.name} not here: {part.absent})' for part in parts if part.absent]
    return [*lines, '', HOW_TO] if reason else lines


def environment() -> str:
    """What the results may depend on, a line each."""
    driver = first_line('nvidia-smi', '--query-gpu=driver_version', '--format=csv,noheader')
    lines = [
        f'mmdk: commit {first_line("git", "describe", "--always", "--dirty")}',
        f'Python: {sys.version.split()[0]}',
        f'PyTorch: {torch.__version__}, CUDA {torch.version.cuda}, '
        f'cuDNN {torch.backends.cudnn.version()}',
        f'nvcc: {last_line("nvcc", "--version")}',
        f'driver: {driver}',
    ]
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        lines.append(
            f'GPU {index}: {gpu.name}, compute capability {gpu.major}.{gpu.minor}, '
            f'{gpu.multi_processor_count} processors, {gpu.total_memory / 2**30:.0f} GiB'
        )
    return '\n'.join(lines)


def first_line(*command: str) -> str:
    return (output_of(*command) or ['unknown'])[0]


def last_line(*command: str) -> str:
    return (output_of(*command) or ['unknown'])[-1]


def output_of(*command: str) -> list[str]:
    try:
        return subprocess.check_output(command, text=True, stderr=subprocess.DEVNULL).splitlines()
    except (OSError, subprocess.CalledProcessError):
        return []


def run(part: Part) -> Outcome:
    """Run one part with its output in a log, which outlives it however it ends."""
    if part.absent:
        print(f'{part.name}: not run: {part.absent}', flush=True)
        return Outcome(part, f'not run: {part.absent}')
    LOGS.mkdir(parents=True, exist_ok=True)
    log = LOGS / f'{part.name}.log'
    print(f'{part.name}: running, its output is in {log}', flush=True)
    start = time.perf_counter()
    with log.open('w') as output:
        verdict = verdict_of(part, output)
    print(f'{part.name}: {verdict}', flush=True)
    return Outcome(part, verdict, time.perf_counter() - start, log.read_text(errors='replace'))


def verdict_of(part: Part, output: IO) -> str:
    try:
        process = subprocess.Popen(
            part.command,
            env={**os.environ, **part.environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        return f'failed: {error}'
    try:
        status = process.wait(LIMIT_SECONDS)
    except subprocess.TimeoutExpired:
        return f'failed: it did not end within {LIMIT_SECONDS} s'
    finally:
        if process.poll() is None:
            # With what it started: a sanitizer's program would go on.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return f'failed: exit status {status}' if status else 'passed'


def report(machine: str, outcomes: list[Outcome]) -> str:
    """Everything in one text: first what is good or bad, last what failed, in full."""
    sections = [
        '# mmdk on a GPU',
        block(machine),
        '| part | outcome | seconds |\n| --- | --- | --- |\n'
        + '\n'.join(f'| {o.part.name} | {o.verdict} | {o.seconds:.0f} |' for o in outcomes),
    ]
    for outcome in outcomes:
        if outcome.output and not outcome.failed:
            last = outcome.output.splitlines()[-LAST_LINES:]
            sections += [f'## {outcome.part.name}', f'`{outcome.part}`', block('\n'.join(last))]
        if outcome.part.name == 'benchmark' and outcome.output and RESULTS.exists():
            sections.append(tables(RESULTS))
    for outcome in outcomes:
        if outcome.failed:
            sections += [
                f'## {outcome.part.name}: {outcome.verdict}',
                f'`{outcome.part}`',
                block(outcome.output),
            ]
    return '\n\n'.join(sections) + '\n'


def block(text: str) -> str:
    return f'~~~~text\n{text.strip()}\n~~~~'


if __name__ == '__main__':
    main()
