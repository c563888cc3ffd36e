"""The study's bookkeeping: what is trained, what is kept, and what is said of it."""

import dataclasses
import fcntl
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmengine.hooks import Hook
from PIL import Image
from sklearn.datasets import load_digits
from torch.utils.data import TensorDataset

from benchmarks.report import with_blocks
from benchmarks.study import __main__ as command
from benchmarks.study import classification, cost, detection, report, runs
from benchmarks.study.classification import STRENGTHS, Classifier, draw_set
from benchmarks.study.networks import NETWORKS
from benchmarks.study.pictures import STYLES, draw
from benchmarks.study.plan import TASKS, variants
from benchmarks.study.runs import Results, Run, carry_out, results_of
from benchmarks.study.statistics import mean, paired_difference
from benchmarks.study.variants import COMPARED, VARIANTS
from mmdk.detection.digits import make_digits, render_digit, split_scans
from mmdk.layers.conv_base import ConvBase
from mmdk.replacement import replace_conv2d

RUN = Run('classification', 'R18-DW', 'DK', 0)
OTHER = dataclasses.replace(RUN, seed=1)
SETTINGS = {RUN.network: dict(epochs=8)}


class TestResults:
    def test_are_kept_and_found_again(self, tmp_path):
        path = tmp_path / 'results.json'
        Results(path, SETTINGS).add(RUN, dict(accuracy=0.5))
        again = Results(path, SETTINGS)
        assert RUN in again and OTHER not in again
        assert json.loads(path.read_text())['rows'][0]['accuracy'] == 0.5

    @pytest.mark.parametrize('task', TASKS)
    def test_of_a_task_are_found_again(self, monkeypatch, tmp_path, task):
        monkeypatch.setattr(runs, 'RESULTS', tmp_path)
        for network in TASKS[task]:
            run = Run(task, network, 'DK', 0)
            results_of(task).add(run, {})
            assert run in results_of(task)

    def test_of_other_settings_do_not_count(self, tmp_path, monkeypatch):
        path = tmp_path / 'results.json'
        Results(path, SETTINGS).add(RUN, dict(accuracy=0.5))
        assert RUN not in Results(path, {RUN.network: dict(epochs=9)})
        slower = dataclasses.replace(VARIANTS['DK'], offset_lr=0.5)
        monkeypatch.setitem(VARIANTS, 'DK', slower)
        assert RUN not in Results(path, SETTINGS)

    def test_only_what_is_missing_is_trained(self, tmp_path, monkeypatch):
        trained = []
        monkeypatch.setattr(runs, '_in_process', lambda run: trained.append(run) or {})
        results = Results(tmp_path / 'results.json', SETTINGS)
        results.add(RUN, {})
        carry_out([RUN, OTHER], results, jobs=2)
        assert trained == [OTHER] and OTHER in results

    def test_a_failure_keeps_those_that_have_begun_and_begins_no_other(self, tmp_path, monkeypatch):
        begun, failed = threading.Event(), threading.Event()
        trained = []

        def train(run):
            trained.append(run)
            if run == RUN:
                assert begun.wait(10)
                failed.set()
                raise RuntimeError('diverged')
            begun.set()
            assert failed.wait(10)
            time.sleep(0.2)  # so that the failure is noticed
            return {}

        monkeypatch.setattr(runs, '_in_process', train)
        results = Results(tmp_path / 'results.json', SETTINGS)
        others = [dataclasses.replace(RUN, seed=seed) for seed in range(1, 6)]
        with pytest.raises(RuntimeError, match='diverged'):
            carry_out([RUN, *others], results, jobs=2)
        assert set(trained) == {RUN, OTHER}
        assert OTHER in results and RUN not in results

    def test_adding_waits_for_other_processes_and_keeps_theirs(self, tmp_path):
        path = tmp_path / 'results.json'
        results = Results(path, SETTINGS)
        results.add(OTHER, {})
        adding = threading.Thread(target=results.add, args=(RUN, {}))
        folder = os.open(tmp_path, os.O_RDONLY)
        fcntl.flock(folder, fcntl.LOCK_EX)
        adding.start()
        adding.join(0.3)
        assert adding.is_alive() and RUN not in results
        os.close(folder)
        adding.join(10)
        assert RUN in results and OTHER in results

    def test_of_a_run_there_is_one(self, tmp_path):
        results = Results(tmp_path / 'results.json', SETTINGS)
        for accuracy in (0.5, 0.6):
            results.add(RUN, dict(accuracy=accuracy))
        assert [row['accuracy'] for row in results.rows] == [0.6]

    def test_say_which_machine_trained_them(self, tmp_path):
        results = Results(tmp_path / 'results.json', SETTINGS)
        results.add(RUN, {})
        assert results.rows[0]['machine']['torch'] == torch.__version__


