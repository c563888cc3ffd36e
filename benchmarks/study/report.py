"""Prints tables of what benchmarks/results/study_*.json holds, and draws it.

    python -m benchmarks.study.report --plots work_dirs/study

In a cell: mean and standard deviation over seeds, in percent; in brackets the 95 % confidence
interval of the difference from the first row, seed by seed, in bold where it leaves out zero.
"""

import argparse
import itertools
import json
from collections.abc import Callable
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.report import as_line
from benchmarks.study.statistics import mean, paired_difference
from benchmarks.study.variants import ABLATIONS, COMPARED

RESULTS = Path(__file__).parents[1] / 'results'

# The rows of a table; the others are compared with the first.
PARTS = {'compared': list(COMPARED), 'ablations': ['DK', *ABLATIONS]}

Rows = list[dict]
# What a column shows of one training; higher is better.
Column = Callable[[dict], float]

COLUMNS: dict[str, dict[str, Column]] = {
    'classification': {
        f'accuracy at {strength}': lambda row, strength=strength: row['accuracy'][strength]
        for strength in ('0.0', '1.0', '1.5', '2.0', '3.0')
    },
    'detection': {
        f'{metric}, {name}': lambda row, metric=key, name=name: row['AP'][name][metric]
        for name in ('as trained', 'harder')
        for metric, key in (('AP', 'mAP'), ('AP50', 'mAP_50'), ('AP75', 'mAP_75'))
    }
    | {
        f'AP, {size}, as trained': lambda row, key=key: row['AP']['as trained'][key]
        for size, key in (('small', 'mAP_s'), ('medium', 'mAP_m'))
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--plots', type=Path, help='folder for the plots')
    args = parser.parse_args()
    for task, part in itertools.product(COLUMNS, PARTS):
        print(tables(results(task), task, part))
    if args.plots:
        args.plots.mkdir(parents=True, exist_ok=True)
        for network, rows in by_network(results('classification')).items():
            plot_strengths(network, rows).savefig(args.plots / f'{network}.png', dpi=120)


def results(task: str) -> Rows:
    path = RESULTS / f'study_{task}.json'
    return json.loads(path.read_text())['rows'] if path.exists() else []


def by_network(rows: Rows) -> dict[str, Rows]:
    networks = {}
    for row in rows:
        networks.setdefault(row['network'], []).append(row)
    return networks


def tables(rows: Rows, task: str, part: str) -> str:
    return '\n'.join(
        table(network, of_network, COLUMNS[task], part)
        for network, of_network in by_network(rows).items()
    )


def table(network: str, rows: Rows, columns: dict[str, Column], part: str) -> str:
    """One network: the variants' means, and their differences from the one named first."""
    first = PARTS[part][0]
    cells = {
        variant: [by_seed(rows, variant, column) for column in columns.values()]
        for variant in PARTS[part]
    }
    lines = [
        as_line(
            variant, [cell(values, base) for values, base in zip(each, cells[first], strict=True)]
        )
        for variant, each in cells.items()
        if each[0]
    ]
    return '\n'.join(
        [as_line(network, list(columns)), as_line('---', ['---'] * len(columns)), *lines, '']
    )


def by_seed(rows: Rows, variant: str, column: Column) -> dict[int, float]:
    return {row['seed']: column(row) for row in rows if row['variant'] == variant}


def cell(values: dict[int, float], base: dict[int, float]) -> str:
    """Mean and spread, in percent, and in brackets the interval of the difference."""
    found = mean(list(values.values()))
    text = f'{100 * found.mean:.1f}'
    if found.spread is not None:
        text += f' ± {100 * found.spread:.1f}'
    if values is base or not values.keys() & base.keys():
        return text
    difference = paired_difference(values, base)
    if difference.low is None:
        return f'{text} ({100 * difference.mean:+.1f})'
    bounds = f'({100 * difference.low:+.1f} to {100 * difference.high:+.1f})'
    return f'{text} **{bounds}**' if difference.is_clear else f'{text} {bounds}'


def plot_strengths(network: str, rows: Rows) -> Figure:
    """Accuracy against the strength of the deformation, one curve a variant, mean and spread."""
    figure = Figure(figsize=(6, 4), layout='constrained')
    axis = figure.subplots()
    for variant in COMPARED:
        accuracies = [row['accuracy'] for row in rows if row['variant'] == variant]
        if not accuracies:
            continue
        strengths = list(accuracies[0])
        found = [mean([each[strength] for each in accuracies]) for strength in strengths]
        x, y = [float(strength) for strength in strengths], [each.mean for each in found]
        (line,) = axis.plot(x, y, marker='o', markersize=3, label=variant)
        low = [each.mean - (each.spread or 0) for each in found]
        high = [each.mean + (each.spread or 0) for each in found]
        axis.fill_between(x, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
    axis.axvspan(0, 1, color='0.95', zorder=0)
    axis.set(
        xlabel='strength of the deformation (1: the most that training has)',
        ylabel='accuracy',
        title=network,
    )
    axis.legend(fontsize=8)
    return figure


if __name__ == '__main__':
    main()
