"""The layers in stock models: built where asked for, and still at rest after init_weights()."""

import math

import pytest
import torch
from torch import nn

from mmdk.layers import DeformKernel2d
from mmdk.ops import sample_kernel
from tests.detection import stock
from tests.layers.family import CLASSES, is_at_rest


def mask_head(model):
    model.roi_head.mask_head.conv_cfg = stock.DK


def all_over_rtmdet(model, layer):
    for part in (model.backbone, model.neck, model.bbox_head):
        part.conv_cfg = layer


def in_head(model, layer):
    model.bbox_head.conv_cfg = layer


SWAPS = {
    'faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py': (stock.in_stages, 13),
    'retinanet/retinanet_r50_fpn_1x_coco.py': (in_head, 8),
    'rtmdet/rtmdet_tiny_8xb32-300e_coco.py': (all_over_rtmdet, 21),
}


@pytest.mark.parametrize('kind', CLASSES)
@pytest.mark.parametrize('name', SWAPS)
def test_every_layer_is_at_rest_after_initialisation(name, kind):
    """More models are in test_stock_swaps.py, with DK."""
    swap, least = SWAPS[name]
    config = stock.load(name)
    swap(config.model, dict(type=kind))
    model = stock.build(config)
    model.init_weights()
    layers = [module for module in model.modules() if isinstance(module, CLASSES[kind])]
    assert len(layers) >= least
    assert all(map(is_at_rest, layers))
    if kind == 'DK':
        for layer in layers:
            assert_drawn_as_a_convolution(layer)


def assert_drawn_as_a_convolution(layer):
    """What nn.Conv2d would draw: uniform, of variance 1 / (3 * fan-in)."""
    zero = torch.zeros(1, 2 * math.prod(layer.kernel_size))
    kernel = sample_kernel(layer.weight, zero, layer.kernel_size)
    expected = (3 * kernel[0, 0].numel()) ** -0.5
    assert kernel.std().item() == pytest.approx(expected, rel=0.2)


@pytest.mark.parametrize('kind', CLASSES)
def test_backbone_trains_a_step(kind):
    config = stock.load('retinanet/retinanet_r50_fpn_1x_coco.py')
    stock.in_stages(config.model, dict(type=kind))
    config.model.backbone.merge({'base_channels': 8})
    backbone = stock.build(config).backbone
    sum(feature.square().mean() for feature in backbone(torch.randn(2, 3, 64, 64))).backward()
    for name, parameter in backbone.layer4.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_only_stages_asked_for():
    config = stock.load('retinanet/retinanet_r50_fpn_1x_coco.py')
    config.model.backbone.merge({'dcn': stock.DK, 'stage_with_dcn': (False, False, True, True)})
    backbone = stock.build(config).backbone
    for index, deformable in enumerate((False, False, True, True), start=1):
        for block in getattr(backbone, f'layer{index}'):
            assert isinstance(block.conv2, DeformKernel2d) is deformable
            assert type(block.conv1) is type(block.conv3) is nn.Conv2d


RESNET_LAYERS = [
    *(dict(type=kind) for kind in CLASSES),
    dict(type='DKDCN', modulated=True),
    dict(type='FastDCN', modulated=True),
]


@pytest.mark.parametrize('options', RESNET_LAYERS, ids=str)
def test_resnet50_computes_the_same_before_training(options):
    """The plain model's weights, loaded into the swapped one."""
    name = 'retinanet/retinanet_r50_fpn_1x_coco.py'
    plain = stock.build(stock.load(name)).backbone
    swapped_config = stock.load(name)
    stock.in_stages(swapped_config.model, options)
    swapped = stock.build(swapped_config).backbone
    plain.init_weights()
    # Statistics as after training, so that all stages matter.
    for module in plain.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    swapped.load_state_dict(plain.state_dict())
    plain.eval(), swapped.eval()
    x = torch.randn(2, 3, 96, 64)
    with torch.no_grad():
        for expected, features in zip(plain(x), swapped(x), strict=True):
            difference = (features - expected).norm() / expected.norm()
            assert difference < 1e-4


def test_activation_checkpointing():
    config = stock.load('retinanet/retinanet_r50_fpn_1x_coco.py')
    stock.in_stages(config.model)
    config.model.backbone.merge({'with_cp': True, 'base_channels': 8})
    backbone = stock.build(config).backbone
    sum(feature.mean() for feature in backbone(torch.randn(1, 3, 64, 64))).backward()
    gradient = backbone.layer4[0].conv2.conv_offset.weight.grad
    assert gradient is not None and gradient.isfinite().all()


def test_roi_head_without_rois():
    config = stock.load('mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py')
    mask_head(config.model)
    head = stock.build(config).roi_head.mask_head
    assert head(torch.zeros(0, 256, 14, 14)).shape == (0, 80, 28, 28)
