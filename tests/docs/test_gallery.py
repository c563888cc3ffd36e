"""docs/gallery.md shows what its command draws, and says the numbers that it writes."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pictures import assert_alike

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / 'docs/gallery.md').read_text()
FOLDER = ROOT / 'docs/images/gallery'
NUMBERS = json.loads((FOLDER / 'numbers.json').read_text())
SHOWN = re.findall(r'^!\[.+\]\(images/gallery/(\w+)\.png\)$', PAGE, re.MULTILINE)
DETECTORS = ('plain', 'DCN', 'DK')
OF_ALL_OBJECTS = ('scale_backbone', 'scale_head')  # with fewer of them, they are others


def rows(first):
    """The tables' rows that begin so, as pairs of numbers for each detector."""
    (line,) = re.findall(rf'^\| {re.escape(first)} \|(.*)\|$', PAGE, re.MULTILINE)
    return [tuple(map(float, cell.split(','))) for cell in line.split('|')]


def test_every_picture_is_shown_once():
    assert sorted(SHOWN) == sorted(path.stem for path in FOLDER.glob('*.png'))


@pytest.mark.parametrize(
    'unit, first', enumerate(['the small 0', 'the large 6', 'the tall 1', 'background'])
)
def test_areas(unit, first):
    fields = [NUMBERS['receptive_fields'][name][unit] for name in DETECTORS]
    assert rows(first) == [(field['area_50'], field['area_90']) for field in fields]


@pytest.mark.parametrize(
    'picture, layer',
    [('scale_backbone', '`backbone.layer3`'), ('scale_head', '`bbox_head.cls_convs.1.conv`')],
)
def test_correlations(picture, layer):
    assert rows(layer) == [
        tuple(NUMBERS[picture][name][area]['rank_correlation'] for area in ('area_50', 'area_90'))
        for name in DETECTORS
    ]


@pytest.mark.slow
def test_the_command_draws_them(tmp_path):
    """With few objects, which two of the pictures show."""
    command = [sys.executable, '-W', 'ignore', ROOT / 'docs/figures/draw_gallery.py']
    drawn = tmp_path / 'drawn'
    subprocess.run([*command, '--objects', '10', '--out', drawn], cwd=tmp_path, check=True)
    assert sorted(path.stem for path in drawn.glob('*.png')) == sorted(SHOWN)
    numbers = json.loads((drawn / 'numbers.json').read_text())
    for name in set(SHOWN) - set(OF_ALL_OBJECTS):
        assert_alike(FOLDER / f'{name}.png', drawn / f'{name}.png')
        assert flat(numbers[name]) == flat(NUMBERS[name])


def flat(numbers):
    """Numbers by name, to be compared as closely as another processor's arithmetic allows."""
    if isinstance(numbers, (int, float)):
        return pytest.approx(numbers, rel=0.05, abs=0.05)
    if isinstance(numbers, str):
        return numbers
    items = numbers.items() if isinstance(numbers, dict) else enumerate(numbers)
    # A field that is nearly round has hardly any orientation.
    return {name: flat(each) for name, each in items if name != 'orientation'}
