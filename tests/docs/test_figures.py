"""The pictures in docs/images are what the committed commands draw."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pictures import assert_alike

DOCS = Path(__file__).resolve().parents[2] / 'docs'


@pytest.mark.slow
@pytest.mark.parametrize('name', ['concept', 'lifting'])
def test_figure(name, tmp_path):
    drawn = tmp_path / f'{name}.png'
    subprocess.run([sys.executable, DOCS / f'figures/draw_{name}.py', '--out', drawn], check=True)
    assert_alike(DOCS / f'images/{name}.png', drawn)
