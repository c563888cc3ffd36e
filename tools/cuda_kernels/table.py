"""The table of all kernels, benchmarks/results/cuda_kernels.json: reading, comparing, writing."""

import dataclasses
import json
from pathlib import Path

import torch

from cuda_kernels.compiling import Task
from cuda_kernels.inspection import Row
from cuda_kernels.toolkit import Tools

UPDATE = 'make cuda-check CUDA_CHECK_ARGS=--update'


def same_names(rows: list[Row]) -> list[str]:
    places = [row.place() for row in rows]
    return [
        f'{place}: several kernels of this name; give each its own'
        for place in sorted(set(places))
        if places.count(place) > 1
    ]


def compare(path: Path, rows: list[Row], task: Task, tools: Tools) -> list[str]:
    """Name each difference; with other releases, only which kernels there are is compared."""
    if not path.exists():
        return [f'there is no {path}; write it with --update']
    table = json.loads(path.read_text())
    expected = {row.place(): row for row in read_rows(table) if task.covers(row)}
    found = {row.place(): row for row in rows}
    problems = [f'{place}: is not in the table' for place in found if place not in expected]
    problems += [
        f'{place}: in the table, but not compiled' for place in expected if place not in found
    ]
    if releases(tools) == recorded(table):
        same = [place for place in found if place in expected]
        problems += [text for place in same for text in differences(found[place], expected[place])]
    else:
        print(
            f'Numbers NOT compared with {path.name}, only names: the table is of '
            f'{in_words(recorded(table))}, this is {in_words(releases(tools))}.'
        )
    if problems:
        problems.append(f'{path.name} differs; if that is meant: {UPDATE}')
    return problems


def differences(found: Row, expected: Row) -> list[str]:
    return [
        f'{found.place()}: {field.name.replace("_", " ")}: {getattr(found, field.name)}, '
        f'in the table {getattr(expected, field.name)}'
        for field in dataclasses.fields(Row)
        if getattr(found, field.name) != getattr(expected, field.name)
    ]


def update(path: Path, rows: list[Row], task: Task, tools: Tools) -> None:
    """Write what was compiled; lines of what was not named stay."""
    kept = []
    if path.exists() and not task.everything:
        table = json.loads(path.read_text())
        kept = [row for row in read_rows(table) if not task.covers(row)]
        if kept and releases(tools) != recorded(table):
            raise SystemExit(
                f'error: {path.name} is of {in_words(recorded(table))}, this is '
                f'{in_words(releases(tools))}: write all of it, naming no file or architecture.'
            )
    lines = ',\n'.join(f'  {json.dumps(dataclasses.asdict(row))}' for row in sorted(rows + kept))
    head = json.dumps({'command': UPDATE, **releases(tools)}, indent=1).removesuffix('\n}')
    path.write_text(f'{head},\n "kernels": [\n{lines}\n ]\n}}\n')
    print(f'{path.name}: {len(rows)} lines written, {len(kept)} kept.')


def read_rows(table: dict) -> list[Row]:
    return [Row(**row) for row in table['kernels']]


def releases(tools: Tools) -> dict[str, str]:
    return {'nvcc': tools.release, 'torch': torch.__version__}


def recorded(table: dict) -> dict[str, str]:
    return {name: table[name] for name in ('nvcc', 'torch')}


def in_words(releases: dict[str, str]) -> str:
    return ' and '.join(f'{name} {release}' for name, release in releases.items())
