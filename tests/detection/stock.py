"""Configs, MMDetection's first of all, without what they would download; and DK in them."""

import copy
from pathlib import Path

from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.hub import get_config

import mmdk  # noqa: F401  (registers the conv layer types)

DK = dict(type='DK')


def load(name: str) -> Config:
    """A config that MMDetection ships, without the weights it would download."""
    register_all_modules(init_default_scope=True)
    config = get_config(f'mmdet::{name}')
    drop_pretrained(config.model)
    return config


def load_file(path: Path) -> Config:
    """A config in a file, without the weights it would download."""
    register_all_modules(init_default_scope=True)
    config = Config.fromfile(path)
    drop_pretrained(config.model)
    return config


def build(config: Config):
    """Leaves the config as it is, which not every detector's constructor does."""
    return MODELS.build(copy.deepcopy(config.model))


def in_stages(model: Config, layer: dict = DK) -> None:
    """A layer in the last three stages of a ResNet."""
    model.backbone.merge({'dcn': layer, 'stage_with_dcn': (False, True, True, True)})


def drop_pretrained(node) -> None:
    if isinstance(node, dict):
        init_cfg = node.get('init_cfg')
        if isinstance(init_cfg, dict) and 'checkpoint' in init_cfg:
            node['init_cfg'] = None
        for child in node.values():
            drop_pretrained(child)
    elif isinstance(node, (list, tuple)):
        for child in node:
            drop_pretrained(child)
