"""What README.md tells a reader to do, done."""

import inspect
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import load_checkpoint
from PIL import Image

from mmdk.layers import DeformKernel2d
from mmdk.layers.registry import LAYERS, build_layer
from tests.detection import stock

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / 'README.md').read_text()


def blocks(language):
    return re.findall(rf'^```{language}\n(.*?)^```$', README, re.MULTILINE | re.DOTALL)


CONFIGS = [block for block in blocks('python') if '_base_' in block]
PROGRAMS = [block for block in blocks('python') if '_base_' not in block]
# Replaces what a test cannot have: the download, COCO's size, 12 epochs' time.
SMALL = """
model['backbone'].update(init_cfg=None, base_channels=4)
model['neck'] = dict(in_channels=[16, 32, 64, 128])
_pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True),
             dict(type='Resize', scale=(64, 64)), dict(type='PackDetInputs', meta_keys=(
                 'img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))]
train_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(pipeline=_pipeline))
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(pipeline=_pipeline))
test_dataloader = val_dataloader
train_cfg = dict(val_interval=12)
default_hooks = dict(checkpoint=dict(interval=12))
"""


@pytest.mark.parametrize('program', PROGRAMS)
def test_programs_run(program):
    subprocess.run([sys.executable, '-c', program], check=True)


@pytest.mark.parametrize('text', CONFIGS)
def test_configs_build_deformable_models(text, tmp_path):
    path = tmp_path / 'config.py'
    path.write_text(text)
    config = Config.fromfile(path)
    stock.drop_pretrained(config.model)
    model = stock.build(config)
    assert any(isinstance(module, DeformKernel2d) for module in model.modules())


def test_the_diff_is_the_config():
    """The two lines added to the stock config are in the file that the reader is told to write."""
    (diff,) = blocks('diff')
    for line in diff.splitlines():
        assert line[1:] in CONFIGS[0].splitlines()


@pytest.mark.parametrize('target', re.findall(r'^make ([\w-]+)$', README, re.MULTILINE))
def test_make_targets_exist(target):
    subprocess.run(['make', '--dry-run', target], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def options_of(function):
    """Keyword-only arguments."""
    parameters = inspect.signature(function).parameters.values()
    return {parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}


def test_options_table_is_complete():
    text = README[README.index('Options, beside those') : README.index('## Use it as a layer')]
    layers = [options_of(layer) for layer, _ in LAYERS.values()]
    documented = re.findall(r'^\| `(\w+)` \|', text, re.MULTILINE)
    assert sorted(documented) == sorted(options_of(build_layer).union(*layers))


def test_types_table_is_complete():
    rows = re.findall(r'^\| `(\w+)` \| `(\w+)` \|.*\| (.*) \|$', README, re.MULTILINE)
    assert [row[:2] for row in rows] == [
        (kind, layer.__name__) for kind, (layer, _) in LAYERS.items()
    ]
    for kind, _, options in rows:
        named = set(re.findall(r'`(\w+)`', options))
        if 'DK' in named:
            named = named - {'DK'} | options_of(DeformKernel2d)
        assert named == options_of(LAYERS[kind][0])


@pytest.mark.parametrize('path', re.findall(r'\]\((?!http)([^)]+)\)', README))
def test_links_lead_somewhere(path):
    assert (ROOT / path).exists()


@pytest.mark.slow
def test_training_and_testing_commands(tmp_path):
    """The shell commands, word by word, on a COCO of two images."""
    make_coco(tmp_path / 'data/coco')
    (tmp_path / 'my_config.py').write_text(CONFIGS[0] + SMALL)
    (script,) = (block for block in blocks('shell') if 'train.py my_config.py' in block)
    (tmp_path / '.venv/bin').mkdir(parents=True)
    python = tmp_path / '.venv/bin/python'
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    result = subprocess.run(
        ['sh', '-ec', script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, 'OMP_NUM_THREADS': '2'},
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert 'Saving checkpoint at 12 epochs' in result.stdout
    assert 'Epoch(test) [2/2]' in result.stdout


@pytest.mark.slow
def test_conversion_commands(tmp_path, monkeypatch):
    """In this process; the plain weights are those of the same config without DK."""
    monkeypatch.chdir(tmp_path)
    Path('my_config.py').write_text(CONFIGS[0] + SMALL)
    config = Config.fromfile('my_config.py')
    config.model.backbone.dcn = None
    plain = stock.build(config)
    torch.save(plain.state_dict(), 'faster-rcnn.pth')
    torch.save(plain.backbone.state_dict(), 'resnet50.pth')
    (script,) = (block for block in blocks('shell') if 'convert_checkpoint.py' in block)
    for line in script.splitlines():
        python, tool, *arguments = line.split()
        assert python == '.venv/bin/python'
        monkeypatch.setattr(sys, 'argv', [tool, *arguments])
        runpy.run_path(str(ROOT / tool), run_name='__main__')
    config = Config.fromfile('my_config.py')
    load_checkpoint(stock.build(config), 'faster-rcnn-dk.pth', strict=True)
    load_checkpoint(stock.build(config).backbone, 'resnet50-dk.pth', strict=True)


def make_coco(folder):
    images = [{'id': i, 'file_name': f'{i}.jpg', 'height': 64, 'width': 64} for i in (1, 2)]
    annotations = [
        {
            'id': i,
            'image_id': i,
            'category_id': 1,
            'bbox': [8, 8, 40, 40],
            'area': 1600,
            'iscrowd': 0,
        }
        for i in (1, 2)
    ]
    coco = {
        'images': images,
        'annotations': annotations,
        'categories': [{'id': 1, 'name': 'person'}],
    }
    (folder / 'annotations').mkdir(parents=True)
    for split in ('train2017', 'val2017'):
        (folder / split).mkdir()
        (folder / f'annotations/instances_{split}.json').write_text(json.dumps(coco))
        for image in images:
            pixels = np.random.default_rng(image['id']).integers(0, 255, (64, 64, 3), np.uint8)
            Image.fromarray(pixels).save(folder / split / image['file_name'])
