"""Tables and pictures in the documents, of whatever results are there."""

import dataclasses
import json
import re

import pytest
from PIL import Image

from benchmarks.report import with_blocks
from benchmarks.study import cost, detection, report, runs
from benchmarks.study.classification import STRENGTHS
from benchmarks.study.pictures import STYLES, draw
from benchmarks.study.plan import TASKS, variants
from benchmarks.study.runs import Run, results_of
from benchmarks.study.variants import COMPARED, VARIANTS


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Results, documents and pictures in a folder where there is nothing but the documents."""
    monkeypatch.setattr(runs, 'RESULTS', tmp_path)
    monkeypatch.setattr(report, 'RESULTS', tmp_path)
    page, readme = tmp_path / 'docs/study.md', tmp_path / 'README.md'
    page.parent.mkdir()
    for name, path in (('PAGE', page), ('README', readme)):
        path.write_text(getattr(report, name).read_text())
        monkeypatch.setattr(report, name, path)
    monkeypatch.setattr(report, 'PICTURES', page.parent / 'images/study')
    return tmp_path


def keep(task, network, variant, seeds, value, step=0.01):
    """Results that are `value` at seed 0 and a step more at every further one."""
    for seed in seeds:
        score = value + seed * step
        measured = (
            {'accuracy': dict.fromkeys(STRENGTHS, score)}
            if task == 'classification'
            else {'AP': {name: dict.fromkeys(detection.METRICS, score) for name in detection.SETS}}
        )
        results_of(task).add(Run(task, network, variant, seed), measured)


class TestReport:
    def test_committed_documents_equal_the_results(self):
        documents = [path.read_text() for path in (report.PAGE, report.README)]
        assert [with_blocks(text, report.content) for text in documents] == documents
        for name in report.BLOCKS:
            assert sum(text.count(f'<!-- {name} -->\n') for text in documents) == 1

    def test_committed_pictures_show_the_results(self):
        expected = {name: report.digest(rows) for name, (rows, _) in report.pictures().items()}
        committed = {
            path.name: Image.open(path).text['Source'] for path in report.PICTURES.glob('*')
        }
        assert committed == expected

    def test_without_results(self, files):
        report.write()
        assert '**R50-DW**: nothing to compare yet.' in report.PAGE.read_text()
        assert '**R18-DW**, classification: nothing to compare yet.' in report.README.read_text()
        assert not list(report.PICTURES.glob('*'))

    def test_the_first_row_alone_compares_nothing(self, files):
        keep('detection', 'R50-DW', 'plain', [0, 1], 0.5)
        assert '**R50-DW**: nothing to compare yet.' in report.content('study_detection')

    @pytest.mark.parametrize('task', TASKS)
    def test_table_and_caption(self, files, task):
        network = TASKS[task][0]
        for variant in COMPARED:
            value, step = (0.4, 0.02) if variant == 'DCN' else (0.5, 0.01)
            keep(task, network, variant, [0, 1, 2], value, step)
        text = report.content(f'study_{task}')
        study = f'.venv/bin/python -m benchmarks.study --task {task} --network {network}'
        by = f'{study} --part compared --seeds 3'
        assert text.startswith(f'**{network}**, seeds 0 to 2, by `{by}`.')
        assert 'Unfinished' not in text and 'Fewer than' not in text
        assert '| plain | 3 | 51.0 ± 1.0 | 51.0 ± 1.0 |' in text
        assert '| plain, wider | 3 | 51.0 ± 1.0 (0.0) |' in text
        assert '| DCN | 3 | 42.0 ± 2.0 **(-11.5 to -6.5)** |' in text
        assert f'**{TASKS[task][1]}**: nothing to compare yet.' in text
        versus = text[text.index(f'| {network}: DK minus |') :]
        assert '| plain | 0.0 | 0.0 |' in versus
        assert '| DCN | +9.0 **(+6.5 to +11.5)** |' in versus
        assert f'| {network}: DK+DCN minus |' in versus
        assert ('| AP, small, harder |' in text) == (task == 'detection')

    def test_unfinished_study_says_so(self, files):
        keep('classification', 'R18-DW', 'plain', [0, 1, 2], 0.5)
        keep('classification', 'R18-DW', 'DK', [0, 2], 0.6)
        keep('classification', 'R18-DW', 'DCN', [2], 0.7)
        text = report.content('study_classification')
        assert text.startswith('**R18-DW**, seeds 0, 2, by ') and '--seeds 3`' in text
        assert '**Unfinished:** 11 of 16 trainings are not there.' in text
        assert 'Fewer than three seeds have no interval' in text
        assert '| plain | 2 |' in text and '| DK | 2 |' in text and 'GlobalDK' not in text
        assert '| DCN | 1 | 72.0 (+20.0) |' in text

    def test_more_seeds_of_the_first_leave_ablations_finished(self, files):
        keep('detection', 'R50-DW', 'DK', [0, 1, 2, 3], 0.5)
        for variant in variants('detection', 'ablations')[1:]:
            keep('detection', 'R50-DW', variant, [0, 1], 0.5)
        text = report.content('study_detection_ablations')
        assert '**R50-DW**, seeds 0 to 1, ' in text and 'Unfinished' not in text
        assert '| DK | 2 | 50.5 ± 0.7 |' in text, 'of the seeds that the others have'

    def test_results_of_other_settings_are_left_out(self, files, monkeypatch):
        keep('classification', 'R18-DW', 'plain', [0], 0.5)
        keep('classification', 'R18-DW', 'DK', [0], 0.5)
        assert '| DK | 1 |' in report.content('study_summary')
        slower = dataclasses.replace(VARIANTS['DK'], offset_lr=0.5)
        monkeypatch.setitem(VARIANTS, 'DK', slower)
        assert 'DK' not in report.content('study_summary')

    def test_summary_has_costs(self, files):
        for variant in ('plain', 'DK', 'DCN'):
            keep('classification', 'R18-DW', variant, [0, 1], 0.5)
        costs = [
            dict(table='classification, R18-DW', row=row, column=cost.FLOPS, ratio=ratio)
            for row, ratio in (('plain', 5.0), ('DK', 7.5))
        ]
        costs.append(dict(table='classification, R18-DW', row='DK', column=cost.TIME, ratio=1.678))
        (files / 'study_cost.json').write_text(json.dumps({'rows': costs}))
        lines = report.content('study_summary').splitlines()
        assert [
            line.split(' | ')[-2:] for line in lines if line.startswith(('| plain', '| D'))
        ] == [
            ['5.0 M (+0 %)', 'not measured |'],
            ['not counted', 'not measured |'],
            ['7.5 M (+50 %)', '1.68 |'],
        ]

    def test_pictures_are_drawn_of_whatever_is_there(self, files):
        for task, networks in TASKS.items():
            keep(task, networks[0], 'plain', [0, 1, 2], 0.5)
            keep(task, networks[0], 'DK', [0, 1], 0.6)
            keep(task, networks[1], 'GlobalDK', [0], 0.6)
            keep(task, networks[0], 'DK, scope 5', [0], 0.6)
        report.write()
        pictures = {path.name for path in report.PICTURES.glob('*')}
        assert len(pictures) == 6
        links = re.findall(r'images/study/(.+)\)', report.PAGE.read_text())
        assert sorted(links) == sorted(pictures)
        self.test_committed_documents_equal_the_results()
        self.test_committed_pictures_show_the_results()
        keep('detection', 'R50', 'plain', [0], 0.4)
        with pytest.raises(AssertionError):
            self.test_committed_documents_equal_the_results()
        with pytest.raises(AssertionError):
            self.test_committed_pictures_show_the_results()


class TestPictures:
    def test_curves_and_intervals(self, files):
        for variant, value in (('plain', 0.5), ('DK', 0.6)):
            keep('classification', 'R18-DW', variant, [0, 1, 2], value)
        rows = report.compared_rows('classification', 'compared', 'R18-DW')
        figure = draw('classification', 'compared', 'R18-DW', rows)
        accuracy, difference = figure.axes
        assert [line.get_label() for line in accuracy.lines] == ['plain', 'DK']
        assert accuracy.lines[1].get_ydata() == pytest.approx([61] * len(STRENGTHS))
        bars = [bar.get_children()[0].get_ydata() for bar in difference.containers]
        assert bars == [pytest.approx([10])] * len(STRENGTHS)

    def test_each_compared_variant_has_a_look(self):
        assert list(STYLES) == list(COMPARED)
        assert len(set(STYLES.values())) == len(COMPARED)
