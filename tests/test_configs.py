"""The recipes in configs/: listed where they have to be, and set as their READMEs say."""

import functools
import re
from pathlib import Path

import pytest
import torch
import yaml
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from torch import nn

from mmdk.layers.conv_base import ConvBase
from tests.detection import stock
from tools import coco_tables

ROOT = Path(__file__).resolve().parents[1]
METAFILES = sorted(ROOT.glob('configs/*/metafile.yml'))
CONFIGS = [path for file in METAFILES for path in sorted(file.parent.glob('*.py'))]
RECIPES = [path for path in CONFIGS if path.stem.endswith('_coco')]


def names(paths):
    return [path.relative_to(ROOT).as_posix() for path in paths]


def index(metafile):
    return yaml.safe_load(metafile.read_text())


def entries():
    return [entry for metafile in METAFILES for entry in index(metafile)['Models']]


def test_every_folder_of_configs_is_in_the_index():
    folders = {path.parent for path in ROOT.glob('configs/*/*.py')}
    assert folders == {metafile.parent for metafile in METAFILES}
    assert index(ROOT / 'model-index.yml') == {'Import': names(METAFILES)}


@pytest.mark.parametrize('metafile', METAFILES, ids=lambda path: path.parent.name)
def test_metafile_lists_its_folder(metafile):
    models, collections = index(metafile)['Models'], index(metafile)['Collections']
    configs = [path for path in CONFIGS if path.parent == metafile.parent]
    assert sorted(entry['Config'] for entry in models) == names(configs)
    for entry in models:
        assert entry['Name'] == Path(entry['Config']).stem
        assert entry['In Collection'] in {collection['Name'] for collection in collections}
    for collection in collections:
        assert (ROOT / collection['README']).parent == metafile.parent


def test_names_are_unique():
    found = [entry['Name'] for entry in entries()]
    found += [collection['Name'] for path in METAFILES for collection in index(path)['Collections']]
    assert len(found) == len(set(found))


@pytest.mark.parametrize('metafile', METAFILES, ids=lambda path: path.parent.name)
def test_readme_links_every_config(metafile):
    links = re.findall(r'\]\(([^):]+)\)', (metafile.parent / 'README.md').read_text())
    configs = {path.name for path in CONFIGS if path.parent == metafile.parent}
    assert configs <= set(links)
    for link in links:
        assert (metafile.parent / link.partition('#')[0]).exists(), link


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_bases_are_in_the_folder_that_is_installed(path):
    """configs/ is copied into the package as a whole; what it refers to has to be inside."""
    base = re.search(r'^_base_ = (\[.*?\]|.*?)$', path.read_text(), re.MULTILINE | re.DOTALL)
    for name in re.findall(r"'(.*?)'", base[1]):
        if '::' not in name:
            resolved = (path.parent / name).resolve()
            assert resolved.exists() and resolved.is_relative_to(ROOT / 'configs')


@functools.cache
def recipe(path):
    """A recipe's config and its model, of shapes alone."""
    config = Config.fromfile(path)
    stock.register_all_modules(init_default_scope=True)
    with torch.device('meta'):
        return config, stock.build(config)


@pytest.mark.slow
@pytest.mark.parametrize('path', RECIPES, ids=lambda path: path.stem)
def test_parameters_are_as_documented(path):
    (entry,) = (entry for entry in entries() if ROOT / entry['Config'] == path)
    _, model = recipe(path)
    assert sum(p.numel() for p in model.parameters()) == entry['Metadata']['Parameters']


@pytest.mark.slow
@pytest.mark.parametrize('path', RECIPES, ids=lambda path: path.stem)
def test_offsets_learn_slower_than_all_else(path):
    config, model = recipe(path)
    optimizer = build_optim_wrapper(model, config.optim_wrapper).optimizer
    rates = {id(p): group['lr'] for group in optimizer.param_groups for p in group['params']}
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    offsets = {rates[id(p)] for name, p in trained.items() if 'conv_offset' in name}
    others = {rates[id(p)] for name, p in trained.items() if 'conv_offset' not in name}
    with_offsets = [m for m in model.modules() if isinstance(m, ConvBase) and m.kind != 'CondConv']
    assert bool(offsets) == bool(with_offsets)
    slower = 0.01 if '_r50-dw-' in path.stem else 0.1
    for rate in offsets:
        assert rate == pytest.approx(slower * min(others))


@pytest.mark.slow
@pytest.mark.parametrize('path', RECIPES, ids=lambda path: path.stem)
def test_settings_that_the_readmes_state(path):
    config, model = recipe(path)
    if re.search('_(r50-dw|mobilenetv2)', path.stem):
        assert config.optim_wrapper.optimizer.weight_decay == 4e-5
    hooks = config.get('custom_hooks', [])
    watched = [hook for hook in hooks if hook['type'] == 'OffsetHook']
    has_offsets = [hasattr(part, 'conv_offset') for part in model.modules()]
    assert len(watched) == any(has_offsets)