class TestCommand:
    @pytest.fixture
    def study(self, monkeypatch, tmp_path):
        """Runs the command; every training gives what the function given does."""

        def study(train, *arguments):
            monkeypatch.setattr(runs, 'RESULTS', tmp_path)
            monkeypatch.setattr(runs, '_in_process', train)
            monkeypatch.setattr(sys, 'argv', ['study', *map(str, arguments)])
            command.main()

        return study

    def test_trains_what_it_is_asked_for_seed_by_seed(self, study, capsys):
        trained = []
        asked = ('--task', 'detection', '--network', 'R50', '--part', 'compared', '--seeds', 2)
        study(lambda run: trained.append(run) or {}, *asked, '--jobs', 1)
        assert trained == [
            Run('detection', 'R50', variant, seed) for seed in (0, 1) for variant in COMPARED
        ]
        assert '16/16, 0 minutes left: detection, R50, DK+DCN, seed 1' in capsys.readouterr().out

    @pytest.mark.parametrize(
        'error, message',
        [
            (KeyboardInterrupt(), 'Interrupted; the same command goes on'),
            (subprocess.CalledProcessError(1, 'train'), 'a training failed; its own message is'),
        ],
    )
    def test_ends_with_a_message(self, study, error, message):
        def train(run):
            raise error

        with pytest.raises(SystemExit, match=message):
            study(train, '--task', 'detection', '--seeds', 1, '--jobs', 1)


class TestStatistics:
    def test_interval_is_student_s(self):
        """Of 1, 2, 3: mean 2, standard error 1 / sqrt(3), quantile 4.303 of two degrees."""
        difference = paired_difference({0: 2, 1: 4, 2: 6, 9: 0}, {0: 1, 1: 2, 2: 3})
        assert difference.mean == 2 and difference.seeds == 3
        assert difference.high - 2 == pytest.approx(4.3027 / 3**0.5, rel=1e-4)
        assert not difference.is_clear
        assert paired_difference({0: 2.0, 1: 2.1, 2: 2.3}, {0: 1.0, 1: 1.1, 2: 1.2}).is_clear

    @pytest.mark.parametrize('seeds', [[0], [0, 1]])
    def test_few_seeds_have_no_interval(self, seeds):
        values = {seed: 2.0 + seed for seed in seeds}
        assert paired_difference(values, dict.fromkeys(seeds, 1.0)).low is None

    def test_differences_that_are_all_alike_have_no_interval(self):
        """Accuracies and APs come in steps; equal ones do not say that there is no spread."""
        found = paired_difference({0: 0.3, 1: 0.4, 2: 0.6}, {0: 0.2, 1: 0.3, 2: 0.5})
        assert found.mean == pytest.approx(0.1) and found.low is None and not found.is_clear

    def test_single_seed_has_no_spread(self):
        assert mean([3.0]).spread is None

    def test_errors(self):
        with pytest.raises(ValueError, match=r'No seed in common: \[0\] and \[1\]'):
            paired_difference({0: 1}, {1: 1})
        with pytest.raises(ValueError, match='no values'):
            mean([])


