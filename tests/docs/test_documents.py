"""What README.md and docs/ tell a reader to do, done."""

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

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = {
    path.relative_to(ROOT).as_posix(): path.read_text()
    for path in [ROOT / 'README.md', *sorted((ROOT / 'docs').rglob('*.md'))]
}
README = DOCUMENTS['README.md']
BLOCK = re.compile(r'^```(\S*).*?\n(.*?)^```$', re.MULTILINE | re.DOTALL)


def blocks(language, documents=DOCUMENTS):
    """By the name of the document and the block's number in it."""
    return {
        f'{name}-{number}': text
        for name in documents
        for number, (found, text) in enumerate(BLOCK.findall(DOCUMENTS[name]))
        if found == language
    }


def commands(script):
    return [line for line in script.splitlines() if line]


def the_shell_block_with(text):
    (script,) = (block for block in blocks('shell').values() if text in block)
    return script


PYTHON = blocks('python')
CONFIGS = {name: text for name, text in PYTHON.items() if '_base_' in text}
PROGRAMS = {name: text for name, text in PYTHON.items() if name not in CONFIGS}
MY_CONFIG = next(iter(CONFIGS.values()))  # README's first, which its commands train
TRAINING = the_shell_block_with('train.py my_config.py')
PICTURES = the_shell_block_with('kernels.py')
GALLERY = the_shell_block_with('draw_gallery.py')
CONVERSION = the_shell_block_with('convert_checkpoint.py')
MAKE_TARGETS = sorted(
    {
        target
        for text in DOCUMENTS.values()
        for target in re.findall(r'(?:^|`)make ([\w-]+)', text, re.MULTILINE)
    }
)
RECIPE = 'configs/dk/faster-rcnn_r50-dk-c3-c5_fpn_1x_coco.py'
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


def test_blocks_are_in_languages_that_are_tested():
    """The others are MyST's directives, which the site's test reads."""
    languages = {found for text in DOCUMENTS.values() for found, _ in BLOCK.findall(text)}
    written = {language for language in languages if not language.startswith('{')}
    assert written == {'diff', 'python', 'shell'}


@pytest.mark.slow
@pytest.mark.parametrize('program', PROGRAMS.values(), ids=PROGRAMS)
def test_programs_run(program):
    subprocess.run([sys.executable, '-W', 'ignore', '-c', program], check=True)


@pytest.mark.parametrize('text', CONFIGS.values(), ids=CONFIGS)
def test_configs_build_deformable_models(text, tmp_path):
    (tmp_path / 'configs').symlink_to(ROOT / 'configs')
    path = tmp_path / 'config.py'
    path.write_text(text)
    config = Config.fromfile(path)
    stock.drop_pretrained(config.model)
    model = stock.build(config)
    assert any(isinstance(module, DeformKernel2d) for module in model.modules())


def test_the_diff_is_the_config():
    """The two lines added to the stock config are in the file that the reader is told to write."""
    (diff,) = blocks('diff').values()
    for line in diff.splitlines():
        assert line[1:] in MY_CONFIG.splitlines()


@pytest.mark.parametrize('target', MAKE_TARGETS)
def test_make_targets_exist(target):
    subprocess.run(['make', '--dry-run', target], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def test_no_shell_command_is_left_out():
    """Some are run elsewhere: test_packaging.py installs, test_recipes.py trains the recipe, and
    test_analysis_tools.py and test_gallery.py draw the pictures.
    """
    scripts = (TRAINING, CONVERSION, PICTURES, GALLERY)
    run = {line for script in scripts for line in commands(script)}
    run |= {f'make {name}' for name in MAKE_TARGETS}
    written = {line for script in blocks('shell').values() for line in commands(script)}
    assert written - run == {
        'pip install .',
        f'.venv/bin/python $TOOLS/train.py {RECIPE}',
    }
    assert (ROOT / RECIPE).is_file()


def options_of(function):
    """Keyword-only arguments."""
    parameters = inspect.signature(function).parameters.values()
    return {parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}


def test_options_table_is_complete():
    text = DOCUMENTS['docs/configs.md']
    text = text[text.index('## Options') : text.index('## `SwapConv2d`')]
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


@pytest.mark.parametrize('document', DOCUMENTS)
def test_links_lead_somewhere(document):
    """To a file; whether it has the section, the site's test sees."""
    paths = re.findall(r'\]\((?!http)([^)#]+)', DOCUMENTS[document])
    assert [path for path in paths if not (ROOT / document).parent.joinpath(path).exists()] == []


@pytest.mark.slow
def test_training_and_testing_commands(tmp_path):
    """The shell commands, word by word, on a COCO of two images."""
    make_coco(tmp_path / 'data/coco')
    (tmp_path / 'my_config.py').write_text(MY_CONFIG + SMALL)
    (tmp_path / '.venv/bin').mkdir(parents=True)
    python = tmp_path / '.venv/bin/python'
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    result = subprocess.run(
        ['sh', '-ec', TRAINING],
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
    Path('my_config.py').write_text(MY_CONFIG + SMALL)
    config = Config.fromfile('my_config.py')
    config.model.backbone.dcn = None
    plain = stock.build(config)
    torch.save(plain.state_dict(), 'faster-rcnn.pth')
    torch.save(plain.backbone.state_dict(), 'resnet50.pth')
    for line in commands(CONVERSION):
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
