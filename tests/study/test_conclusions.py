"""What the documents conclude by hand has the numbers of the results."""

import itertools
import re

import pytest

from benchmarks.study import report
from benchmarks.study.plan import TASKS
from benchmarks.study.runs import results_of
from benchmarks.study.statistics import paired_difference
from benchmarks.study.tables import COLUMNS, advantage, by_seed

NUMBER = r'-?\d+\.\d+'
RANGE = f'{NUMBER} to {NUMBER}'
# "1.9 points (0.9 to 2.9)", "2.0 points more (0.5 to 3.5)", "1.9 (0.9 to 2.9)", "(1.9, 0.9 to 2.9)"
DIFFERENCE = re.compile(rf'({NUMBER})(?: points[ a-zA-Z]*| )?[(,] ?({RANGE})\)')


def conclusions() -> str:
    text = report.PAGE.read_text()
    return ' '.join(
        text[text.index('## What it shows') : text.index('## What is compared')].split()
    )


def stated(text: str) -> set[str]:
    """Differences with their intervals, as `measured` writes them."""
    return {f'{mean} ({interval})' for mean, interval in DIFFERENCE.findall(text)}


def measured() -> set[str]:
    """Of any two variants of a network, in any column of its table."""
    found = set()
    for task, networks in TASKS.items():
        current = results_of(task).current()
        for network, column in itertools.product(networks, COLUMNS[task].values()):
            rows = [row for row in current if row['network'] == network]
            values = [by_seed(rows, name, column) for name in {row['variant'] for row in rows}]
            found |= {
                re.sub(r'[+*]', '', advantage(paired_difference(ours, theirs)))
                for ours, theirs in itertools.permutations(values, 2)
                if ours.keys() & theirs.keys()
            }
    return found


class TestConclusions:
    def test_differences_and_intervals_are_measured(self):
        assert sorted(stated(conclusions()) - measured()) == []

    def test_every_interval_is_looked_at(self):
        text = conclusions()
        ranges = re.findall(RANGE, text)
        looked_at = [interval for _, interval in DIFFERENCE.findall(text)]
        assert ranges and looked_at == ranges, 'write "1.9 points (0.9 to 2.9)"'

    def test_readme_says_what_the_page_says(self):
        text = report.README.read_text()
        start = text.index('## Compared, in miniature')
        summary = text[start : text.index('<!-- study_summary -->')]
        numbers = set(re.findall(NUMBER, summary)) - {'1.5'}  # a strength
        assert numbers and numbers <= set(re.findall(NUMBER, conclusions()))

    @pytest.mark.parametrize(
        'text',
        [
            '1.9 points (0.9 to 2.9)',
            '1.9 points of AP (0.9 to 2.9)',
            '1.9 (0.9 to 2.9)',
            '(1.9, 0.9 to 2.9)',
        ],
    )
    def test_ways_of_writing(self, text):
        assert stated(text) == {'1.9 (0.9 to 2.9)'}
