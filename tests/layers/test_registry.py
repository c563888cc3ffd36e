"""The layers' types as MMCV's builders make them."""

import pytest
import torch
from mmcv.cnn import ConvModule, DepthwiseSeparableConvModule, build_conv_layer
from torch import nn

from mmdk.layers import DeformKernel2d
from mmdk.layers.registry import LAYERS, is_selected
from tests.layers.family import CLASSES

every_type = pytest.mark.parametrize('kind', CLASSES)


def test_every_layer_has_a_type():
    assert {kind: layer for kind, (layer, _) in LAYERS.items()} == CLASSES
    assert all(layer.kind == kind for kind, layer in CLASSES.items())


@every_type
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
def test_where(kind, where, args, groups, deformable):
    layer = build_conv_layer(dict(type=kind, where=where), *args, groups=groups)
    assert type(layer) is (CLASSES[kind] if deformable else nn.Conv2d)
    assert layer.groups == groups


@every_type
def test_where_by_default(kind):
    """A kernel for the whole image is of use without neighbours too."""
    pointwise = build_conv_layer(dict(type=kind), 4, 6, 1)
    assert type(pointwise) is (CLASSES[kind] if kind == 'GlobalDK' else nn.Conv2d)
    assert type(build_conv_layer(dict(type=kind), 4, 6, 3)) is CLASSES[kind]


def test_unselected_convolutions_keep_their_arguments():
    cfg = dict(type='DK', scope_size=5, offset_clip='scope')
    layer = build_conv_layer(cfg, 4, 6, 1, stride=2, padding=1, bias=False)
    assert repr(layer) == repr(nn.Conv2d(4, 6, 1, stride=2, padding=1, bias=False))


def test_options_reach_the_layer():
    cfg = dict(type='DK', scope_size=5, offset_groups=2, offset_clip=1.5)
    layer = build_conv_layer(cfg, 4, 6, 3, stride=2, padding=1, bias=False)
    assert (layer.scope_size, layer.offset_groups, layer.offset_clip) == ((5, 5), 2, 1.5)
    assert (layer.stride, layer.padding, layer.bias) == ((2, 2), (1, 1), None)


@pytest.mark.parametrize(
    'kind, options',
    [
        ('GlobalDK', dict(scope_size=(5, 4), offset_groups=2, offset_clip='scope')),
        ('DKDCN', dict(offset_groups=2, image_offset_groups=4, modulated=True, offset_clip=1.5)),
        ('FastDCN', dict(deform_groups=2, modulated=True)),
        ('CondConv', dict(num_experts=3)),
    ],
)
def test_every_types_options_reach_the_layer(kind, options):
    layer = build_conv_layer(dict(type=kind, **options), 4, 6, 3)
    assert {name: getattr(layer, name) for name in options} == options


@every_type
def test_depthwise_forces_groups(kind):
    cfg = dict(type=kind, depthwise=True)
    layer = build_conv_layer(cfg, 6, 6, 3)
    assert layer.groups == 6 and layer.weight.shape[-3] == 1
    assert build_conv_layer(dict(cfg, where='spatial'), 6, 8, 1).groups == 1
    with pytest.raises(ValueError, match=f"type='{kind}' with depthwise=True needs .* 4 and 6"):
        build_conv_layer(cfg, 4, 6, 3)


def test_config_is_left_as_it_was():
    cfg = dict(type='DK', where='all')
    build_conv_layer(cfg, 4, 4, 3)
    assert cfg == dict(type='DK', where='all')


@every_type
def test_conv_module(kind):
    module = ConvModule(
        4, 6, 3, stride=2, padding=1, conv_cfg=dict(type=kind), norm_cfg=dict(type='BN')
    )
    assert type(module.conv) is CLASSES[kind]
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


@every_type
@pytest.mark.parametrize('padding_mode', ['reflect', 'circular'])
def test_conv_module_pads(kind, padding_mode):
    module = ConvModule(4, 6, 3, padding=1, padding_mode=padding_mode, conv_cfg=dict(type=kind))
    assert module(torch.randn(2, 4, 8, 8)).shape == (2, 6, 8, 8)


@every_type
def test_conv_module_leaves_the_initial_weight_alone(kind):
    """Kaiming initialisation of a scope as if it were a kernel would be of the wrong variance."""
    torch.manual_seed(5)
    module = ConvModule(16, 16, 3, conv_cfg=dict(type=kind))
    torch.manual_seed(5)
    assert torch.equal(module.conv.weight, CLASSES[kind](16, 16, 3, bias=True).weight)


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
        (
            dict(type='FastDCN', deformable_groups=2),
            TypeError,
            "type='FastDCN' has no option 'deformable_groups'. Did you mean 'deform_groups'",
        ),
        (dict(type='CondConv', experts=2), TypeError, 'Its options are .*num_experts'),
        (dict(type='DKDCN', deform_groups=2), TypeError, 'Its options are .*image_offset_groups'),
        (dict(type='GlobalDK', modulated=True), TypeError, "no option 'modulated'"),
        (dict(type='DK', zzz=4), TypeError, "no option 'zzz'. Its options are .*offset_clip"),
        (dict(type='DK', where='conv3x3'), ValueError, "where must be one of .*got 'conv3x3'"),
        (dict(type='DK', depthwise=True), ValueError, 'depthwise=True needs .* got 4 and 6'),
        (dict(type='DK', scope_size=2), ValueError, 'scope_size .* is smaller than kernel_size'),
    ],
)
def test_bad_configs(cfg, error, message):
    with pytest.raises(error, match=message):
        build_conv_layer(cfg, 4, 6, 3)


@every_type
def test_unknown_option_is_an_error_for_plain_convolutions_too(kind):
    with pytest.raises(TypeError, match='scop_size'):
        build_conv_layer(dict(type=kind, where='spatial', scop_size=4), 4, 6, 1)


def test_is_selected_accepts_ints():
    assert is_selected('spatial', 3, 4, 1) and not is_selected('spatial', 1, 4, 1)
