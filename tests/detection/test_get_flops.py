"""MMDetection's own get_flops.py counts DK."""

import json
import re
import subprocess
import sys
from pathlib import Path

import mmdet
import numpy as np
import pytest
import torch
from mmengine.analysis import get_model_complexity_info
from mmengine.analysis.print_helper import _format_size
from PIL import Image

from tests.detection import stock

STOCK = 'retinanet/retinanet_r18_fpn_1x_coco.py'
GET_FLOPS = Path(mmdet.__path__[0], '.mim/tools/analysis_tools/get_flops.py')

PLAIN = """
_base_ = 'mmdet::{stock}'
val_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        data_root='{root}/',
        ann_file='annotations.json',
        data_prefix=dict(img=''),
        metainfo=dict(classes=('thing',)),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='Resize', scale=(64, 64)),
            dict(type='PackDetInputs', meta_keys=('img_id', 'ori_shape', 'img_shape')),
        ],
    ),
)
"""
WITH_DK = """
custom_imports = dict(imports=['mmdk'], allow_failed_imports=False)
model = dict(bbox_head=dict(conv_cfg=dict(type='DK')))
"""


@pytest.fixture
def root(tmp_path):
    """One image of 64 x 64 in COCO's format."""
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / 'image.png')
    image = dict(id=1, file_name='image.png', height=64, width=64)
    box = dict(id=1, image_id=1, category_id=1, bbox=[8, 8, 40, 40], area=1600, iscrowd=0)
    coco = dict(images=[image], annotations=[box], categories=[dict(id=1, name='thing')])
    (tmp_path / 'annotations.json').write_text(json.dumps(coco))
    return tmp_path


def counted_by_the_tool(root, text):
    config = root / 'config.py'
    config.write_text(text)
    command = [sys.executable, str(GET_FLOPS), str(config), '--num-images', '1']
    run = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return re.search(r'^Flops: (\S+)$', run.stdout, re.MULTILINE)[1]


@pytest.mark.slow
def test_stock_tool(root):
    model = stock.build(stock.load(STOCK)).eval()
    x = torch.zeros(1, 3, 64, 64)
    plain = get_model_complexity_info(model, None, x, show_table=False, show_arch=False)['flops']
    # The head's two towers of four convolutions, on five levels of the pyramid.
    positions = 8 * 8 + 4 * 4 + 2 * 2 + 1 + 1
    more_cells, look_ups, offsets = (16 - 9) * 256 * 256, 4 * 9 * 256, 9 * 256 * 18
    extra = 2 * 4 * positions * (more_cells + look_ups + offsets)
    text = PLAIN.format(stock=STOCK, root=root)
    assert counted_by_the_tool(root, text) == _format_size(plain)
    assert counted_by_the_tool(root, text + WITH_DK) == _format_size(plain + extra)
    assert extra > 0.1 * plain  # more than what printing three digits hides
