"""A detector and a data set that train in seconds."""

import json

import numpy as np
from mmengine.config import Config
from PIL import Image

from tests.detection import stock

EPOCHS = 2


def make_data(root):
    """Two images with one box each, in COCO's format."""
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


def make_config(data_root, work_dir, **changes):
    """A stock RetinaNet, narrow; two iterations in two epochs."""
    config = stock.load('retinanet/retinanet_r50_fpn_1x_coco.py')
    config.model.backbone.merge(
        dict(
            base_channels=4,
            frozen_stages=-1,
            # Otherwise stages first compute nothing, and a first step has no gradient to pass on.
            zero_init_residual=False,
        )
    )
    config.model.neck.merge(dict(in_channels=[16, 32, 64, 128], out_channels=16))
    config.model.bbox_head.merge(dict(in_channels=16, feat_channels=16, num_classes=1))
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
