"""The ImageNet recipes build, train and serve a detector, where MMPretrain is there."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.runner.checkpoint import save_checkpoint
from PIL import Image

import mmdk
from mmdk.layers.registry import LAYERS
from tools import imagenet_tables

try:
    import mmpretrain
# A torchvision built for another PyTorch fails in ways of its own.
except (ImportError, AssertionError, OSError, RuntimeError) as error:
    pytest.skip(
        f'MMPretrain does not import ({error}); `make test-imagenet` has an environment for it',
        allow_module_level=True,
    )
import modelindex
from mmpretrain.structures import DataSample

CONFIGS = imagenet_tables.recipes()
INDEX = yaml.safe_load(imagenet_tables.METAFILE.read_text())
COLLECTION = INDEX['Collections'][0]['Name']
TOOLS = Path(mmpretrain.__path__[0], '.mim/tools')
# As they are called in names of configs.
LAYER = {kind.lower(): layer for kind, (layer, _) in LAYERS.items()}
LAYER['gdk'] = LAYER.pop('globaldk')


@pytest.fixture(scope='module', params=CONFIGS, ids=lambda path: path.stem)
def recipe(request):
    """Name, config and initialised classifier."""
    config = Config.fromfile(request.param)
    model = imagenet_tables.build(config)
    model.init_weights()
    return request.param.stem, config, model


def layer_in(name):
    """The class that a name such as resnet50-dw-dk-c3-c5_... promises; None: a plain network."""
    found = [LAYER[part] for part in name.split('_')[0].split('-') if part in LAYER]
    return found[0] if found else None


def places(model):
    """The convolutions that a recipe of this network is to swap, by id."""
    backbone = model.backbone
    if type(backbone).__name__ == 'MobileNetV2':
        blocks = [block for i in range(1, 8) for block in getattr(backbone, f'layer{i}')]
        return {id(block.depthwise_conv.conv) for block in blocks}
    stages = (backbone.layer2, backbone.layer3, backbone.layer4)
    return {id(block.conv2) for stage in stages for block in stage}


def test_what_is_swapped(recipe):
    name, _, model = recipe
    swapped = [part for part in model.modules() if isinstance(part, tuple(LAYER.values()))]
    if layer_in(name) is None:
        assert not swapped
        return
    assert {type(layer) for layer in swapped} == {layer_in(name)}
    assert {id(layer) for layer in swapped} == places(model)
    depthwise = not name.startswith('resnet50-dk')
    assert all(layer.groups == (layer.in_channels if depthwise else 1) for layer in swapped)


def test_offsets_start_at_zero(recipe):
    _, _, model = recipe
    assert not any(p.any() for name, p in model.named_parameters() if 'conv_offset' in name)


def test_size_is_the_metafiles(recipe):
    name, _, model = recipe
    (entry,) = (entry for entry in INDEX['Models'] if entry['Name'] == name)
    counted = imagenet_tables.cost(copy.deepcopy(model))
    assert counted == {key: entry['Metadata'][key] for key in counted}


def test_the_index_is_mims():
    """MMPretrain brings the reader that MIM and OpenMMLab's tools use."""
    index = modelindex.load(str(imagenet_tables.ROOT / 'model-index.yml'))
    names = [model.name for model in index.models if model.in_collection == COLLECTION]
    assert names == [path.stem for path in CONFIGS]
    assert COLLECTION in [collection.name for collection in index.collections]


def test_two_steps_of_training(recipe):
    """Two, since blocks that start as identities pass nothing on in the first."""
    name, config, model = recipe
    model = copy.deepcopy(model).train()
    optim_wrapper = build_optim_wrapper(model, config.optim_wrapper)
    check_optimizer(name, model, optim_wrapper.optimizer)
    before = {key: value.clone() for key, value in model.named_parameters()}
    images = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)
    samples = [DataSample().set_gt_label(label) for label in range(4)]
    for _ in range(2):
        losses = model.train_step(dict(inputs=images, data_samples=samples), optim_wrapper)
        assert losses['loss'].isfinite()
    still = [key for key, value in model.named_parameters() if torch.equal(value, before[key])]
    assert not still


