"""DK trained through MMEngine's Runner: a step changes what it should, a resumed run goes on."""

import json

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from PIL import Image

from mmdk.layers import DeformKernel2d
from tests.detection import stock

EPOCHS = 2


@pytest.fixture(scope='module')
def data_root(tmp_path_factory):
    """Two images with one box each, in COCO's format."""
    root = tmp_path_factory.mktemp('data')
    (root / 'images').mkdir()
    images, annotations = [], []
    for index in (1, 2):
        pixels = np.random.default_rng(index).integers(0, 255, (64, 64, 3), np.uint8)
        Image.fromarray(pixels).save(root / f'images/{index}.png')
        images.append(dict(id=index, file_name=f'{index}.png', height=64, width=64))
        annotations.append(
            dict(id=index, image_id=index, category_id=1, bbox=[8, 8, 40, 40], area=1600, iscrowd=0)
        )
    categories = [dict(id=1, name='thing')]
    coco = dict(images=images, annotations=annotations, categories=categories)
    (root / 'annotations.json').write_text(json.dumps(coco))
    return root


def make_config(data_root, work_dir, **changes):
    """A stock RetinaNet, narrow, with DK in a stage and in the head's tower."""
    config = stock.load('retinanet/retinanet_r50_fpn_1x_coco.py')
    config.model.backbone.merge(
        dict(
            dcn=stock.DK,
            stage_with_dcn=(False, False, False, True),
            base_channels=4,
            frozen_stages=-1,
            # Otherwise stages first compute nothing, and a first step has no gradient to pass on.
            zero_init_residual=False,
        )
    )
    config.model.neck.merge(dict(in_channels=[16, 32, 64, 128], out_channels=16))
    config.model.bbox_head.merge(
        dict(in_channels=16, feat_channels=16, num_classes=1, conv_cfg=stock.DK)
    )
    dataset = config.train_dataloader.dataset
    dataset.merge(
        dict(
            data_root=f'{data_root}/',
            ann_file='annotations.json',
            data_prefix=dict(img='images/'),
            metainfo=dict(classes=('thing',)),
        )
    )
    dataset.pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations', with_bbox=True),
        dict(type='Resize', scale=(64, 64)),
        dict(type='PackDetInputs'),
    ]
    return Config(
        dict(
            model=config.model,
            train_dataloader=dict(
                batch_size=2,
                num_workers=0,
                sampler=dict(type='DefaultSampler', shuffle=True),
                dataset=dataset,
            ),
            train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=EPOCHS),
            optim_wrapper=dict(
                optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0),
                paramwise_cfg=dict(custom_keys={'conv_offset': dict(lr_mult=0.1)}),
            ),
            default_scope='mmdet',
            experiment_name=work_dir.name,
            randomness=dict(seed=0),
            work_dir=str(work_dir),
            **changes,
        )
    )


def weights(runner):
    return {name: value.clone() for name, value in runner.model.state_dict().items()}


def test_a_step_moves_scopes_and_offsets(data_root, tmp_path):
    config = make_config(data_root, tmp_path)
    config.train_cfg.max_epochs = 1
    runner = Runner.from_cfg(config)
    runner.model.init_weights()
    layers = {
        name: module
        for name, module in runner.model.named_modules()
        if isinstance(module, DeformKernel2d)
    }
    before = {name: layer.weight.clone() for name, layer in layers.items()}
    runner.train()
    assert len(layers) == 3 + 8
    for name, layer in layers.items():
        assert not torch.equal(layer.weight, before[name]), name
        assert layer.conv_offset.weight.any(), name
        assert all(parameter.isfinite().all() for parameter in layer.parameters()), name


def test_offsets_have_their_own_learning_rate(data_root, tmp_path):
    config = make_config(data_root, tmp_path)
    runner = Runner.from_cfg(config)
    optimizer = runner.build_optim_wrapper(config.optim_wrapper).optimizer
    rates = {id(group['params'][0]): group['lr'] for group in optimizer.param_groups}
    for name, parameter in runner.model.named_parameters():
        if parameter.requires_grad:
            assert rates[id(parameter)] == pytest.approx(1e-4 if 'conv_offset' in name else 1e-3)


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(data_root, tmp_path):
    whole = Runner.from_cfg(make_config(data_root, tmp_path / 'whole'))
    whole.train()

    interrupted = make_config(data_root, tmp_path / 'parts')
    interrupted.train_cfg.max_epochs = 1
    Runner.from_cfg(interrupted).train()
    resumed = Runner.from_cfg(make_config(data_root, tmp_path / 'parts', resume=True))
    resumed.train()
    assert resumed.epoch == EPOCHS
    for name, value in weights(whole).items():
        torch.testing.assert_close(weights(resumed)[name], value, msg=lambda m, n=name: f'{n}: {m}')
