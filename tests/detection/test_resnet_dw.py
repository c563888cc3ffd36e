"""The depthwise ResNet: its size, and everything that a ResNet of MMDetection can do."""

import pytest
import torch
from mmcv.cnn import is_norm
from mmdet.models import ResNet
from mmengine.analysis import get_model_complexity_info
from torch import nn

from mmdk.detection.backbones import ResNetDW
from mmdk.layers import DeformKernel2d
from tests.detection import stock

IN_STAGES = dict(dcn=stock.DK, stage_with_dcn=(False, True, True, True))


def narrow(depth=50, **cfg):
    return ResNetDW(depth, base_channels=4, **cfg)


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


def deformable(model):
    return [part for part in model.modules() if isinstance(part, DeformKernel2d)]


@pytest.mark.parametrize('depth', [50, 101])
def test_as_large_as_a_resnet(depth):
    plain, depthwise = ResNet(depth), ResNetDW(depth)
    assert count(depthwise) == pytest.approx(count(plain), rel=0.1)
    with torch.no_grad():
        flops, flops_dw = (
            get_model_complexity_info(model, (3, 64, 64), show_table=False, show_arch=False)[
                'flops'
            ]
            for model in (plain, depthwise)
        )
    assert flops_dw == pytest.approx(flops, rel=0.1)


def test_blocks():
    block = ResNetDW(50).layer2[0]
    assert (block.conv1.out_channels, block.conv2.groups, block.conv3.out_channels) == (
        256,
        256,
        512,
    )
    assert block.conv2.stride == (2, 2)


@pytest.mark.parametrize('depth, blocks', [(50, 16), (101, 33)])
def test_features_have_a_resnets_shapes(depth, blocks):
    model = narrow(depth)
    x = torch.randn(2, 3, 64, 96)
    expected = [feature.shape for feature in ResNet(depth, base_channels=4)(x)]
    assert [feature.shape for feature in model(x)] == expected
    assert model.feat_dim == ResNet(depth, base_channels=4).feat_dim
    depthwise = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    assert len(depthwise) == blocks
    assert all(conv.groups == conv.in_channels == conv.out_channels for conv in depthwise)


@pytest.mark.parametrize(
    'cfg, number',
    [
        (IN_STAGES, 13),
        (dict(dcn=dict(type='DK', scope_size=5), stage_with_dcn=(True,) * 4), 16),
        (dict(conv_cfg=dict(type='DK', where='depthwise')), 16),
        (dict(conv_cfg=dict(type='DK')), 17),
        (dict(dcn=dict(type='DK', fallback_on_stride=True), stage_with_dcn=(True,) * 4), 0),
    ],
)
def test_deformable_kernels(cfg, number):
    model = narrow(**cfg)
    plain = narrow()
    plain.init_weights()
    model.init_weights()
    layers = deformable(model)
    assert len(layers) == number
    for layer in layers:
        assert not layer.conv_offset.weight.any() and not layer.conv_offset.bias.any()
        assert layer.groups in (1, layer.in_channels)
    model.load_state_dict(plain.state_dict())
    model.eval(), plain.eval()
    x = torch.randn(1, 3, 64, 64)
    for actual, expected in zip(model(x), plain(x), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_the_config_is_left_as_it_was():
    cfg = dict(type='DK', fallback_on_stride=False)
    narrow(dcn=cfg, stage_with_dcn=(True,) * 4)
    assert cfg == dict(type='DK', fallback_on_stride=False)


@pytest.mark.parametrize('with_cp', [False, True])
def test_gradients_reach_everything(with_cp):
    model = narrow(**IN_STAGES, with_cp=with_cp, zero_init_residual=False, norm_eval=False)
    sum(feature.square().mean() for feature in model(torch.randn(2, 3, 64, 64))).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    # At 2 x 2 outputs and more, taps see something to move for.
    assert all(layer.conv_offset.weight.grad.any() for layer in deformable(model))


def test_frozen_stages_and_norms():
    model = narrow(**IN_STAGES, frozen_stages=2)
    model.train()
    frozen = [name for name, value in model.named_parameters() if not value.requires_grad]
    assert {name.split('.')[0] for name in frozen} == {'conv1', 'bn1', 'layer1', 'layer2'}
    assert 'layer2.0.conv2.conv_offset.weight' in frozen
    assert not any(part.training for part in model.modules() if is_norm(part))
    assert model.layer3[0].conv2.training


@pytest.mark.parametrize(
    'cfg',
    [
        dict(deep_stem=True, avg_down=True),
        dict(style='caffe'),
        dict(strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2)),
        dict(stem_channels=12),
        dict(num_stages=3, strides=(1, 2, 2), dilations=(1, 1, 1), out_indices=(1, 2)),
    ],
)
def test_options_of_a_resnet(cfg):
    x = torch.randn(1, 3, 64, 64)
    expected = [feature.shape for feature in ResNet(50, base_channels=4, **cfg)(x)]
    assert [feature.shape for feature in narrow(**cfg)(x)] == expected


@pytest.mark.parametrize(
    'cfg, identity',
    [
        (dict(), True),
        (dict(zero_init_residual=False), False),
        (dict(init_cfg=dict(type='Kaiming', layer='Conv2d')), False),
    ],
)
def test_blocks_start_as_identities(cfg, identity):
    model = narrow(**cfg)
    model.init_weights()
    weights = [model.layer1[0].norm3.weight, model.layer4[2].norm3.weight]
    assert all(weight.any().item() is not identity for weight in weights)


def test_in_a_stock_detector():
    config = stock.load('retinanet/retinanet_r50_fpn_1x_coco.py')
    config.model.backbone.merge(dict(type='ResNetDW', **IN_STAGES))
    model = stock.build(config)
    assert len(deformable(model)) == 13
    assert all(layer.groups == layer.in_channels for layer in deformable(model))


def test_other_depths():
    with pytest.raises(KeyError, match=r'depth must be one of \(50, 101\), got 18'):
        ResNetDW(18)