def check_optimizer(name, model, optimizer):
    parameters = {id(value): key for key, value in model.named_parameters()}
    slow = 0.01 if name.startswith('resnet50-dw') else 0.1
    for group in optimizer.param_groups:
        for parameter in group['params']:
            factor = slow if 'conv_offset' in parameters.pop(id(parameter)) else 1
            assert group['lr'] == pytest.approx(factor * optimizer.defaults['lr'])
    assert not parameters
    decay = 1e-4 if name.startswith('resnet50-dk') else 4e-5
    assert optimizer.defaults['weight_decay'] == decay


def test_checkpoint_loads_in_a_detectors_backbone(recipe, tmp_path):
    """All of it and nothing else, by the prefix, and the features are the classifier's."""
    _, config, model = recipe
    model = copy.deepcopy(model).eval()
    for name, parameter in model.named_parameters():
        if 'conv_offset' in name:
            torch.nn.init.normal_(parameter, std=0.01)
    path = str(tmp_path / 'classifier.pth')
    save_checkpoint(dict(state_dict=model.state_dict()), path)
    init_cfg = dict(type='Pretrained', checkpoint=path, prefix='backbone.')
    init_default_scope('mmdet')
    backbone = MODELS.build(dict(detector_backbone(config.model), init_cfg=init_cfg))
    backbone.init_weights()
    trained = model.backbone.state_dict()
    loaded = backbone.state_dict()
    assert list(loaded) == list(trained)
    assert all(torch.equal(loaded[key], trained[key]) for key in trained)
    x = torch.randn(1, 3, 64, 64)
    backbone.eval()
    with torch.no_grad():
        torch.testing.assert_close(backbone(x)[-1], model.backbone(x)[-1])


def detector_backbone(model):
    """The backbone as a detector's config has it, with as many features as it can give."""
    if model.backbone.type == 'ResNet':
        deformable = dict(dcn=dict(type=model.swaps.type), stage_with_dcn=(False, True, True, True))
        return dict(type='ResNet', depth=50, **deformable)
    cfg = {key: value for key, value in model.backbone.items() if key != 'out_indices'}
    return dict(cfg, norm_eval=True)


@pytest.fixture(scope='module')
def imagenet(tmp_path_factory):
    """A folder with data/imagenet in it: two images to train on, two to test on."""
    root = tmp_path_factory.mktemp('imagenet')
    data = root / 'data/imagenet'
    (data / 'meta').mkdir(parents=True)
    for split in ('train', 'val'):
        (data / split).mkdir()
        names = [f'{split}_{i}.png' for i in range(2)]
        for seed, name in enumerate(names):
            pixels = np.random.default_rng(seed).integers(0, 255, (64, 64, 3), np.uint8)
            Image.fromarray(pixels).save(data / split / name)
        lines = [f'{name} {label}\n' for label, name in enumerate(names)]
        (data / 'meta' / f'{split}.txt').write_text(''.join(lines))
    return root


@pytest.mark.parametrize(
    'name', ['resnet50-dw-dk-c3-c5_8xb32-coslr_in1k', 'resnet50-dk-c3-c5_8xb32-coslr_in1k']
)
def test_with_mmpretrains_own_tools(name, imagenet):
    """Type of another scope in the one, SwapConv2d in the other."""
    config = str(imagenet_tables.FOLDER / f'{name}.py')
    here = ['--work-dir', name, '--cfg-options', 'val_dataloader.num_workers=0']
    short = ['train_cfg.max_epochs=1', 'train_dataloader.num_workers=0']
    plain_loaders = ['--no-pin-memory', '--no-persistent-workers']
    run(imagenet, 'train.py', config, *plain_loaders, *here, *short)
    checkpoint = torch.load(imagenet / name / 'epoch_1.pth', weights_only=True)
    assert sum(key.endswith('conv_offset.weight') for key in checkpoint['state_dict']) == 13
    output = run(imagenet, 'test.py', config, f'{name}/epoch_1.pth', *here)
    assert 'accuracy/top1' in output


def run(folder, tool, *arguments):
    result = subprocess.run(
        [sys.executable, str(TOOLS / tool), *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, 'PYTHONPATH': str(Path(mmdk.__file__).parents[1])},
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout + result.stderr
