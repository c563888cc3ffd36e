"""Writes the tables of benchmarks/README.md from the results in benchmarks/results.

The tables of results/NAME.json replace what is between <!-- NAME --> and <!-- /NAME -->.

    python -m benchmarks.report
"""

import json
import re
from collections.abc import Callable
from pathlib import Path

from benchmarks.measure import cell

README = Path(__file__).with_name('README.md')
RESULTS = Path(__file__).with_name('results')


def main():
    README.write_text(updated(README.read_text()))


def updated(readme: str) -> str:
    return with_blocks(readme, lambda name: tables(RESULTS / f'{name}.json'))


def with_blocks(text: str, content: Callable[[str], str]) -> str:
    """The text with content(NAME) between each <!-- NAME --> and <!-- /NAME -->."""
    return re.sub(
        r'(<!-- (\w+) -->\n).*?(<!-- /\2 -->)',
        lambda block: block[1] + content(block[2]) + block[3],
        text,
        flags=re.DOTALL,
    )


def tables(path: Path) -> str:
    if not path.exists():
        return 'Not measured.\n'
    results = json.loads(path.read_text())
    by_table = {}
    for row in results['rows']:
        by_table.setdefault(row['table'], []).append(row)
    return '\n'.join([source(results), *(as_table(*table) for table in by_table.items())])


def source(results: dict) -> str:
    machine = results['machine']
    packages = [n for n in ('torch', 'mmcv', 'mmdet', 'torchvision') if n in machine]
    versions = ', '.join(f'{name} {machine[name]}' for name in packages)
    threads = f'{machine["threads"]} thread' + 's' * (machine['threads'] != 1)
    place = f'{threads} of {machine["cpu"]} ({machine["capability"]})'
    if 'gpu' in machine:
        place = f'{machine["gpu"]} ({machine["gpu_capability"]}), CUDA {machine["cuda"]}'
    return f'`{results["command"]}`, on {place}, {versions}:\n'


def as_table(name: str, rows: list[dict]) -> str:
    columns = list(dict.fromkeys(row['column'] for row in rows))
    lines = {}
    for row in rows:
        lines.setdefault(row['row'], {})[row['column']] = cell(row)
    return of_cells(
        name,
        columns,
        {label: [cells.get(column, '') for column in columns] for label, cells in lines.items()},
    )


def of_cells(name: str, columns: list[str], lines: dict[str, list[str]]) -> str:
    return '\n'.join(
        [
            as_line(name, columns),
            as_line('---', ['---'] * len(columns)),
            *(as_line(label, cells) for label, cells in lines.items()),
            '',
        ]
    )


def as_line(label: str, cells: list[str]) -> str:
    return f'| {" | ".join([label, *cells])} |'


if __name__ == '__main__':
    main()
