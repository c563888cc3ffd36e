"""What a wrong config says: where in the model, which value, and what to do."""

import logging

import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.runner import load_checkpoint

from tests.detection import stock

RESNET50 = 'retinanet/retinanet_r50_fpn_1x_coco.py'
RESNET18 = 'retinanet/retinanet_r18_fpn_1x_coco.py'
IN_STAGE = 'RetinaNet > ResNet > ResLayer > Bottleneck > DK (in_channels=128, out_channels=128): '
IN_STEM = 'RetinaNet > ResNet > DK (in_channels=3, out_channels=64): '
IN_HEAD = 'RetinaNet > RetinaHead > ConvModule > DK (in_channels=256, out_channels=256): '


def dcn(**layer):
    stages = (False, True, True, True)
    return dict(backbone=dict(dcn=dict(dict(type='DK'), **layer), stage_with_dcn=stages))


def conv_cfg(part, **layer):
    return {part: dict(conv_cfg=dict(dict(type='DK'), **layer))}


def swap(**swaps):
    """The innermost convolution, by its name in the model."""
    where = dict(where=r'backbone\.layer4\.0\.conv2')
    return dict(type='SwapConv2d', inside='RetinaNet', swaps=dict(where, **swaps))


CASES = {
    'option of dcn': (
        dcn(scop_size=5),
        TypeError,
        (IN_STAGE, "no option 'scop_size'", "Did you mean 'scope_size'"),
    ),
    'option of conv_cfg': (
        conv_cfg('bbox_head', experts=5),
        TypeError,
        (IN_HEAD, "no option 'experts'", 'Its options are'),
    ),
    'option of a swap': (
        swap(scop_size=5),
        TypeError,
        ('backbone.layer4.0.conv2: ', "no option 'scop_size'", "Did you mean 'scope_size'"),
    ),
    'argument of a swap': (
        swap(wher='all'),
        TypeError,
        ('backbone.layer4.0.conv2: ', "no option 'wher'", "Did you mean 'where'"),
    ),
    'type of a swap': (
        swap(type='DKK'),
        KeyError,
        ("type='DKK' is not registered", "Did you mean 'DK'"),
    ),
    'depthwise in a stem': (
        conv_cfg('backbone', depthwise=True),
        ValueError,
        (IN_STEM, 'depthwise=True', 'got 3 and 64', "use where='depthwise'"),
    ),
    'depthwise in a swap': (
        swap(depthwise=True),
        ValueError,
        ('backbone.layer4.0.conv2: ', 'do not fit', 'leave out', 'depthwise'),
    ),
    'scope in dcn': (
        dcn(scope_size=2),
        ValueError,
        (IN_STAGE, 'scope_size (2, 2) is smaller than kernel_size (3, 3)', 'enlarge scope_size'),
    ),
    'scope in conv_cfg': (
        conv_cfg('backbone', scope_size=5),
        ValueError,
        (IN_STEM, 'scope_size (5, 5) is smaller than kernel_size (7, 7)', 'enlarge scope_size'),
    ),
    'scope in a swap': (
        swap(scope_size=2),
        ValueError,
        ('backbone.layer4.0.conv2: ', 'scope_size (2, 2) is smaller', 'enlarge scope_size'),
    ),
    'groups in dcn': (
        dcn(offset_groups=3),
        ValueError,
        (IN_STAGE, 'offset_groups=3 does not divide in_channels=128', 'give one that does'),
    ),
    'groups in conv_cfg': (
        conv_cfg('bbox_head', offset_groups=3),
        ValueError,
        (IN_HEAD, 'offset_groups=3 does not divide in_channels=256', 'give one that does'),
    ),
    'groups in a swap': (
        swap(offset_groups=3),
        ValueError,
        ('backbone.layer4.0.conv2: ', 'offset_groups=3 does not divide in_channels=512'),
    ),
    'word in dcn': (
        dcn(where='backbone.*'),
        ValueError,
        (IN_STAGE, "'spatial', 'depthwise', 'all'", "got 'backbone.*'", "type 'SwapConv2d'"),
    ),
    'pattern of a swap': (
        swap(where=r'backbone\.layer4.0.conv'),
        ValueError,
        (r"where='backbone\\.layer4.0.conv' matches no", "Closest: 'backbone.layer4.0.conv"),
    ),
}


@pytest.mark.parametrize('case', CASES)
def test_message(case):
    change, error, words = CASES[case]
    config = stock.load(RESNET50)
    config.model.merge(change)
    with pytest.raises(error) as caught:
        stock.build(config)
    missing = [word for word in words if word not in str(caught.value)]
    assert not missing, str(caught.value)


@pytest.mark.parametrize('change', [dcn(type='DKK'), conv_cfg('bbox_head', type='DKK')])
def test_unknown_type_is_mmcvs_message(change):
    """Which docs/configs.md explains, since it does not say what is missing."""
    config = stock.load(RESNET50)
    config.model.merge(change)
    with pytest.raises(KeyError, match='Cannot find None in registry'):
        stock.build(config)


def test_basic_block_is_mmdetections_message():
    """docs/configs.md explains this one too."""
    config = stock.load(RESNET18)
    config.model.merge(dcn())
    with pytest.raises(AssertionError, match='Not implemented yet'):
        stock.build(config)


def narrow(**layer):
    config = stock.load(RESNET50)
    config.model.merge(dcn(**layer))
    config.model.backbone.base_channels = 4
    return stock.build(config).backbone


@pytest.mark.parametrize(
    'saved, built, message',
    [
        (
            dict(scope_size=5),
            dict(),
            'layer2.0.conv2.weight: a scope of (5, 5) is in the checkpoint, and scope_size here is '
            '(4, 4). Build the layer with scope_size=(5, 5).',
        ),
        (
            dict(offset_groups=2),
            dict(),
            'layer2.0.conv2.conv_offset.weight: (36, 8, 3, 3) is in the checkpoint, (18, 8, 3, 3) '
            'is expected with offset_groups=1. Build the layer with the type and options',
        ),
        (
            dict(type='DKDCN'),
            dict(),
            "layer2.0.conv2.weight was saved by a layer of type 'DKDCN', whose parameters mean "
            "something else than those of type 'DK' here. Build this layer as 'DKDCN'",
        ),
        (
            dict(type='CondConv', num_experts=4),
            dict(type='CondConv'),
            'layer2.0.conv2.weight: 4 experts are in the checkpoint, and num_experts here is 8. '
            'Build the layer with num_experts=4.',
        ),
    ],
    ids=['scope size', 'offset groups', 'type', 'experts'],
)
def test_checkpoint_of_another_layer(tmp_path, saved, built, message):
    """Refused where loading is strict; MMEngine's usual loading logs it and goes on."""
    torch.save(dict(state_dict=narrow(**saved).state_dict()), tmp_path / 'model.pth')
    backbone = narrow(**built)
    with pytest.raises(RuntimeError) as caught:
        load_checkpoint(backbone, str(tmp_path / 'model.pth'), strict=True)
    assert message in str(caught.value)

    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    # Of its own: the last one of another test may be silent.
    MMLogger.get_instance(str(tmp_path), log_level='INFO').addHandler(handler)
    load_checkpoint(backbone, str(tmp_path / 'model.pth'), strict=False, logger='current')
    assert any(message in line for line in lines)
