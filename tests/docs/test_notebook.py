"""docs/notebooks/tour.ipynb runs, and is committed with the pictures that came out."""

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / 'docs/notebooks'
PICTURES = 4


def outputs(path):
    cells = nbformat.read(path, as_version=4).cells
    return [output for cell in cells if cell.cell_type == 'code' for output in cell.outputs]


def pictures(path):
    return sum('image/jpeg' in output.get('data', {}) for output in outputs(path))


def test_it_is_committed_with_its_pictures():
    committed = FOLDER / 'tour.ipynb'
    assert pictures(committed) == PICTURES
    assert not [output for output in outputs(committed) if output.output_type == 'error']
    assert str(ROOT) not in committed.read_text()


@pytest.mark.slow
def test_it_runs(tmp_path):
    """A cell that fails ends the execution with an error."""
    executed = tmp_path / 'tour.ipynb'
    command = [sys.executable, '-W', 'ignore', FOLDER / 'execute.py', '--out', executed]
    subprocess.run(command, check=True)
    assert pictures(executed) == PICTURES
