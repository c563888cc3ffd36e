"""Every detector in configs/ builds, initialises, trains a step, saves and reloads."""

from pathlib import Path

import pytest
from mmengine.registry import HOOKS

from mmdk.layers.registry import LAYERS
from tests.detection import stock
from tests.detection.walk import values, walk

CONFIGS = Path(__file__).parents[2] / 'configs'
# No detectors: what others inherit, and mmpretrain's classifiers.
OTHERS = ('_base_', 'imagenet')
NAMES = sorted(
    str(path)
    for path in (path.relative_to(CONFIGS) for path in CONFIGS.rglob('*.py'))
    if path.parts[0] not in OTHERS
)


def test_there_are_some():
    assert 'dk/retinanet_r50-w16-dk-c4-c5_fpn_dk-head_8e_digits.py' in NAMES


@pytest.mark.slow
@pytest.mark.parametrize('name', NAMES)
def test_recipe(name, tmp_path):
    config = stock.load_file(CONFIGS / name)
    layers = walk(config, tmp_path)
    # Each type that is named is built; a plain twin names none.
    assert {layer.kind for layer in layers.values()} == LAYERS.keys() & values(config.model, 'type')
    if layers:
        assert 'mmdk' in config.custom_imports['imports']
    if any(hasattr(layer, 'conv_offset') for layer in layers.values()):
        custom_keys = config.optim_wrapper.paramwise_cfg.custom_keys
        assert 0 < custom_keys.conv_offset.lr_mult < 1
    for hook in config.get('custom_hooks', []):
        hook.pop('priority', None)  # the runner's
        HOOKS.build(hook)
