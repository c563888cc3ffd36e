"""What every benchmark shares: ratios timed in pairs, the command line, the JSON.

A benchmark hands :func:`run` its measurements. Each yields one ratio, the cell of a table:
benchmarks/report.py turns the JSON into the tables of benchmarks/README.md.
"""

import argparse
import json
import math
import os
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

import mmdk

# A call is repeated until it has taken so long: the clock and one interrupt count for nothing then.
LEAST_SECONDS = 0.02
WARM_UP_SECONDS = 0.1


@dataclass(frozen=True)
class Ratio:
    """Median, least and most over pairs; of something counted, not timed, the ratio alone."""

    ratio: float
    least: float | None = None
    most: float | None = None
    pairs: int | None = None


class MissingError(Exception):
    """There is no such number: a peer is not there, or refuses the call."""


@dataclass(frozen=True)
class Measurement:
    """One cell of a table, not measured yet.

    Attributes:
        table: What the table's ratios are.
        row: The row's label.
        column: The column's label.
        measure: Called with the number of pairs.
        goal: What the ratio should not exceed, if there is such a goal.
        note: What a reader of the JSON has to know about this ratio.
    """

    table: str
    row: str
    column: str
    measure: Callable[[int], Ratio]
    goal: float | None = None
    note: str | None = None

    @property
    def label(self) -> str:
        return f'{self.table}: {self.row}, {self.column}'


def run(
    doc: str,
    measurements: Iterable[Measurement],
    pairs: int,
    machine: Callable[[int], dict] | None = None,
    threads: int | None = None,
) -> tuple[list[dict], Path | None]:
    """The command of one benchmark: measures, prints, and writes JSON.

    Args:
        doc: The benchmark's documentation, for --help.
        measurements: What there is to measure.
        pairs: How many pairs are timed by default.
        machine: What the ratios may depend on, given the number of threads.
        threads: How many there are by default; None: as many as there are cores.

    Returns:
        The rows, as in the JSON, and the path it was written to.
    """
    options = parse_options(doc, pairs, threads or os.cpu_count())
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    rows = []
    for measurement in measurements:
        if options.only in measurement.label:
            rows.append(as_row(measurement, options.pairs))
            print(f'{measurement.label:<90} {cell(rows[-1])}', flush=True)
    if options.out:
        results = {
            'command': command(options),
            'machine': (machine or this_machine)(options.threads),
            'rows': rows,
        }
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(results, indent=1) + '\n')
    return rows, options.out


def parse_options(doc: str, pairs: int, threads: int) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--threads', type=int, default=threads, help='[%(default)s]')
    parser.add_argument(
        '--pairs', type=int, default=pairs, help='timed pairs of a ratio [%(default)s]'
    )
    parser.add_argument('--only', default='', help='measurements whose label contains this')
    parser.add_argument('--out', type=Path, help='JSON file to write')
    return parser.parse_args()


def time_pairs(
    ours: Callable,
    peer: Callable,
    pairs: int,
    scale: float = 1,
    clock: Callable[[Callable, int], float] | None = None,
) -> Ratio:
    """How many times as long `ours` takes as `peer`, times `scale`, by a clock like `seconds`.

    The two take turns in one process: a machine whose speed drifts, or that has other work to do,
    slows both alike.
    """
    clock = clock or seconds
    ours_repeats, peer_repeats = repeats(ours, clock), repeats(peer, clock)
    ratios = [scale * clock(ours, ours_repeats) / clock(peer, peer_repeats) for _ in range(pairs)]
    return Ratio(statistics.median(ratios), min(ratios), max(ratios), pairs)


def repeats(function: Callable, clock: Callable[[Callable, int], float]) -> int:
    """How often to call a function for one timing. Warms it up: its first call may be slower."""
    end, quickest = time.perf_counter() + WARM_UP_SECONDS, math.inf
    while time.perf_counter() < end:
        quickest = min(quickest, clock(function, 1))
    return math.ceil(LEAST_SECONDS / quickest)


def seconds(function: Callable, times: int) -> float:
    start = time.perf_counter()
    for _ in range(times):
        function()
    return (time.perf_counter() - start) / times


def as_row(measurement: Measurement, pairs: int) -> dict:
    try:
        result = asdict(measurement.measure(pairs))
    except MissingError as error:
        result = {'missing': str(error)}
    row = asdict(measurement) | result
    return {key: value for key, value in row.items() if key != 'measure' and value is not None}


def cell(row: dict) -> str:
    """A row's ratio as people read it; bold where it misses its goal."""
    if 'missing' in row:
        return row['missing']
    text = number(row['ratio'])
    if row['ratio'] > row.get('goal', math.inf):
        text = f'**{text}**'
    if 'least' in row:
        text += f' ({number(row["least"])} to {number(row["most"])})'
    return text


def number(value: float) -> str:
    return f'{value:.2f}' if 0.1 <= value < 100 else f'{float(f"{value:.3g}"):g}'


def command(options: argparse.Namespace) -> str:
    """What to type for the same measurements again."""
    only = f' --only {options.only!r}' if options.only else ''
    name = sys.modules['__main__'].__spec__.name
    return f'python -m {name} --threads {options.threads} --pairs {options.pairs}{only}'


def this_machine(threads: int) -> dict:
    """What the ratios may depend on."""
    packages = ('torch', 'mmengine', 'mmcv', 'mmdet')
    return {
        'cpu': cpu_model(),
        'cores': os.cpu_count(),
        'capability': torch.backends.cpu.get_cpu_capability(),
        'threads': threads,
        'python': platform.python_version(),
        'mmdk': mmdk.__version__,
        **{name: sys.modules[name].__version__ for name in packages if name in sys.modules},
    }


def cpu_model() -> str:
    found = re.search(r'model name\s*: (.*)', Path('/proc/cpuinfo').read_text())
    return found[1] if found else platform.machine()
