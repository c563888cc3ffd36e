"""Type 'DK' as MMCV's builders make it."""

import pytest
import torch
from mmcv.cnn import ConvModule, DepthwiseSeparableConvModule, build_conv_layer
from torch import nn

from mmdk.layers import DeformKernel2d
from mmdk.layers.registry import is_selected


@pytest.mark.parametrize(
    'where, args, groups, deformable',
    [
        ('spatial', (8, 8, 3), 1, True),
        ('spatial', (8, 8, 1), 1, False),
        ('spatial', (8, 8, (1, 3)), 1, True),
        ('depthwise', (8, 8, 3), 1, False),
        ('depthwise', (8, 8, 3), 4, False),
        ('depthwise', (8, 8, 3), 8, True),
        ('depthwise', (8, 8, 1), 8, False),
        ('all', (8, 8, 1), 1, True),
        ('all', (3, 8, 7), 1, True),
    ],
)
def test_where(where, args, groups, deformable):
    layer = build_conv_layer(dict(type='DK', where=where), *args, groups=groups)
    assert type(layer) is (DeformKernel2d if deformable else nn.Conv2d)
    assert layer.groups == groups


def test_unselected_convolutions_keep_their_arguments():
    cfg = dict(type='DK', scope_size=5, offset_clip='scope')
    layer = build_conv_layer(cfg, 4, 6, 1, stride=2, padding=1, bias=False)
    assert repr(layer) == repr(nn.Conv2d(4, 6, 1, stride=2, padding=1, bias=False))


def test_options_reach_the_layer():
    cfg = dict(type='DK', scope_size=5, offset_groups=2, offset_clip=1.5)
    layer = build_conv_layer(cfg, 4, 6, 3, stride=2, padding=1, bias=False)
    assert (layer.scope_size, layer.offset_groups, layer.offset_clip) == ((5, 5), 2, 1.5)
    assert (layer.stride, layer.padding, layer.bias) == ((2, 2), (1, 1), None)


def test_depthwise_forces_groups():
    layer = build_conv_layer(dict(type='DK', depthwise=True), 6, 6, 3)
    assert layer.groups == 6 and layer.weight.shape == (6, 1, 4, 4)
    assert build_conv_layer(dict(type='DK', depthwise=True), 6, 8, 1).groups == 1


def test_config_is_left_as_it_was():
    cfg = dict(type='DK', where='all')
    build_conv_layer(cfg, 4, 4, 3)
    assert cfg == dict(type='DK', where='all')


def test_conv_module():
    module = ConvModule(
        4, 6, 3, stride=2, padding=1, conv_cfg=dict(type='DK'), norm_cfg=dict(type='BN')
    )
    assert type(module.conv) is DeformKernel2d
    assert module.padding == 1
    for name in (
        'in_channels',
        'out_channels',
        'kernel_size',
        'stride',
        'dilation',
        'groups',
        'transposed',
        'output_padding',
    ):
        assert getattr(module, name) == getattr(module.conv, name)
    assert module(torch.randn(2, 4, 8, 8)).shape == (2, 6, 4, 4)


@pytest.mark.parametrize('padding_mode', ['reflect', 'circular'])
def test_conv_module_pads(padding_mode):
    module = ConvModule(4, 6, 3, padding=1, padding_mode=padding_mode, conv_cfg=dict(type='DK'))
    assert module(torch.randn(2, 4, 8, 8)).shape == (2, 6, 8, 8)


def test_conv_module_leaves_the_initial_scope_alone():
    """Kaiming initialisation of a scope as if it were a kernel would be of the wrong variance."""
    torch.manual_seed(5)
    module = ConvModule(64, 64, 3, conv_cfg=dict(type='DK'))
    torch.manual_seed(5)
    assert torch.equal(module.conv.weight, DeformKernel2d(64, 64, 3, bias=True).weight)


def test_depthwise_separable_conv_module():
    module = DepthwiseSeparableConvModule(
        4, 6, 3, padding=1, conv_cfg=dict(type='DK', where='depthwise')
    )
    assert type(module.depthwise_conv.conv) is DeformKernel2d
    assert type(module.pointwise_conv.conv) is nn.Conv2d


@pytest.mark.parametrize(
    'cfg, error, message',
    [
        (
            dict(type='DK', scop_size=4),
            TypeError,
            "no option 'scop_size'. Did you mean 'scope_size'",
        ),
        (dict(type='DK', zzz=4), TypeError, "no option 'zzz'. Its options are .*offset_clip"),
        (dict(type='DK', where='conv3x3'), ValueError, "where must be one of .*got 'conv3x3'"),
        (dict(type='DK', depthwise=True), ValueError, 'depthwise=True needs .* got 4 and 6'),
        (dict(type='DK', scope_size=2), ValueError, 'scope_size .* is smaller than kernel_size'),
    ],
)
def test_bad_configs(cfg, error, message):
    with pytest.raises(error, match=message):
        build_conv_layer(cfg, 4, 6, 3)


def test_unknown_option_is_an_error_for_plain_convolutions_too():
    with pytest.raises(TypeError, match='scop_size'):
        build_conv_layer(dict(type='DK', scop_size=4), 4, 6, 1)


def test_is_selected_accepts_ints():
    assert is_selected('spatial', 3, 4, 1) and not is_selected('spatial', 1, 4, 1)
