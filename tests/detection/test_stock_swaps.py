"""DK in detectors that MMDetection ships, each by one line of config, from config to checkpoint.

Left out are those that fail in the same way without DK:

- SSD: MMDetection 3.3.0 cannot predict with it;
- guided anchoring: MMCV has no masked convolution for the CPU;
- BoxInst: it needs scikit-image;
- QueryInst and DDOD: not with images as small as these;
- CornerNet: the gradients of its hourglass with random weights overflow when they are clipped;
- TridentNet: without pretrained weights its own layers start with whatever is in memory;
- DDQ: `init_weights()` adds parameters, so that only then a checkpoint loads strictly.

DetectoRS cannot have `dcn`: its backbone has a `conv_cfg` already, and MMDetection's blocks take
only one of them.
"""

import pytest

from mmdk.layers import DeformKernel2d
from tests.detection import stock
from tests.detection.walk import walk

DK = stock.DK
DEPTHWISE = dict(type='DK', where='depthwise')
IN_STAGES = dict(backbone=dict(dcn=DK, stage_with_dcn=(False, True, True, True)))
IN_BACKBONE = dict(backbone=dict(conv_cfg=DK))
IN_NECK = dict(neck=dict(conv_cfg=DK))
IN_HEAD = dict(bbox_head=dict(conv_cfg=DK))


def swapped(inside, where):
    return dict(type='SwapConv2d', inside=inside, swaps=dict(type='DK', where=where))


# What is merged into the model, and how many layers it makes.
SWAPS = {
    # One stage, anchors.
    'retinanet/retinanet_r18_fpn_1x_coco.py': (
        swapped('RetinaNet', r'backbone\.layer[34].*conv2'),
        4,
    ),
    'yolo/yolov3_d53_8xb8-320-273e_coco.py': (IN_NECK, 6),
    'yolo/yolov3_mobilenetv2_8xb24-320-300e_coco.py': (
        dict(backbone=dict(conv_cfg=DEPTHWISE)),
        17,
    ),
    'yolof/yolof_r50-c5_8xb8-1x_coco.py': (
        swapped('YOLOF', r'neck\.dilated_encoder_blocks.*conv2\.conv'),
        4,
    ),
    'atss/atss_r50_fpn_1x_coco.py': (IN_HEAD, 8),
    'paa/paa_r50_fpn_1x_coco.py': (IN_HEAD, 8),
    'gfl/gfl_r50_fpn_1x_coco.py': (IN_HEAD, 8),
    'free_anchor/freeanchor_r50_fpn_1x_coco.py': (IN_HEAD, 8),
    'sabl/sabl-retinanet_r50_fpn_1x_coco.py': (IN_HEAD, 8),
    'tood/tood_r50_fpn_1x_coco.py': (IN_STAGES, 13),
    'yolact/yolact_r50_1xb8-55e_coco.py': (IN_STAGES, 13),
    # One stage, without anchors.
    'fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py': (IN_HEAD, 8),
    'fsaf/fsaf_r50_fpn_1x_coco.py': (IN_STAGES, 13),
    'foveabox/fovea_r50_fpn_4xb4-1x_coco.py': (IN_HEAD, 8),
    'vfnet/vfnet_r50_fpn_1x_coco.py': (IN_STAGES, 13),
    'reppoints/reppoints-moment_r50_fpn-gn_head-gn_1x_coco.py': (IN_HEAD, 6),
    'autoassign/autoassign_r50-caffe_fpn_1x_coco.py': (IN_STAGES, 13),
    'centernet/centernet_r18_8xb16-crop512-140e_coco.py': (
        swapped('CenterNet', r'backbone\.layer[34].*conv2'),
        4,
    ),
    'rtmdet/rtmdet_tiny_8xb32-300e_coco.py': (IN_BACKBONE, 8),
    'yolox/yolox_tiny_8xb8-300e_coco.py': (IN_BACKBONE, 13),
    # Two stages and more.
    'faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py': (IN_STAGES, 13),
    'faster_rcnn/faster-rcnn_x101-32x4d_fpn_1x_coco.py': (IN_STAGES, 30),
    'regnet/faster-rcnn_regnetx-1.6GF_fpn_ms-3x_coco.py': (IN_STAGES, 16),
    'hrnet/faster-rcnn_hrnetv2p-w18-1x_coco.py': (
        swapped('FasterRCNN', r'backbone\.stage4\..*\.conv2'),
        48,
    ),
    'resnest/faster-rcnn_s50_fpn_syncbn-backbone+head_ms-range-1x_coco.py': (
        swapped('FasterRCNN', r'backbone\.layer[34].*conv2\.conv'),
        9,
    ),
    'libra_rcnn/libra-faster-rcnn_r50_fpn_1x_coco.py': (IN_STAGES, 13),
    'res2net/faster-rcnn_res2net-101_fpn_2x_coco.py': (IN_STAGES, 90),
    'dynamic_rcnn/dynamic-rcnn_r50_fpn_1x_coco.py': (IN_STAGES, 13),
    'sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco.py': (IN_STAGES, 13),
    # Masks.
    'mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py': (
        dict(roi_head=dict(mask_head=dict(conv_cfg=DK))),
        4,
    ),
    'cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py': (IN_STAGES, 13),
    'gcnet/mask-rcnn_r50-gcb-r4-c3-c5_fpn_1x_coco.py': (IN_STAGES, 13),
    'point_rend/point-rend_r50-caffe_fpn_ms-1x_coco.py': (IN_STAGES, 13),
    'panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py': (
        dict(semantic_head=dict(conv_cfg=DK)),
        7,
    ),
    'solo/solo_r50_fpn_1x_coco.py': (swapped('SOLO', r'mask_head\.mask_convs\..*conv'), 7),
    'solov2/solov2-light_r50_fpn_ms-3x_coco.py': (IN_STAGES, 13),
    'condinst/condinst_r50_fpn_ms-poly-90k_coco_instance.py': (IN_STAGES, 13),
    # Transformers.
    'detr/detr_r50_8xb2-150e_coco.py': (IN_STAGES, 13),
    'conditional_detr/conditional-detr_r50_8xb2-50e_coco.py': (IN_STAGES, 13),
    'dab_detr/dab-detr_r50_8xb2-50e_coco.py': (IN_STAGES, 13),
    'deformable_detr/deformable-detr_r50_16xb2-50e_coco.py': (IN_STAGES, 13),
    'dino/dino-4scale_r50_8xb2-12e_coco.py': (IN_STAGES, 13),
    'maskformer/maskformer_r50_ms-16xb1-75e_coco.py': (IN_STAGES, 13),
    'mask2former/mask2former_r50_8xb2-lsj-50e_coco.py': (IN_STAGES, 13),
    # Transformers as backbones.
    'swin/retinanet_swin-t-p4-w7_fpn_1x_coco.py': (IN_HEAD, 8),
    'pvt/retinanet_pvtv2-b0_fpn_1x_coco.py': (IN_HEAD, 8),
}


@pytest.mark.slow
@pytest.mark.parametrize('name', SWAPS)
def test_swapped(name, tmp_path):
    swap, count = SWAPS[name]
    config = stock.load(name)
    config.model.merge(swap)
    layers = walk(config, tmp_path)
    assert len(layers) == count
    assert all(isinstance(layer, DeformKernel2d) for layer in layers.values())
