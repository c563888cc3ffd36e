"""The study's results as tables in Markdown, whatever part of them is there."""

from collections import Counter
from collections.abc import Callable

from benchmarks.report import of_cells
from benchmarks.study.plan import variants
from benchmarks.study.statistics import CONFIDENCE, Difference, mean, paired_difference
from benchmarks.study.variants import COMPARED

__all__ = [
    'BY_SIZE',
    'COLUMNS',
    'HEADLINES',
    'Column',
    'Rows',
    'advantage',
    'advantages',
    'by_seed',
    'caption',
    'lines',
    'table',
]

Rows = list[dict]
# What a column shows of one training; higher is better.
Column = Callable[[dict], float]

COLUMNS: dict[str, dict[str, Column]] = {
    'classification': {
        f'accuracy, strength {strength}': lambda row, strength=strength: row['accuracy'][strength]
        for strength in ('0.0', '1.0', '1.5', '2.0', '3.0')
    },
    'detection': {
        f'{metric}, {name}': lambda row, metric=key, name=name: row['AP'][name][metric]
        for name in ('as trained', 'harder')
        for metric, key in (('AP', 'mAP'), ('AP50', 'mAP_50'), ('AP75', 'mAP_75'))
    },
}
# In a table of their own, for COCO's sizes of objects.
BY_SIZE: dict[str, Column] = {
    f'AP, {size}, {name}': lambda row, key=key, name=name: row['AP'][name][key]
    for name in ('as trained', 'harder')
    for size, key in (('small', 'mAP_s'), ('medium', 'mAP_m'))
}
# Where there is room for two columns: deformations as in training, and stronger ones.
HEADLINES = {
    'classification': ('accuracy, strength 1.0', 'accuracy, strength 1.5'),
    'detection': ('AP, as trained', 'AP, harder'),
}


def by_seed(rows: Rows, variant: str, column: Column) -> dict[int, float]:
    return {row['seed']: column(row) for row in rows if row['variant'] == variant}


def table(network: str, cells: dict[str, list[str]], columns: list[str]) -> str:
    return of_cells(network, ['seeds', *columns], cells)


def lines(rows: Rows, names: list[str], columns: list[Column]) -> dict[str, list[str]]:
    """A variant's number of seeds, means, and differences from the first one of the names."""
    first, *_ = names
    base = [by_seed(rows, first, column) for column in columns]
    found = {}
    for variant in names:
        values = [by_seed(rows, variant, column) for column in columns]
        if values[0]:
            bases = base if variant != first else [None] * len(columns)
            cells = [cell(ours, theirs) for ours, theirs in zip(values, bases, strict=True)]
            found[variant] = [str(len(values[0])), *cells]
    return found


def cell(values: dict[int, float], base: dict[int, float] | None = None) -> str:
    """Mean and spread, in percent, and in brackets the interval of the difference."""
    found = mean(list(values.values()))
    text = f'{100 * found.mean:.1f}'
    if found.spread is not None:
        text += f' ± {100 * found.spread:.1f}'
    if not base or not values.keys() & base.keys():
        return text
    return f'{text} {interval(paired_difference(values, base))}'


def advantage(difference: Difference) -> str:
    mean_text = _signed(difference.mean)
    return mean_text if difference.low is None else f'{mean_text} {interval(difference)}'


def interval(difference: Difference) -> str:
    """In percentage points; the bare difference where there is no interval."""
    if difference.low is None:
        return f'({_signed(difference.mean)})'
    bounds = f'({_signed(difference.low)} to {_signed(difference.high)})'
    return f'**{bounds}**' if difference.is_clear else bounds


def _signed(share: float) -> str:
    """In percentage points, with a second decimal where there would be nothing but zeros."""
    for digits in (1, 2):
        text = f'{100 * share:+.{digits}f}'
        if float(text):
            return text
    return '0.0'


def advantages(task: str, rows: Rows, ours: str) -> dict[str, list[str]]:
    """By each other variant: how much better ours is, in the columns of `HEADLINES`."""
    columns = [COLUMNS[task][name] for name in HEADLINES[task]]
    found = {}
    for variant in COMPARED:
        pairs = [[by_seed(rows, each, column) for each in (ours, variant)] for column in columns]
        if variant != ours and all(first.keys() & second.keys() for first, second in pairs):
            found[variant] = [advantage(paired_difference(*pair)) for pair in pairs]
    return found


def caption(task: str, part: str, network: str, rows: Rows) -> str:
    """What a reader has to know of a network's table, what it lacks included."""
    first, *others = variants(task, part)
    seeds = sorted({row['seed'] for row in rows if row['variant'] in others})
    study = f'.venv/bin/python -m benchmarks.study --task {task} --network {network}'
    command = f'{study} --part {part} --seeds {seeds[-1] + 1}'
    sentences = [
        f'**{network}**, {_seeds_as_text(seeds)}, by `{command}`.',
        'Percent: mean ± standard deviation over seeds.',
        f'In brackets: {100 * CONFIDENCE:.0f} % confidence interval of the difference from',
        f'"{first}", in percentage points, by Student\'s t over the seeds that both have;',
        'bold where it leaves out zero.',
    ]
    trained = {(row['variant'], row['seed']) for row in rows}
    planned = {(variant, seed) for variant in [first, *others] for seed in seeds}
    if missing := len(planned - trained):
        sentences.append(f'**Unfinished:** {missing} of {len(planned)} trainings are not there.')
    machines = sorted({row['machine']['cpu'] for row in rows})
    if len(machines) > 1:
        sentences.append(f'On several machines ({", ".join(machines)}).')
    if min(Counter(variant for variant, _ in trained).values()) < 3:
        sentences.append('Fewer than three seeds have no interval: in brackets, the difference.')
    return ' '.join(sentences) + '\n'


def _seeds_as_text(seeds: list[int]) -> str:
    if len(seeds) == 1:
        return f'seed {seeds[0]}'
    if seeds == list(range(seeds[0], seeds[-1] + 1)):
        return f'seeds {seeds[0]} to {seeds[-1]}'
    return 'seeds ' + ', '.join(map(str, seeds))
