"""benchmarks/README.md shows what the committed results say."""

import json
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parents[1] / 'benchmarks'


def test_table_equals_the_results():
    readme = (BENCHMARKS / 'README.md').read_text()
    rows = json.loads((BENCHMARKS / 'operators.json').read_text())['rows']
    lines = [line for line in readme.splitlines() if line.startswith('|')]
    shapes = lines[0].strip('| ').split(' | ')
    table = {line.split(' | ')[0].strip('| '): line.strip('| ').split(' | ')[1:] for line in lines}
    assert len(rows) == len(shapes) * (len(lines) - 2)
    for row in rows:
        column = shapes.index('x'.join(map(str, row['shape'])))
        expected = f'{row["ratio"]:.2f} ({row["least"]:.2f} to {row["most"]:.2f})'
        assert table[row['comparison']][column] == expected
