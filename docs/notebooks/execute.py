"""Executes docs/notebooks/tour.ipynb anew and writes it with what came out, in place."""

import argparse
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).with_name('tour.ipynb')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--out', type=Path, default=NOTEBOOK, help='[%(default)s]')
    out = parser.parse_args().out
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    # Without the times, so that an execution that gives the same writes the same.
    NotebookClient(notebook, timeout=300, record_timing=False).execute()
    nbformat.write(notebook, out)
    print(f'{out} is written.')


if __name__ == '__main__':
    main()
