"""How time grows with pixels, channels, batch and threads: JSON, and a picture beside it.

DK and the plain convolution, K = 3, S = 4, channels_last. The unit of each kind, depthwise or
dense, is the plain convolution on 1x256x50x84 with all threads.

    python -m benchmarks.scaling --out benchmarks/results/scaling.json
"""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from benchmarks.cases import DIRECTIONS, Call, Case, ours, plain
from benchmarks.measure import Measurement, Ratio, run, time_pairs

UNIT = (1, 256, 50, 84)
KINDS = {'depthwise': True, 'dense': False}
OPERATORS = {'DK': ours, 'plain': plain}
SHAPES = {
    'pixels': [(1, 256, 25, 42), UNIT, (1, 256, 100, 168), (1, 256, 200, 336)],
    'channels': [(1, channels, 50, 84) for channels in (64, 128, 256, 512)],
    'batch': [(batch, 256, 50, 84) for batch in (1, 2, 4, 8)],
}
VALUES = {
    'pixels': lambda shape: shape[2] * shape[3],
    'channels': lambda shape: shape[1],
    'batch': lambda shape: shape[0],
}
STYLES = {
    'depthwise DK': dict(color='tab:red', linestyle='--', marker='o'),
    'depthwise plain': dict(color='tab:blue', linestyle='--', marker='o'),
    'dense DK': dict(color='tab:red', marker='s'),
    'dense plain': dict(color='tab:blue', marker='s'),
}


def main():
    rows, out = run(__doc__, measurements(), pairs=3)
    if out:
        draw(rows).savefig(out.with_suffix('.png'), dpi=100)


def measurements() -> Iterator[Measurement]:
    """One table for each panel of the picture."""
    threads = torch.get_num_threads()
    for direction in DIRECTIONS:
        for axis, value, shape, count in points(threads):
            for kind, depthwise in KINDS.items():
                for name, operator in OPERATORS.items():
                    yield Measurement(
                        f'{direction} by {axis}',
                        f'{kind} {name}',
                        str(value),
                        partial(compare, operator, shape, depthwise, direction, count),
                    )


def points(threads: int) -> Iterator[tuple[str, int, tuple, int]]:
    """(axis, value on it, shape, threads)."""
    for axis, shapes in SHAPES.items():
        for shape in shapes:
            yield axis, VALUES[axis](shape), shape, threads
    for count in range(1, threads + 1):
        yield 'threads', count, UNIT, count


def compare(
    operator: Callable[[Case], Call],
    shape: tuple,
    depthwise: bool,
    direction: str,
    threads: int,
    pairs: int,
) -> Ratio:
    call = operator(Case(shape, depthwise)).direction(direction)
    unit = plain(Case(UNIT, depthwise)).direction(direction)
    return time_pairs(
        with_threads(threads, call), with_threads(torch.get_num_threads(), unit), pairs
    )


def with_threads(threads: int, call: Callable) -> Callable:
    def set_and_call():
        torch.set_num_threads(threads)
        call()

    return set_and_call


def draw(rows: list[dict]) -> Figure:
    panels = {}
    for row in rows:
        panels.setdefault(row['table'], []).append(row)
    figure = Figure(figsize=(14, 7), layout='constrained')
    axes = figure.subplots(len(DIRECTIONS), len(panels) // len(DIRECTIONS), sharey='row')
    for axis, (title, panel) in zip(axes.flat, panels.items(), strict=True):
        draw_panel(axis, title, panel)
    for axis in axes[:, 0]:
        axis.set_ylabel('time / plain convolution\nof its kind on 1x256x50x84')
    figure.legend(*axes.flat[0].get_legend_handles_labels(), loc='outside lower center', ncols=4)
    return figure


def draw_panel(axis: Axes, title: str, rows: list[dict]) -> None:
    for series, style in STYLES.items():
        line = [row for row in rows if row['row'] == series]
        values = [int(row['column']) for row in line]
        median = [row['ratio'] for row in line]
        below = [row['ratio'] - row['least'] for row in line]
        above = [row['most'] - row['ratio'] for row in line]
        axis.errorbar(values, median, [below, above], label=series, capsize=2, **style)
    direction, name = title.split(' by ')
    axis.set(title=direction, xlabel=name, xscale='log', yscale='log')
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xticks(values, map(str, values))
    axis.grid(alpha=0.3)


if __name__ == '__main__':
    main()
