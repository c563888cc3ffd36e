"""The checkpoints that come with mmdk: each belongs to a config, and knows digits."""

import dataclasses
import re
from pathlib import Path

import pytest
import torch
import yaml
from mmengine.runner import load_checkpoint

from benchmarks.study.detection import DIGITS, KEPT_SEED
from benchmarks.study.evaluation import evaluate
from benchmarks.study.runs import results_of
from mmdk.checkpoints import names
from mmdk.detection.digits import make_digits
from tests.detection import stock

CONFIGS = Path(__file__).parents[2] / 'configs/digits'
# Of the study, whose results say how good they are.
VARIANTS = {
    'retinanet_r50-dw-w16_fpn_1e_digits': 'plain',
    'retinanet_r50-dw-w16-fastdcn-c3-c5-head_fpn_1e_digits': 'DCN',
    'retinanet_r50-dw-w16-dk-c3-c5-head_fpn_1e_digits': 'DK',
}


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


@pytest.mark.parametrize('name, variant', VARIANTS.items())
def test_documents_have_the_ap_that_the_study_measured(name, variant):
    (row,) = (
        row
        for row in results_of('detection').current()
        if (row['network'], row['variant'], row['seed']) == ('R50-DW', variant, KEPT_SEED)
    )
    ap, ap_50 = (f'{100 * row["AP"]["as trained"][key]:.1f}' for key in ('mAP', 'mAP_50'))
    (line,) = re.findall(
        rf'^\| \[{name}\].*$', (CONFIGS / 'README.md').read_text(), flags=re.MULTILINE
    )
    assert line.endswith(f'| {variant} | {ap} | {ap_50} |')
    (model,) = (
        model
        for model in yaml.safe_load((CONFIGS / 'metafile.yml').read_text())['Models']
        if model['Name'] == name
    )
    assert model['Results'][0]['Metrics'] == {'box AP': float(ap)}
    assert ap in (CONFIGS.parents[1] / 'docs/gallery.md').read_text()


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
