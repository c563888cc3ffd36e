"""The pictures in docs/images are what the committed commands draw."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

DOCS = Path(__file__).resolve().parents[2] / 'docs'


@pytest.mark.slow
@pytest.mark.parametrize('name', ['concept', 'lifting'])
def test_figure(name, tmp_path):
    drawn = tmp_path / f'{name}.png'
    subprocess.run([sys.executable, DOCS / f'figures/draw_{name}.py', '--out', drawn], check=True)
    committed, again = (
        np.asarray(Image.open(path).convert('L'), float) / 255
        for path in (DOCS / f'images/{name}.png', drawn)
    )
    assert committed.shape == again.shape
    # Another matplotlib may set letters a little differently; cells and taps fill a third.
    assert np.abs(committed - again).mean() < 0.01
    assert committed.std() > 0.1
