"""Where a kernel spends its time: functions, and the instructions that a core waits at.

Calls one case in a loop while Linux's perf samples it. The samples are the clock's, since a virtual
machine seldom has hardware counters: `perf stat -e cycles,instructions true` tells whether there
are any. A sample falls on the instruction after the one that took long.

    python -m benchmarks.profile depthwise --shape 1x512x50x84 --direction forward+backward
    python -m benchmarks.profile dense --variant 'stride 2'
"""

import argparse
import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.cases import DIRECTIONS, ours
from benchmarks.variants import MAINS, VARIANTS

SECONDS = 5
LEAST_PERCENT = 2


def main():
    args = parse_args()
    torch.set_num_threads(args.threads)
    case = replace(MAINS[args.kind], **VARIANTS.get(args.variant, {}))
    if args.shape:
        case = replace(case, shape=tuple(map(int, args.shape.split('x'))))
    with tempfile.TemporaryDirectory() as folder:
        samples = Path(folder, 'perf.data')
        sample(ours(case).direction(args.direction), samples)
        print(functions(samples))
        print(instructions(samples))


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('kind', choices=MAINS)
    parser.add_argument('--variant', choices=VARIANTS, help='of benchmarks.variants')
    parser.add_argument('--shape', help='of the input, as 1x512x50x84')
    parser.add_argument('--direction', choices=DIRECTIONS, default='forward')
    parser.add_argument('--threads', type=int, default=1, help='[%(default)s]')
    return parser.parse_args()


def sample(call: Callable, samples: Path) -> None:
    call()
    command = ['perf', 'record', '-q', '-e', 'cpu-clock', '-F', '4000', '-o', samples]
    perf = subprocess.Popen([*command, '-p', str(os.getpid())])
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        call()
    perf.send_signal(signal.SIGINT)
    perf.wait()


def functions(samples: Path) -> str:
    """Functions by their share of the time."""
    lines = perf('report', samples, '--no-children')
    return '\n'.join(line for line in lines if re.match(r'\s*\d', line))


def instructions(samples: Path) -> str:
    """The instructions of each of these functions that were met most often, in their order."""
    kept = []
    for line in perf('annotate', samples):
        if title := re.search(r'[0-9a-f]{16} <(.*)>:', line):
            kept.append(f'\n{title[1]}')
        elif (share := re.match(r'\s*(\d+\.\d+) +:', line)) and float(share[1]) >= LEAST_PERCENT:
            kept.append(line)
    return '\n'.join(kept)


def perf(command: str, samples: Path, *options: str) -> list[str]:
    limit = f'--percent-limit={LEAST_PERCENT}'
    result = subprocess.run(
        ['perf', command, '--stdio', '-i', samples, limit, *options],
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    return [line.rstrip() for line in result.stdout.splitlines()]


if __name__ == '__main__':
    main()
