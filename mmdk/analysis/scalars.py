"""The scalars that MMEngine's LocalVisBackend records in a work directory."""

import json
from pathlib import Path

__all__ = ['read_records']


def read_records(work_dir: str | Path) -> list[dict]:
    """Reads all records, in the order in which they were written.

    A training that was interrupted and resumed left several files; where they overlap, what comes
    later in the list is what counts.

    Args:
        work_dir: The directory given to train.py.

    Returns:
        Each a dict of scalars, with 'step': the iteration in training, the epoch in validation.

    Raises:
        FileNotFoundError: There are no records.
        ValueError: A line is no JSON object. A last line without its end, of a training that was
            cut off, is left out.
    """
    # The folders between are named by the time of the start, so their order is the runs'.
    paths = sorted(Path(work_dir).glob('*/vis_data/scalars.json'))
    if not paths:
        raise FileNotFoundError(
            f'{work_dir} has no */vis_data/scalars.json: expected the work_dir of a training.'
        )
    return [record for path in paths for record in _read(path)]


def _read(path: Path) -> list[dict]:
    *lines, _ = path.read_text().split('\n')  # each line ends in one
    records = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f'{path}, line {number}, is no JSON: {error}.') from error
        if not isinstance(record, dict):
            raise ValueError(f'{path}, line {number}, is no JSON object: {line[:50]!r}.')
        records.append(record)
    return records