# What a part of a recipe's name says of it; the first that is found counts.
PLACES = {
    r'(gdk-all|dk-gdk)-c3-c5': r'backbone\.layer[234]\.\d+\.(conv\d|downsample\.0)',
    r'mobilenetv2-dk-c3-c5': r'backbone\.layer[3-7]\..*depthwise_conv\.conv',
    r'mobilenetv2-dk_': r'backbone\.layer[1-7]\..*depthwise_conv\.conv',
    r'rtmdet_tiny-dk-c3-c5': r'backbone\.stage[234]\.\d\.blocks\.\d\.conv2\.depthwise_conv\.conv',
    r'yolox_tiny-dk-c3-c5': r'backbone\.stage[234]\.\d\.blocks\.\d\.conv2\.conv',
    r'-c3-c5': r'backbone\.layer[234]\.\d+\.conv2',
    r'-c4-c5': r'backbone\.layer[34]\.\d+\.conv2',
    r'-c5': r'backbone\.layer4\.\d+\.conv2',
    r'dk-last': r'bbox_head\.(cls|reg)_convs\.3\.conv',
    r'dk-rpn': r'rpn_head\.rpn_conv',
    r'dk-mask-head': r'roi_head\.mask_head\.convs\.\d\.conv',
    r'dk-head': r'bbox_head\.(multi_level_)?(cls|reg)_convs\..*',
    r'': 'none',
}
TYPES = {
    'dk-gdk': {'DK', 'GlobalDK'},
    'gdk': {'GlobalDK'},
    'dkdcn': {'DKDCN'},
    'fastdcn': {'FastDCN'},
    'condconv': {'CondConv'},
    'dk': {'DK'},
    '': set(),
}
OPTIONS = {
    **{f'-scope{size}-': ('scope_size', (size, size)) for size in (3, 5, 6)},
    '-group4-': ('offset_groups', 4),
    '-clip-': ('offset_clip', 'scope'),
    '-modulated-': ('modulated', True),
    'fastdcnv2': ('modulated', True),
}


@pytest.mark.slow
@pytest.mark.parametrize('path', RECIPES, ids=lambda path: path.stem)
def test_names_say_what_is_deformed(path):
    _, model = recipe(path)
    layers = {name: m for name, m in model.named_modules() if isinstance(m, ConvBase)}
    place = next(place for part, place in PLACES.items() if re.search(part, path.stem))
    convolutions = [n for n, m in model.named_modules() if isinstance(m, (nn.Conv2d, ConvBase))]
    assert list(layers) == [name for name in convolutions if re.fullmatch(place, name)]
    kinds = next(kinds for part, kinds in TYPES.items() if part in path.stem)
    assert {layer.kind for layer in layers.values()} == kinds
    for part, (option, value) in OPTIONS.items():
        if part in path.stem:
            assert all(getattr(layer, option) == value for layer in layers.values())


def settings(value, place=''):
    """All that a config says, by its place in it."""
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    else:
        return {place: value}
    parts = (settings(part, f'{place}.{key}') for key, part in items if key != '_scope_')
    return {key: found for part in parts for key, found in part.items()}


# Where a recipe may add to what it changes, and where it may say otherwise.
ADDED = (
    r'\.custom_imports\..*',
    r'\.custom_hooks\.\d\..*',
    r'\.model\.(inside|swaps\..*|backbone\.stage_with_dcn\.\d)',
    r'\.model(\.\w+)*\.(dcn|conv_cfg)\.\w+',
    r'\.optim_wrapper\.paramwise_cfg\.custom_keys\.conv_offset\.lr_mult',
)
BACKBONE = (
    r'\.model\.backbone\..*',
    r'\.model\.neck\.in_channels\.\d',
    r'\.optim_wrapper\.optimizer\.weight_decay',
    r'\.find_unused_parameters',
    r'\.checkpoint',
)


@pytest.mark.slow
@pytest.mark.parametrize('path', RECIPES, ids=lambda path: path.stem)
def test_all_else_stays(path):
    """Pipelines, schedule, hooks, other learning rates: as in the config that a recipe changes."""
    name = path.relative_to(ROOT).as_posix()
    old = settings(coco_tables.load(coco_tables.baseline(name)).to_dict())
    new = settings(coco_tables.load(name).to_dict())
    added, changed = ADDED, (r'\.model\.type',)
    if path.parent.name == 'depthwise':
        added, changed = ADDED + BACKBONE, BACKBONE
    for key in old.keys() | new.keys():
        allowed = added if key not in old else changed
        if old.get(key) != new.get(key):
            assert any(re.fullmatch(place, key) for place in allowed), key
