"""The checkpoints that come with mmdk: each belongs to a config, and knows digits."""

import dataclasses
from pathlib import Path

import pytest
import torch
from mmengine.runner import load_checkpoint

from benchmarks.study.detection import DIGITS
from benchmarks.study.evaluation import evaluate
from mmdk.checkpoints import names
from mmdk.detection.digits import make_digits
from tests.detection import stock

CONFIGS = Path(__file__).parents[2] / 'configs/digits'


def config_of(name):
    return stock.load_file(CONFIGS / f'{name.removeprefix("mmdk://")}.py')


def test_each_config_has_one():
    assert names() == sorted(f'mmdk://{path.stem}' for path in CONFIGS.glob('*.py'))


@pytest.mark.parametrize('name', names())
def test_is_all_of_the_model(name):
    model = stock.build(config_of(name))
    checkpoint = load_checkpoint(model, name, strict=True)
    assert checkpoint['meta']['dataset_meta']['classes'] == tuple('0123456789')
    # In half precision in the file, so that all of them together are a few megabytes.
    loaded = model.state_dict()
    assert all(
        torch.equal(loaded[key], value.to(loaded[key].dtype))
        for key, value in checkpoint['state_dict'].items()
    )


def test_unknown_name_is_an_error_that_lists_those_there_are():
    with pytest.raises(FileNotFoundError, match=r'no checkpoint mmdk://r50.*mmdk://retinanet'):
        load_checkpoint(torch.nn.Linear(1, 1), 'mmdk://r50')


@pytest.mark.slow
@pytest.mark.parametrize('name', names())
def test_finds_digits_that_it_was_never_trained_on(name, tmp_path):
    config, folder = config_of(name), tmp_path / 'digits'
    make_digits(folder, dataclasses.replace(DIGITS, train_images=1, val_images=40))
    model = stock.build(config)
    load_checkpoint(model, name, strict=True)
    loader = config.test_dataloader
    loader.update(num_workers=0, persistent_workers=False)
    loader.dataset.data_root = f'{folder}/'
    metric = dict(config.test_evaluator, ann_file=str(folder / 'annotations/val.json'))
    assert evaluate(model, loader, metric)['coco/bbox_mAP_50'] > 0.6
