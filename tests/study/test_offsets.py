"""What is recorded of offsets while networks train."""

import math
from types import SimpleNamespace

import pytest
import torch
from mmengine.logging import MessageHub
from torch import nn

from benchmarks.study import classification, offsets, report
from benchmarks.study.plan import PARTS, TASKS, variants
from benchmarks.study.runs import Run
from mmdk.layers import DeformKernel2d


def test_what_is_watched_is_trained_in_the_study():
    for task, watched in offsets.WATCHED.items():
        studied = [name for part in PARTS for name in variants(task, part)]
        assert set(watched) <= set(studied)


def test_gradients_are_norms_over_a_stage():
    """Of two layers in one stage, whose gradients are then taken away as an optimizer's are."""
    torch.manual_seed(0)
    stage = nn.Sequential(DeformKernel2d(3, 3, 3, padding=1), DeformKernel2d(3, 3, 3, padding=1))
    model = nn.ModuleDict({'backbone': nn.ModuleDict({'layer1': stage})})
    hub = MessageHub.get_instance('test_gradients_are_norms_over_a_stage')
    runner = SimpleNamespace(model=model, message_hub=hub, iter=0)
    hook = offsets.GradientHook(interval=2)
    hook.before_train(runner)
    for runner.iter in range(3):
        hook.before_train_iter(runner, runner.iter)
        stage(torch.randn(2, 3, 8, 8)).square().sum().backward()
        predicting = [p.grad for layer in stage for p in layer.conv_offset.parameters()]
        squares = [
            sum(each.square().sum().item() for each in part)
            for part in (predicting, [layer.weight.grad for layer in stage])
        ]
        if runner.iter == 1:
            expected = math.sqrt(squares[0] / squares[1])
        model.zero_grad()
        hook.after_train_iter(runner, runner.iter)
    recorded = hub.get_scalar('train/kernel_offset/backbone.layer1/gradient')
    assert recorded.data[0].tolist() == [pytest.approx(expected, rel=1e-5)] and expected > 0


@pytest.mark.slow
def test_curves_of_a_training(monkeypatch, tmp_path):
    few = classification.COMMON | dict(train_images=256, batch_size=32)
    monkeypatch.setattr(classification, 'COMMON', few)
    monkeypatch.setitem(classification.SETTINGS, 'R18-DW', few | dict(epochs=2))
    monkeypatch.setitem(offsets.INTERVAL, 'classification', 5)
    curves = offsets.train(Run('classification', 'R18-DW', 'DK', 0), str(tmp_path))
    stages = [f'network.layer{number}' for number in (2, 3, 4)]
    assert list(curves) == list(offsets.SCALARS)
    for by_stage in curves.values():
        assert list(by_stage) == stages
        assert all(list(values) == [5, 10, 15] for values in by_stage.values())
    assert all(value > 0 for value in curves['gradient'][stages[0]].values())


def test_table_has_first_and_last_records(monkeypatch):
    values = {str(step): float(step) for step in range(1, 11)}
    row = {'variant': 'DK', 'curves': {scalar: {'layer2': values} for scalar in offsets.SCALARS}}
    monkeypatch.setattr(offsets, 'current', lambda task: [row])
    text = offsets.table('detection')
    assert (
        f'| {TASKS["detection"][0]} |' in text
        and '| DK: layer2 | 1 → 8 | 100.0 % → 800.0 % | 1 → 8 |' in text
    )
    monkeypatch.setattr(offsets, 'current', lambda task: [])
    assert offsets.table('detection') == ''


def test_page_says_what_is_recorded():
    page = ' '.join(report.PAGE.read_text().split())
    by_variant = {
        (task, row['variant']): row['curves'] for task in TASKS for row in offsets.current(task)
    }
    detector = by_variant['detection', 'DK']['outside']['backbone.layer4']
    last = list(detector.values())[-offsets.LAST :]
    share = f'{100 * sum(last) / len(last):.0f} %'
    assert f"In the detector's last stage, {share} of the taps end outside" in page

    gradients = by_variant['classification', 'DK']['gradient'].values()
    ratios = [ratio for curve in gradients for ratio in curve.values()]
    lengths = f'{min(ratios):.0f} to {max(ratios):.0f} times as long as those of the weights'
    assert f'with DK in R18-DW {lengths}' in page

    fast = by_variant['classification', 'DK, offsets learn as fast']['outside']
    assert 'three quarters of the taps or more are outside after 150 steps' in page
    assert min(curve['150'] for curve in fast.values()) > 0.73

    assert 'reaches four fifths or more of what it is in the end' in page
    for curves in by_variant.values():
        for curve in map(list, map(dict.values, curves['mean_abs'].values())):
            assert curve[len(curve) // 3] > 0.8 * curve[-1]
