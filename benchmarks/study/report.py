"""Writes what the results say into docs/study.md, its pictures, and README.md.

    python -m benchmarks.study.report --write

Without --write, prints the tables. Results of other settings than the present ones are left out.
"""

import argparse
import hashlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks import report
from benchmarks.report import RESULTS, of_cells, with_blocks
from benchmarks.study import cost, offsets
from benchmarks.study.offset_picture import draw_offsets
from benchmarks.study.pictures import draw
from benchmarks.study.plan import PARTS, PLAIN, TASKS, networks, variants
from benchmarks.study.runs import results_of
from benchmarks.study.tables import (
    BY_SIZE,
    COLUMNS,
    HEADLINES,
    Column,
    Rows,
    advantages,
    caption,
    lines,
    table,
)

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / 'docs/study.md'
README = ROOT / 'README.md'
PICTURES = PAGE.parent / 'images/study'
COST = 'study_cost'
DPI = 200

ALT = {
    ('classification', 'compared'): 'Accuracy against the strength of the deformation',
    ('detection', 'compared'): 'AP on deformations as in training, and on stronger ones',
    ('classification', 'ablations'): 'Differences in accuracy from DK',
    ('detection', 'ablations'): 'Differences in AP from DK',
}

ALT_OFFSETS = 'Lengths of offsets, taps outside the scope, and gradients, step by step'


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--write', action='store_true', help='write files instead of printing')
    if parser.parse_args().write:
        write()
    else:
        print('\n'.join(content(name) for name in BLOCKS))


def write() -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    drawn = set()
    for name, (rows, make_figure) in pictures().items():
        path = PICTURES / name
        make_figure().savefig(path, dpi=DPI, metadata={'Source': digest(rows)})
        drawn.add(path)
    for outdated in set(PICTURES.glob('*.png')) - drawn:
        outdated.unlink()
    for path in (PAGE, README):
        path.write_text(with_blocks(path.read_text(), content))


def pictures() -> dict[str, tuple[Rows, Callable[[], Figure]]]:
    """By name of the file: the rows that it shows, and what draws them."""
    found = {}
    for task, part, network in subjects():
        if rows := compared_rows(task, part, network):
            name = picture_name(task, part, network)
            found[name] = rows, partial(draw, task, part, network, rows)
    for task, (network, *_) in TASKS.items():
        if rows := offsets.current(task):
            found[offset_picture_name(task)] = rows, partial(draw_offsets, network, rows)
    return found


def subjects() -> list[tuple[str, str, str]]:
    """Each table's task, part and network."""
    return [
        (task, part, network)
        for task in TASKS
        for part in PARTS
        for network in networks(task, part)
    ]


def content(name: str) -> str:
    """What belongs between <!-- NAME --> and <!-- /NAME -->."""
    return BLOCKS[name]()


def compared_rows(task: str, part: str, network: str) -> Rows:
    """The rows of one table; none if there is nothing yet that its first could be compared with.

    Of the first only seeds that others have too: it may have more in another part.
    """
    first, *others = variants(task, part)
    rows = [
        row
        for row in results_of(task).current()
        if row['network'] == network and row['variant'] in [first, *others]
    ]
    seeds = {row['seed'] for row in rows if row['variant'] in others}
    return [row for row in rows if row['seed'] in seeds]


def sections(task: str, part: str) -> str:
    return '\n'.join(section(task, part, network) for network in networks(task, part))


def section(task: str, part: str, network: str) -> str:
    """A network's caption, tables and picture."""
    rows = compared_rows(task, part, network)
    if not rows:
        return f'**{network}**: nothing to compare yet.\n'
    names = variants(task, part)
    picture = link(picture_name(task, part, network))
    found = [
        caption(task, part, network, rows),
        table_of(network, rows, names, COLUMNS[task]),
        f'![{ALT[task, part]}, {network}]({picture})\n',
    ]
    if part == 'compared':
        if task == 'detection':
            found.append(table_of(network, rows, names, BY_SIZE))
        found += [versus(task, network, rows, ours) for ours in ('DK', 'DK+DCN')]
    return '\n'.join(found)


def table_of(network: str, rows: Rows, names: list[str], columns: dict[str, Column]) -> str:
    return table(network, lines(rows, names, list(columns.values())), list(columns))


def versus(task: str, network: str, rows: Rows, ours: str) -> str:
    """One against each of the others, if it is there."""
    cells = advantages(task, rows, ours)
    return of_cells(f'{network}: {ours} minus', list(HEADLINES[task]), cells) if cells else ''


def offset_sections() -> str:
    """What offsets did, by task."""
    return '\n'.join(
        f'![{ALT_OFFSETS}, {network}]({link(offset_picture_name(task))})\n\n{offsets.table(task)}'
        for task, (network, *_) in TASKS.items()
        if offsets.current(task)
    )


def link(picture: str) -> str:
    return (PICTURES / picture).relative_to(PAGE.parent).as_posix()


def offset_picture_name(task: str) -> str:
    return f'{task}_offsets.png'


def picture_name(task: str, part: str, network: str) -> str:
    return f'{task}_{part}_{network}.png'


def digest(rows: Rows) -> str:
    """Says which results a picture shows."""
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()


def summary() -> str:
    """Of each task's first network, with what it costs."""
    return '\n'.join(task_summary(task, networks_[0]) for task, networks_ in TASKS.items())


def task_summary(task: str, network: str) -> str:
    rows = compared_rows(task, 'compared', network)
    if not rows:
        return f'**{network}**, {task}: nothing to compare yet.\n'
    names = HEADLINES[task]
    cells = lines(rows, variants(task, 'compared'), [COLUMNS[task][name] for name in names])
    flops, time = (costs(task, network, column) for column in (cost.FLOPS, cost.TIME))
    with_cost = {
        variant: [*line, flops_as_text(variant, flops), time_as_text(variant, time)]
        for variant, line in cells.items()
    }
    columns = [*names, 'FLOPs of an image', 'time of a training step on a CPU / plain']
    return '\n'.join(
        [
            caption(task, 'compared', network, rows),
            table(f'{network}, {task}', with_cost, columns),
        ]
    )


def costs(task: str, network: str, column: str) -> dict[str, float]:
    """By variant, as far as measured."""
    path = RESULTS / f'{COST}.json'
    rows = json.loads(path.read_text())['rows'] if path.exists() else []
    return {
        row['row']: row['ratio']
        for row in rows
        if row['table'] == cost.title(task, network) and row['column'] == column
    }


def flops_as_text(variant: str, flops: dict[str, float]) -> str:
    if not {variant, PLAIN} <= flops.keys():
        return 'not counted'
    return f'{flops[variant]:.1f} M ({100 * (flops[variant] / flops[PLAIN] - 1):+.0f} %)'


def time_as_text(variant: str, time: dict[str, float]) -> str:
    return f'{time[variant]:.2f}' if variant in time else 'not measured'


# By name of the block.
BLOCKS = {
    'study_classification': partial(sections, 'classification', 'compared'),
    'study_detection': partial(sections, 'detection', 'compared'),
    'study_classification_ablations': partial(sections, 'classification', 'ablations'),
    'study_detection_ablations': partial(sections, 'detection', 'ablations'),
    'study_offsets': offset_sections,
    COST: lambda: report.tables(RESULTS / f'{COST}.json'),
    'study_summary': summary,
}


if __name__ == '__main__':
    main()
