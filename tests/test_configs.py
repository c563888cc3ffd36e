"""The recipes in configs/: listed where they have to be, and set as their READMEs say."""

import functools
import re
from pathlib import Path

import pytest
import torch
import yaml
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper

from mmdk.layers.conv_base import ConvBase
from tests.detection import stock

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
    assert len(watched) == any(hasattr(part, 'kernel_offset') for part in model.modules())


@pytest.mark.parametrize('detector', ['rtmdet_tiny', 'yolox_tiny'])
def test_hooks_of_the_stock_config_stay(detector):
    for path in RECIPES:
        if path.stem.startswith(detector):
            hooks = {hook['type'] for hook in Config.fromfile(path).custom_hooks}
            assert hooks > {'EMAHook', 'OffsetHook'}
