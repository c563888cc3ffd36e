"""A narrow detector as files, and a data set to test it on."""

import json

import numpy as np
from mmengine.config import Config
from mmengine.runner import save_checkpoint
from PIL import Image
from torch import nn

from tests.detection import stock
from tests.detection.tiny import make_config

SIZE = 64  # of the image files
SEEN = 80  # of the images that the detector sees, without padding
INPUT = 96
# Left, top, width, height; the last one is of a crowd.
BOXES = {
    'one.png': [(8, 8, 40, 40), (50, 4, 10, 20), (2, 50, 12, 12)],
    'two.png': [(20, 30, 24, 16), (0, 0, 64, 64)],
}
OBJECTS = 4


def make_data(root):
    images, annotations = [], []
    for index, (name, boxes) in enumerate(BOXES.items()):
        pixels = np.random.default_rng(index).integers(0, 255, (SIZE, SIZE, 3), np.uint8)
        Image.fromarray(pixels).save(root / name)
        images.append(dict(id=index, file_name=name, height=SIZE, width=SIZE))
        for box in boxes:
            annotation = dict(image_id=index, category_id=1, bbox=box, area=box[2] * box[3])
            crowd = int(box[2] == SIZE)
            annotations.append(dict(id=len(annotations) + 1, iscrowd=crowd, **annotation))
    categories = [dict(id=1, name='thing')]
    coco = dict(images=images, annotations=annotations, categories=categories)
    (root / 'annotations.json').write_text(json.dumps(coco))


def make_detector(root, name, layer=None):
    """Writes `<name>.py` and `<name>.pth`, of offsets that are not zero; returns their paths."""
    config = make_config(root, root)
    config.train_dataloader.dataset.data_prefix.img = ''
    if layer:
        stock.in_stages(config.model, dict(layer))
    config.test_dataloader = dict(
        config.train_dataloader,
        dataset=dict(
            config.train_dataloader.dataset,
            test_mode=True,
            pipeline=[
                dict(type='LoadImageFromFile'),
                dict(type='Resize', scale=(SEEN, SEEN), keep_ratio=True),
                dict(type='LoadAnnotations', with_bbox=True),
                dict(
                    type='PackDetInputs',
                    meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
                ),
            ],
        ),
    )
    model = stock.build(config)
    model.init_weights()
    for part in model.modules():
        if hasattr(part, 'conv_offset'):
            nn.init.normal_(part.conv_offset.bias, std=0.3)
    path, checkpoint = root / f'{name}.py', root / f'{name}.pth'
    Config(config._cfg_dict).dump(path)
    meta = dict(dataset_meta=dict(classes=('thing',), palette=[(0, 0, 0)]))
    save_checkpoint(dict(state_dict=model.state_dict(), meta=meta), str(checkpoint))
    return str(path), str(checkpoint)
