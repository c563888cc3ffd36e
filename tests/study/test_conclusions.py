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
DIFFERENCE = re.compile(rf'({NUMBER})(?: points[ a-zA-Z]*| of AP)? ?[(,] ?({RANGE})\)')


# Where each part of the conclusions begins, and the networks that it is about.
PARTS = {
    '## What it shows': ('R18-DW',),
    'In the classifier MobileNetV2': ('MobileNetV2',),
    'In the detectors, ': ('R50-DW', 'R50'),
    'To find out why DK gains no more': ('R18-DW', 'R50-DW'),
}
END = '## What is compared'


def conclusions() -> dict[str, str]:
    """The parts of the conclusions by how they begin, without line breaks."""
    text = ' '.join(report.PAGE.read_text().split())
    places = [text.index(start) for start in (*PARTS, END)]
    return {
        start: text[begin:end]
        for start, (begin, end) in zip(PARTS, itertools.pairwise(places), strict=True)
    }


def stated(text: str) -> set[str]:
    """Differences with their intervals, as `measured` writes them."""
    return {f'{mean} ({interval})' for mean, interval in DIFFERENCE.findall(text)}


def measured(networks: tuple[str, ...]) -> set[str]:
    """Of any two variants of one of the networks, in any column of its table."""
    found = set()
    for task, network in itertools.product(TASKS, networks):
        rows = [row for row in results_of(task).rows if row['network'] == network]
        for column in COLUMNS[task].values():
            values = [by_seed(rows, name, column) for name in {row['variant'] for row in rows}]
            found |= {
                re.sub(r'[+*]', '', advantage(paired_difference(ours, theirs)))
                for ours, theirs in itertools.permutations(values, 2)
                if ours.keys() & theirs.keys()
            }
    return found


class TestConclusions:
    @pytest.mark.parametrize('part, networks', PARTS.items(), ids=PARTS)
    def test_differences_and_intervals_are_measured(self, part, networks):
        assert sorted(stated(conclusions()[part]) - measured(networks)) == []

    @pytest.mark.parametrize('part', PARTS)
    def test_every_interval_is_looked_at(self, part):
        text = conclusions()[part]
        ranges = re.findall(RANGE, text)
        looked_at = [interval for _, interval in DIFFERENCE.findall(text)]
        assert ranges and looked_at == ranges, 'write "1.9 points (0.9 to 2.9)"'

    def test_readme_says_what_the_page_says(self):
        text = ' '.join(report.README.read_text().split())
        start, end = map(text.index, ('## Compared, in miniature', '<!-- study_summary -->'))
        summary = text[start:end]
        assert stated(summary) and stated(summary) <= stated(' '.join(conclusions().values()))
        assert len(DIFFERENCE.findall(summary)) == len(re.findall(RANGE, summary))

    @pytest.mark.parametrize(
        'text',
        [
            '1.9 points (0.9 to 2.9)',
            '1.9 points of AP (0.9 to 2.9)',
            '1.9 of AP (0.9 to 2.9)',
            '1.9 (0.9 to 2.9)',
            '(1.9, 0.9 to 2.9)',
        ],
    )
    def test_ways_of_writing(self, text):
        assert stated(text) == {'1.9 (0.9 to 2.9)'}
