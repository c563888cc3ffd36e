"""The study's bookkeeping: what is trained, what is kept, and what is said of it."""

import dataclasses
import json

import pytest
import torch
from matplotlib.figure import Figure
from mmengine.hooks import Hook
from torch.utils.data import TensorDataset

from benchmarks.study import classification, detection, report, runs
from benchmarks.study.classification import STRENGTHS, Classifier, draw_set
from benchmarks.study.networks import NETWORKS
from benchmarks.study.runs import Results, Run, carry_out
from benchmarks.study.statistics import mean, paired_difference
from benchmarks.study.variants import COMPARED, VARIANTS
from mmdk.layers.conv_base import ConvBase

RUN = Run('classification', 'R18-DW', 'DK', 0)
OTHER = dataclasses.replace(RUN, seed=1)


class TestResults:
    def test_are_kept_and_found_again(self, tmp_path):
        path = tmp_path / 'results.json'
        Results(path, dict(epochs=8)).add(RUN, dict(accuracy=0.5))
        again = Results(path, dict(epochs=8))
        assert RUN in again and OTHER not in again
        assert json.loads(path.read_text())['rows'][0]['accuracy'] == 0.5

    @pytest.mark.parametrize('task', [classification, detection])
    def test_of_a_task_are_found_again(self, tmp_path, task):
        path = tmp_path / 'results.json'
        Results(path, task.SETTINGS).add(RUN, {})
        assert RUN in Results(path, task.SETTINGS)

    def test_of_other_settings_do_not_count(self, tmp_path, monkeypatch):
        path = tmp_path / 'results.json'
        Results(path, dict(epochs=8)).add(RUN, dict(accuracy=0.5))
        assert RUN not in Results(path, dict(epochs=9))
        slower = dataclasses.replace(VARIANTS['DK'], offset_lr=0.5)
        monkeypatch.setitem(VARIANTS, 'DK', slower)
        assert RUN not in Results(path, dict(epochs=8))

    def test_only_what_is_missing_is_trained(self, tmp_path, monkeypatch):
        trained = []
        monkeypatch.setattr(runs, '_in_process', lambda run: trained.append(run) or {})
        results = Results(tmp_path / 'results.json', {})
        results.add(RUN, {})
        carry_out([RUN, OTHER], results, jobs=2)
        assert trained == [OTHER] and OTHER in results

    def test_a_failure_keeps_the_others(self, tmp_path, monkeypatch):
        def train(run):
            if run == RUN:
                raise RuntimeError('diverged')
            return {}

        monkeypatch.setattr(runs, '_in_process', train)
        results = Results(tmp_path / 'results.json', {})
        with pytest.raises(RuntimeError, match='diverged'):
            carry_out([OTHER, RUN], results, jobs=1)
        assert OTHER in Results(tmp_path / 'results.json', {})


class TestStatistics:
    def test_interval_is_student_s(self):
        """Of 1, 2, 3: mean 2, standard error 1 / sqrt(3), quantile 4.303 of two degrees."""
        difference = paired_difference({0: 2, 1: 4, 2: 6, 9: 0}, {0: 1, 1: 2, 2: 3})
        assert difference.mean == 2 and difference.seeds == 3
        assert difference.high - 2 == pytest.approx(4.3027 / 3**0.5, rel=1e-4)
        assert not difference.is_clear
        assert paired_difference({0: 2.0, 1: 2.1}, {0: 1.0, 1: 1.1001}).is_clear

    def test_single_seed_has_no_interval(self):
        assert paired_difference({0: 2}, {0: 1}).low is None
        assert mean([3.0]).spread is None

    def test_errors(self):
        with pytest.raises(ValueError, match=r'No seed in common: \[0\] and \[1\]'):
            paired_difference({0: 1}, {1: 1})
        with pytest.raises(ValueError, match='no values'):
            mean([])


@pytest.mark.parametrize('network', NETWORKS)
@pytest.mark.parametrize('variant', [name for name in COMPARED if name != 'plain, wider'])
def test_variants_of_a_seed_first_compute_the_same(network, variant):
    """But for experts, whose mixture is the plain kernel only up to noise that tells them apart."""
    plain, swapped = [], []
    images = torch.randn(2, 1, 32, 32)
    for outputs, name in ((plain, 'plain'), (swapped, variant)):
        torch.manual_seed(3)
        model = Classifier(network, VARIANTS[name]).eval()
        outputs.append(model(images, None, 'tensor'))
    layers = sum(isinstance(part, ConvBase) for part in model.modules())
    assert layers == (0 if variant == 'plain' else {'R18-DW': 12, 'MobileNetV2': 14}[network])
    tolerance = 0.2 if variant == 'CondConv' else 1e-4
    torch.testing.assert_close(swapped[0], plain[0], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize('network', NETWORKS)
def test_wider_network_has_half_as_many_channels_again(network):
    plain, wider = (Classifier(network, VARIANTS[name]) for name in ('plain', 'plain, wider'))
    assert wider.network.channels == 1.5 * plain.network.channels
    assert wider(torch.randn(2, 1, 32, 32), None, 'tensor').shape == (2, 10)


def test_offsets_learn_slower_all_the_way(tmp_path, monkeypatch):
    """Some schedulers, OneCycleLR among them, give all parameter groups one learning rate."""
    variant = dataclasses.replace(VARIANTS['DK'], stages=(4,), offset_lr=0.25)
    model = Classifier('R18-DW', variant)
    monkeypatch.setattr(classification, 'SETTINGS', classification.SETTINGS | dict(epochs=2))
    images = TensorDataset(torch.randn(192, 1, 32, 32), torch.zeros(192, dtype=torch.long))
    runner = classification.make_runner(model, images, variant, 0, str(tmp_path))
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
    for loader in (config.train_dataloader, config.val_dataloader, config.test_dataloader):
        (resize,) = (step for step in loader.dataset.pipeline if step.type == 'Resize')
        assert resize.scale == (96, 96)
    assert config.optim_wrapper.paramwise_cfg.custom_keys.conv_offset.lr_mult == 0.1
    epochs = detection.SETTINGS['epochs']
    assert config.param_scheduler[1].end == config.train_cfg.max_epochs == epochs


def test_tested_scans_are_other_images_at_every_strength():
    from sklearn.datasets import load_digits

    source = load_digits()
    members = torch.arange(10).numpy()
    weak, strong = (draw_set(source, members, strength, 20, seed=1) for strength in (0.0, 3.0))
    assert weak.tensors[0].shape == (20, 1, 32, 32)
    assert torch.equal(weak.tensors[1], strong.tensors[1])
    assert not torch.equal(weak.tensors[0], strong.tensors[0])


def rows():
    return [
        dict(
            network='R18-DW',
            variant=variant,
            seed=seed,
            accuracy={str(strength): base + seed / 100 for strength in STRENGTHS},
        )
        for variant, base in (('plain', 0.5), ('DK', 0.6))
        for seed in (0, 1, 2)
    ]


def test_table():
    lines = report.tables(rows(), 'classification', 'compared').splitlines()
    assert lines[0].startswith('| R18-DW | accuracy at 0.0 |')
    assert lines[2].startswith('| plain | 51.0 ± 1.0 |')
    assert lines[3].startswith('| DK | 61.0 ± 1.0 **(+10.0 to +10.0)** |')
    assert len(lines) == 4  # variants without a result are left out


def test_plot():
    figure = report.plot_strengths('R18-DW', rows())
    assert isinstance(figure, Figure)
    assert [line.get_label() for line in figure.axes[0].lines] == ['plain', 'DK']
