"""Plain weights in files, as users have them, into swapped models: lifted, logged, and equal.

Both ways go through MMEngine's Runner: `init_cfg` of the backbone and of the detector, `load_from`.
"""

import copy
import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from torch import nn

from mmdk.layers import DeformKernel2d
from tests.detection import stock
from tests.layers.family import is_at_rest

DEPTHWISE = dict(type='DK', where='depthwise')


def retinanet(backbone, channels):
    """With a narrow neck and head, so that the backbone is what takes time."""
    config = stock.load('retinanet/retinanet_r50_fpn_1x_coco.py').model
    config.backbone = backbone
    config.neck.merge(dict(in_channels=channels, out_channels=16))
    config.bbox_head.merge(dict(in_channels=16, feat_channels=16))
    return config


def resnet50():
    return stock.load('retinanet/retinanet_r50_fpn_1x_coco.py').model


def resnet50_dw():
    return retinanet(dict(type='ResNetDW', depth=50), [256, 512, 1024, 2048])


def mobilenet_v2():
    return retinanet(dict(type='MobileNetV2'), [24, 32, 96, 1280])


def rtmdet_tiny():
    return stock.load('rtmdet/rtmdet_tiny_8xb32-300e_coco.py').model


def everywhere(model):
    for part in (model.backbone, model.neck, model.bbox_head):
        part.conv_cfg = stock.DK


def depthwise(model):
    model.backbone.conv_cfg = DEPTHWISE


# The plain detector, where DK goes, and how many layers in the backbone and in all become DK.
DETECTORS = {
    'ResNet-50': (resnet50, stock.in_stages, 13, 13),
    'ResNet-50-DW': (resnet50_dw, stock.in_stages, 13, 13),
    'MobileNetV2': (mobilenet_v2, depthwise, 17, 17),
    'RTMDet-tiny': (rtmdet_tiny, everywhere, 8, 21),
}


@pytest.fixture(scope='module', params=DETECTORS)
def detector(request):
    """The plain model as after training, and the config and the number of layers of the swapped."""
    make, swap, in_backbone, in_all = DETECTORS[request.param]
    torch.manual_seed(1)
    plain = stock.build(Config(dict(model=make())))
    plain.init_weights()
    for module in plain.modules():
        # Statistics as after training, so that all stages matter.
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    model = make()
    swap(model)
    return plain.eval(), model, dict(backbone=in_backbone, detector=in_all)


def of_torchvision(plain, path, model):
    """A bare state dict with a classifier."""
    torch.save({**plain.backbone.state_dict(), 'fc.weight': torch.ones(2, 2)}, path)
    model.backbone.init_cfg = dict(type='Pretrained', checkpoint=str(path))
    return dict(loaded='backbone')


def in_a_detector(plain, path, model):
    torch.save(dict(state_dict=plain.state_dict(), meta=dict(epoch=1)), path)
    model.backbone.init_cfg = dict(type='Pretrained', checkpoint=str(path), prefix='backbone.')
    return dict(loaded='backbone')


def of_the_detector(plain, path, model):
    torch.save(dict(state_dict=plain.state_dict(), meta=dict(epoch=1)), path)
    model.init_cfg = dict(type='Pretrained', checkpoint=str(path))
    return dict(loaded='detector')


def load_from(plain, path, model):
    torch.save(dict(state_dict=plain.state_dict(), meta=dict(epoch=1)), path)
    return dict(loaded='detector', load_from=str(path))


@pytest.mark.slow
@pytest.mark.parametrize('way', [of_torchvision, in_a_detector, of_the_detector, load_from])
def test_first_forward_is_the_plain_models(way, detector, tmp_path):
    plain, model, layers = detector
    model = copy.deepcopy(model)
    path = tmp_path / 'plain.pth'
    options = way(plain, path, model)
    loaded = options.pop('loaded')
    runner = Runner.from_cfg(
        Config(
            dict(
                model=model,
                work_dir=str(tmp_path),
                experiment_name=tmp_path.name,
                default_scope='mmdet',
                **options,
            )
        )
    )
    runner.model.init_weights()
    runner.load_or_resume()
    path.unlink()

    part = runner.model.backbone if loaded == 'backbone' else runner.model
    lifted = [n for n, layer in part.named_modules() if isinstance(layer, DeformKernel2d)]
    assert len(lifted) == layers[loaded]
    assert all(is_at_rest(part.get_submodule(name)) for name in lifted)
    log = '\n'.join(path.read_text() for path in Path(tmp_path).rglob('*.log'))
    for name in lifted:
        line = rf"{re.escape(name)}\.weight: a plain kernel \(\d, \d\), lifted to type 'DK'"
        assert re.search(line, log), name

    x = torch.randn(1, 3, 64, 96)
    runner.model.eval()
    with torch.no_grad():
        actual, expected = part(x), (plain.backbone if loaded == 'backbone' else plain)(x)
    if loaded == 'detector':
        actual, expected = sum(map(list, actual), []), sum(map(list, expected), [])
    for a, e in zip(actual, expected, strict=True):
        assert e.std() > 0
        assert (a - e).norm() < 1e-4 * e.norm()
