"""Detectors, and the digits that they see."""

import dataclasses
import json
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from mmdet.registry import MODELS
from sklearn.datasets import load_digits

from benchmarks.study import detection, report
from benchmarks.study.plan import TASKS
from benchmarks.study.variants import COMPARED, VARIANTS
from mmdk.detection.digits import make_digits, split_scans
from mmdk.replacement import replace_conv2d


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