@pytest.mark.parametrize('network', NETWORKS)
@pytest.mark.parametrize('variant', [name for name in COMPARED if name != 'plain, wider'])
def test_variants_of_a_seed_first_compute_the_same(network, variant, tmp_path):
    """With the weights that a training begins with, which a runner may have initialised anew."""
    plain, swapped = [], []
    images = torch.randn(8, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    for outputs, name in ((plain, 'plain'), (swapped, variant)):
        runner = classification.prepare(network, VARIANTS[name], 3, str(tmp_path))
        runner._init_model_weights()
        # In evaluation, untrained normalisation lets next to nothing through to the scores.
        outputs.append(runner.model.train()(images, None, 'tensor'))
    layers = sum(isinstance(part, ConvBase) for part in runner.model.modules())
    assert layers == (0 if variant == 'plain' else {'R18-DW': 12, 'MobileNetV2': 14}[network])
    assert plain[0].std() > 0.05
    torch.testing.assert_close(swapped[0], plain[0], rtol=1e-3, atol=1e-3)


# Of what trains with each revision of the settings: raise the revision with whatever changes this.
RECIPES = {
    ('classification', 'R18-DW', 1): 'c22f7f6ebea0ed87',
    ('classification', 'MobileNetV2', 1): '121abe3b7bd61298',
    ('detection', 'R50-DW', 2): 'b8ede56190faf770',
    ('detection', 'R50', 2): 'fe7a7440878fe0f5',
}


@pytest.mark.parametrize('task, network', [(task, each) for task in TASKS for each in TASKS[task]])
def test_results_of_other_recipes_have_another_revision(task, network, tmp_path):
    """Schedules and networks are not all in the settings, by which results are found again."""
    recipe, module = {
        'classification': (classifier_recipe, classification),
        'detection': (detector_recipe, detection),
    }[task]
    recipes = [recipe(network, VARIANTS[name], tmp_path) for name in ('plain', 'plain, wider')]
    digest = hashlib.sha256(json.dumps(recipes, sort_keys=True).encode()).hexdigest()[:16]
    assert RECIPES[task, network, module.SETTINGS[network]['revision']] == digest


def classifier_recipe(network, variant, folder):
    runner = classification.prepare(network, variant, 0, str(folder))
    return [runner.optim_wrapper, runner.param_schedulers, shapes(runner.model)]


def detector_recipe(network, variant, folder):
    config = detection.make_config(network, variant, 0, str(folder))
    model = MODELS.build(config.model)
    learning = [config[name] for name in ('optim_wrapper', 'param_scheduler', 'train_cfg')]
    return [*learning, config.train_dataloader.batch_size, shapes(model)]


def shapes(model):
    return {name: list(weight.shape) for name, weight in model.state_dict().items()}


@pytest.mark.parametrize('network', TASKS['detection'])
def test_detectors_of_a_seed_first_compute_the_same(network, tmp_path, monkeypatch):
    """As classifiers do; in training, where normalisation is by the batch."""
    monkeypatch.setattr(detection, 'make_digits', lambda *arguments: None)
    images = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    scores = {}
    for name in COMPARED.keys() - {'plain, wider'}:
        runner = detection.prepare(network, VARIANTS[name], 3, str(tmp_path))
        runner._init_model_weights()
        (finest, *_), _ = runner.model.train()(images, mode='tensor')
        scores[name] = finest
    plain = scores.pop('plain')
    assert plain.std() > 1e-3
    for each in scores.values():
        torch.testing.assert_close(each, plain, rtol=1e-3, atol=1e-3 * plain.std().item())


@pytest.mark.parametrize('task, network', [(task, each) for task in TASKS for each in TASKS[task]])
def test_wider_network_costs_as_much_as_dk(task, network):
    wider, dk = (cost.count_flops(task, network, name, 1).ratio for name in ('plain, wider', 'DK'))
    assert wider == pytest.approx(dk, rel=0.12)


def test_offsets_learn_slower_all_the_way(tmp_path):
    """Some schedulers, OneCycleLR among them, give all parameter groups one learning rate."""
    variant = dataclasses.replace(VARIANTS['DK'], stages=(4,), offset_lr=0.25)
    model = Classifier('R18-DW', variant)
    images = TensorDataset(torch.randn(192, 1, 32, 32), torch.zeros(192, dtype=torch.long))
    runner = classification.make_runner(model, images, variant, 2, 0, str(tmp_path))
    rates = LearningRates(model)
    runner.register_hook(rates)
    runner.train()
    assert len(rates.of_weights) == 6 and len(set(rates.of_weights)) > 1
    assert rates.of_offsets == pytest.approx([rate / 4 for rate in rates.of_weights])


class LearningRates(Hook):
    """Of a layer's offsets and of its weight, iteration by iteration."""

    def __init__(self, model):
        layer = next(part for part in model.modules() if isinstance(part, ConvBase))
        self.parameters = (layer.conv_offset.weight, layer.weight)
        self.of_offsets, self.of_weights = [], []

    def after_train_iter(self, runner, *args, **kwargs):
        groups = runner.optim_wrapper.param_groups
        for parameter, rates in zip(
            self.parameters, (self.of_offsets, self.of_weights), strict=True
        ):
            (group,) = (each for each in groups if each['params'][0] is parameter)
            rates.append(group['lr'])


def test_detector_sees_images_as_they_were_drawn(tmp_path):
    config = detection.make_config('R50-DW', VARIANTS['DK'], 3, str(tmp_path))
    for loader in (config.train_dataloader, config.test_dataloader):
        (resize,) = (step for step in loader.dataset.pipeline if step.type == 'Resize')
        assert resize.scale == (96, 96)
    assert config.optim_wrapper.paramwise_cfg.custom_keys.conv_offset.lr_mult == 0.1
    cosine = config.param_scheduler[1]
    assert cosine.end == cosine.T_max == config.train_cfg.max_epochs == 1
    assert config.val_dataloader is None, 'its images might not be there'


@pytest.mark.slow
def test_detector_trains_in_an_empty_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    few = {
        name: dataclasses.replace(digits, train_images=8, val_images=4)
        for name, digits in detection.SETS.items()
    }
    monkeypatch.setattr(detection, 'SETS', few)
    result = detection.train_and_test('R50-DW', VARIANTS['DK'], 0, tmp_path / 'weights/DK.pth')
    assert {name: list(metrics) for name, metrics in result['AP'].items()} == dict.fromkeys(
        few, list(detection.METRICS)
    )
    weights = torch.load(tmp_path / 'weights/DK.pth')['state_dict']
    assert weights['backbone.layer2.0.conv2.weight'].shape[-2:] == (4, 4)
    assert weights['bbox_head.cls_convs.0.conv.weight'].shape == (64, 64, 4, 4)
    assert not any(each.isnan().any() for each in weights.values())


@pytest.mark.parametrize(
    'variant, backbone, head',
    [('DK', 13, 4), ('DK, all stages', 16, 4), ('DK, not in the head', 13, 0)],
)
def test_what_is_replaced_in_a_detector(variant, backbone, head):
    model = MODELS.build(detection.make_config('R50', VARIANTS['plain'], 0, 'unused').model)
    swapped = replace_conv2d(model, where=detection.replaced(VARIANTS[variant]))
    assert Counter(name.split('.')[0] for name in swapped) == Counter(
        backbone=backbone, bbox_head=head
    )


def test_detector_is_never_tested_on_scans_that_it_was_trained_on():
    classes = load_digits().target
    trained, _ = split_scans(classes, detection.SETS['as trained'])
    for digits in detection.SETS.values():
        _, tested = split_scans(classes, digits)
        assert len(tested) > 300 and not set(tested) & set(trained)


@pytest.mark.slow
def test_digits_on_harder_images_are_as_many_and_as_small_as_the_page_says(tmp_path):
    make_digits(tmp_path, detection.HARDER)
    annotations = json.loads((tmp_path / 'annotations/val.json').read_text())['annotations']
    large = sum(each['area'] >= 32 * 32 for each in annotations)
    assert f'of the {len(annotations)} digits on harder images, {large} are larger' in (
        report.PAGE.read_text()
    )


def test_detector_that_finds_nothing_has_an_ap_of_zero(monkeypatch, tmp_path):
    monkeypatch.setattr(detection, 'evaluate', lambda *args: {})
    config = detection.make_config('R50-DW', VARIANTS['plain'], 0, str(tmp_path))
    runner = SimpleNamespace(cfg=config, model=None)
    assert detection.precisions(runner, tmp_path) == dict.fromkeys(detection.METRICS, 0.0)


def test_tested_scans_are_other_images_at_every_strength():
    source = load_digits()
    members = torch.arange(10).numpy()
    weak, strong = (draw_set(source, members, strength, 20, seed=1) for strength in (0.0, 3.0))
    assert weak.tensors[0].shape == (20, 1, 32, 32)
    assert torch.equal(weak.tensors[1], strong.tensors[1])
    assert not torch.equal(weak.tensors[0], strong.tensors[0])


@pytest.mark.parametrize('strength, share', [(1.0, 0.0), (1.5, 0.04), (2.0, 0.14), (3.0, 0.3)])
def test_digits_that_leave_the_image_are_as_many_as_the_page_says(strength, share):
    source = load_digits()
    rng = np.random.default_rng(0)
    inside = []
    for scan in source.images[:900]:
        warp = classification.draw_warp(rng, strength)
        ink, all_ink = (render_digit(scan, warp, size).sum() for size in (32, 96))
        inside.append(ink / all_ink)
    assert np.mean(np.array(inside) < 0.95) == pytest.approx(share, abs=0.03)


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
        expected = {
            report.picture_name(*subject): report.digest(rows)
            for subject in report.subjects()
            if (rows := report.compared_rows(*subject))
        }
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

    def test_summary_has_flops(self, files):
        for variant in ('plain', 'DK', 'DCN'):
            keep('classification', 'R18-DW', variant, [0, 1], 0.5)
        costs = [
            dict(table='classification, R18-DW', row=row, column=cost.FLOPS, ratio=ratio)
            for row, ratio in (('plain', 5.0), ('DK', 7.5))
        ]
        (files / 'study_cost.json').write_text(json.dumps({'rows': costs}))
        lines = report.content('study_summary').splitlines()
        assert [line.split(' | ')[-1] for line in lines if line.startswith(('| plain', '| D'))] == [
            '5.0 M (+0 %) |',
            'not counted |',
            '7.5 M (+50 %) |',
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


class TestCost:
    def test_everything_compared_is_measured_once(self):
        labels = [measurement.label for measurement in cost.measurements()]
        assert len(set(labels)) == len(labels) == 4 * 4 * len(COMPARED)
        assert f'detection, R50: DK+DCN, {cost.FLOPS}' in labels

    def test_counts(self):
        """What DK adds: offsets of 18 channels, 16 - 9 cells and 4 multiply-adds a tap."""
        counts = {}
        for variant in ('plain', 'DK'):
            subject = ('classification', 'R18-DW', variant, 1)
            counts[variant] = cost.count_parameters(*subject), cost.count_flops(*subject)
        # Channels and output positions of the layers: two blocks in each of three stages.
        layers = [(c, 32 // 2**s) for s, c in ((1, 16), (2, 32), (3, 64))]
        layers += [(2 * c, side) for c, side in layers for _ in range(3)]
        parameters = sum(c * (9 * 18 + 16 - 9) + 18 for c, _ in layers)
        flops = sum(side**2 * c * (9 * 18 + 9 * 4) for c, side in layers)
        more = [dk.ratio - plain.ratio for plain, dk in zip(*counts.values(), strict=True)]
        assert more == pytest.approx([parameters / 1e3, flops / 1e6])

    def test_plain_is_one(self):
        assert cost.compare_time('detection', 'R50', 'plain', 1).ratio == 1

    def test_step_trains(self):
        step = cost.training_step('classification', 'R18-DW', 'DK')
        assert step()['loss'] > step()['loss'] > 0

    @pytest.mark.slow
    def test_memory_is_counted(self):
        assert cost.growth('classification', 'R18-DW', 'plain') > 1 << 20
