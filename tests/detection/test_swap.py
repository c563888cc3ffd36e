"""Type 'SwapConv2d': layers swapped by a config alone, for training, testing and resuming."""

import copy
import pickle

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import Runner, find_latest_checkpoint
from torch import nn

from mmdk.layers import DeformKernel2d
from tests.detection import stock
from tests.detection.tiny import make_config

# A stage of the backbone, a tower's last convolution, a layer that predicts.
WHERE = [r'backbone\.layer4\..*conv2', r'bbox_head\.(cls|reg)_convs\.3\.conv', r'.*\.retina_cls']
COUNT = 3 + 2 + 1


def swap(model, where=WHERE, **cfg):
    """The overlay that a config writes, in place."""
    model.update(inside=model.type, swaps=[dict(type='DK', where=where, **cfg)])
    model.type = 'SwapConv2d'


def make_swapped_config(data_root, work_dir, **changes):
    config = make_config(data_root, work_dir, **changes)
    swap(config.model)
    return config


def layers(model):
    return {n: part for n, part in model.named_modules() if isinstance(part, DeformKernel2d)}


def features(model):
    images = torch.linspace(-2, 2, 2 * 3 * 64 * 64).view(2, 3, 64, 64).sin()
    model.eval()
    with torch.no_grad():
        return [*model.backbone(images), *(y for level in model(images) for y in level)]


def assert_computes_the_same(swapped, plain):
    for actual, expected in zip(features(swapped), features(plain), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def assert_at_rest(model):
    for name, layer in layers(model).items():
        assert not layer.conv_offset.weight.any() and not layer.conv_offset.bias.any(), name


def shake(model):
    """Weights and statistics as training might leave them, so that every layer matters."""
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)


def test_overlay_of_a_stock_config(tmp_path):
    (tmp_path / 'config.py').write_text(
        "_base_ = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'\n"
        "custom_imports = dict(imports=['mmdk'], allow_failed_imports=False)\n"
        "model = dict(type='SwapConv2d', inside={{_base_.model.type}},\n"
        "    swaps=dict(where=r'backbone\\.layer[34].*conv2', offset_clip='scope'))\n"
    )
    config = Config.fromfile(tmp_path / 'config.py')
    # MMDetection's tools and --cfg-options find everything where it always was.
    assert config.model.backbone.depth == 18 and 'data_preprocessor' in config.model
    stock.drop_pretrained(config.model)
    model = stock.build(config)
    assert type(model).__name__ == 'RetinaNet'
    assert list(layers(model)) == [
        f'backbone.layer{stage}.{block}.conv2' for stage in (3, 4) for block in (0, 1)
    ]
    assert all(layer.offset_clip == 'scope' for layer in layers(model).values())


PLACES = {
    'BasicBlock of ResNet-18': (
        'retinanet/retinanet_r18_fpn_1x_coco.py',
        r'backbone\.layer[34]\.\d\.conv[12]',
        8,
        lambda model, x: model.backbone(x),
    ),
    'BasicBlock of ResNet-34': (
        'dino/dino-4scale_r50_8xb2-12e_coco.py',
        r'backbone\.layer4\.\d\.conv2',
        3,
        lambda model, x: model.backbone(x),
    ),
    'RPN': (
        'faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py',
        r'rpn_head\.rpn_conv',
        1,
        lambda model, x: sum(model.rpn_head(model.extract_feat(x)), []),
    ),
    'layers that predict': (
        'faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py',
        [r'rpn_head\.rpn_cls', r'rpn_head\.rpn_reg'],
        2,
        lambda model, x: sum(model.rpn_head(model.extract_feat(x)), []),
    ),
    'end of a tower': (
        'fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py',
        r'bbox_head\.(cls|reg)_convs\.3\.conv',
        2,
        lambda model, x: sum(model(x), []),
    ),
    'neck': (
        'atss/atss_r50_fpn_1x_coco.py',
        r'neck\.fpn_convs\..*',
        5,
        lambda model, x: model.extract_feat(x),
    ),
    'mask head': (
        'mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py',
        r'roi_head\.mask_head\.convs\..*',
        4,
        lambda model, x: [model.roi_head.mask_head(x[:, :1, :14, :14].expand(-1, 256, -1, -1))],
    ),
    'convolutions that levels share': (
        'rtmdet/rtmdet_tiny_8xb32-300e_coco.py',
        r'bbox_head\.cls_convs\.0\..*',
        2,
        lambda model, x: sum(model(x), ()),
    ),
    'depthwise convolutions': (
        'yolox/yolox_tiny_8xb8-300e_coco.py',
        'depthwise',
        30,
        lambda model, x: sum(model(x), []),
    ),
}


def change(config, place):
    if place == 'BasicBlock of ResNet-34':
        config.model.backbone.depth = 34
        config.model.neck.in_channels = [128, 256, 512]
    if place == 'depthwise convolutions':
        for part in (config.model.backbone, config.model.neck, config.model.bbox_head):
            part.use_depthwise = True


@pytest.mark.parametrize('place', PLACES)
def test_places(place):
    """Any convolution of a stock model; the plain model's weights, lifted, compute the same."""
    name, where, count, outputs = PLACES[place]
    config = stock.load(name)
    change(config, place)
    plain = stock.build(copy.deepcopy(config))  # building DINO changes its config
    plain.init_weights()
    swap(config.model, where)
    swapped = stock.build(config)
    assert len(layers(swapped)) == count
    swapped.load_state_dict(plain.state_dict())
    plain.eval(), swapped.eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for actual, expected in zip(outputs(swapped, x), outputs(plain, x), strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_initialised_as_the_plain_model_would_be(data_root, tmp_path):
    """Every rule of a stock model holds: Kaiming, a head's small weights, the prior of classes."""
    config = make_config(data_root, tmp_path)
    torch.manual_seed(3)
    plain = MODELS.build(copy.deepcopy(config.model))
    plain.init_weights()
    swap(config.model)
    swapped = MODELS.build(config.model)
    torch.manual_seed(3)
    swapped.init_weights()
    assert swapped.bbox_head.retina_cls.bias.mean().item() == pytest.approx(-4.595, abs=1e-3)
    assert_at_rest(swapped)
    assert_computes_the_same(swapped, plain)


def test_initialised_once(data_root, tmp_path):
    model = MODELS.build(make_swapped_config(data_root, tmp_path).model)
    model.init_weights()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.init_weights()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_copies_and_pickles_initialise_themselves(data_root, tmp_path):
    model = MODELS.build(make_swapped_config(data_root, tmp_path).model)
    before = model.bbox_head.retina_cls.bias.clone()
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        twin.init_weights()
        assert twin.bbox_head.retina_cls.bias.mean().item() == pytest.approx(-4.595, abs=1e-3)
    assert torch.equal(model.bbox_head.retina_cls.bias, before)


@pytest.mark.parametrize('source', ['plain', 'swapped'])
@pytest.mark.parametrize('part', ['backbone', 'detector'])
def test_pretrained(data_root, tmp_path, source, part):
    """init_cfg reads weights of the plain model and of the swapped one."""
    config = make_config(data_root, tmp_path)
    if source == 'swapped':
        swap(config.model)
    pretrained = MODELS.build(copy.deepcopy(config.model))
    shake(pretrained)
    of_part = pretrained.backbone if part == 'backbone' else pretrained
    torch.save(of_part.state_dict(), tmp_path / 'pretrained.pth')

    config = make_swapped_config(data_root, tmp_path)
    node = config.model.backbone if part == 'backbone' else config.model
    node.init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'pretrained.pth'))
    model = MODELS.build(config.model)
    model.init_weights()
    loaded = model.backbone if part == 'backbone' else model
    if source == 'swapped':
        for name, value in of_part.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], value), name
    elif part == 'detector':
        assert_at_rest(model)
        assert_computes_the_same(model, pretrained)
    else:
        x = torch.randn(1, 3, 64, 64)
        model.eval(), pretrained.eval()
        for actual, expected in zip(model.backbone(x), pretrained.backbone(x), strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope='module')
def trained(data_root, tmp_path_factory):
    """A run of two epochs, with an average of the weights."""
    work_dir = tmp_path_factory.mktemp('trained')
    config = make_swapped_config(
        data_root, work_dir, custom_hooks=[dict(type='EMAHook', momentum=0.5)]
    )
    runner = Runner.from_cfg(config)
    runner.train()
    return runner


def test_training_moves_every_layer(trained):
    assert len(layers(trained.model)) == COUNT
    for name, layer in layers(trained.model).items():
        assert layer.conv_offset.weight.any(), name
        assert all(parameter.isfinite().all() for parameter in layer.parameters()), name


def test_offsets_have_their_own_learning_rate(trained):
    rates = {
        id(parameter): group['lr']
        for group in trained.optim_wrapper.param_groups
        for parameter in group['params']
    }
    for name, parameter in trained.model.named_parameters():
        expected = 1e-4 if 'conv_offset' in name else 1e-3
        assert rates[id(parameter)] == pytest.approx(expected), name


def test_average_holds_the_layers(trained):
    (hook,) = (hook for hook in trained.hooks if type(hook).__name__ == 'EMAHook')
    average = hook.ema_model.module
    assert list(layers(average)) == list(layers(trained.model))
    for name, layer in layers(average).items():
        assert layer.conv_offset.weight.any(), name
        assert not torch.equal(
            layer.conv_offset.weight, layers(trained.model)[name].conv_offset.weight
        )


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(data_root, trained, tmp_path):
    hooks = [dict(type='EMAHook', momentum=0.5)]
    config = make_swapped_config(data_root, tmp_path, custom_hooks=hooks)
    config.train_cfg.max_epochs = 1
    Runner.from_cfg(config).train()
    resumed = Runner.from_cfg(
        make_swapped_config(data_root, tmp_path, custom_hooks=hooks, resume=True)
    )
    resumed.train()
    for name, value in trained.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name


def test_testing_loads_what_training_saved(data_root, trained, tmp_path):
    """As test.py does it: the model is built, never initialised, and loaded."""
    config = make_swapped_config(data_root, tmp_path)
    dataset = copy.deepcopy(config.train_dataloader.dataset)
    dataset.test_mode = True
    dataset.pipeline[-1].meta_keys = ('img_id', 'ori_shape', 'img_shape', 'scale_factor')
    config.update(
        test_dataloader=dict(
            batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler'), dataset=dataset
        ),
        test_cfg=dict(type='TestLoop'),
        test_evaluator=dict(type='CocoMetric', ann_file=f'{data_root}/annotations.json'),
        load_from=find_latest_checkpoint(trained.work_dir),
    )
    runner = Runner.from_cfg(config)
    runner.test()
    (hook,) = (hook for hook in trained.hooks if type(hook).__name__ == 'EMAHook')
    # The average is what a checkpoint holds as its model.
    for name, value in hook.ema_model.module.state_dict().items():
        assert torch.equal(runner.model.state_dict()[name], value), name


def test_plain_checkpoint_is_lifted(data_root, tmp_path):
    plain = MODELS.build(make_config(data_root, tmp_path).model)
    shake(plain)
    torch.save(dict(state_dict=plain.state_dict(), meta={}), tmp_path / 'plain.pth')
    config = make_swapped_config(data_root, tmp_path, load_from=str(tmp_path / 'plain.pth'))
    runner = Runner.from_cfg(config)
    runner.load_or_resume()
    assert_computes_the_same(runner.model, plain)


def test_part_of_a_model(data_root, tmp_path):
    """The type stands wherever a config builds something; names are then those inside."""
    config = make_config(data_root, tmp_path)
    swap(config.model.backbone, where='spatial')
    model = MODELS.build(config.model)
    assert len(layers(model)) == 17 and all(name.startswith('backbone.') for name in layers(model))
    model.init_weights()
    assert_at_rest(model)
    assert type(model.bbox_head.cls_convs[0].conv) is nn.Conv2d


def test_several_swaps_in_order(data_root, tmp_path):
    config = make_config(data_root, tmp_path)
    swaps = [
        dict(where=r'backbone\.layer4\.0\.conv2', scope_size=5),
        dict(where=r'backbone\.layer[34]\.[012]\.conv2', scope_size=4),
    ]
    config.model.update(type='SwapConv2d', inside='RetinaNet', swaps=swaps)
    sizes = {name: layer.scope_size for name, layer in layers(MODELS.build(config.model)).items()}
    assert sizes.pop('backbone.layer4.0.conv2') == (5, 5)
    assert len(sizes) == 5 and set(sizes.values()) == {(4, 4)}


def test_the_scope_of_a_config_is_kept():
    """`_scope_` holds while the model is built; it initialises itself later."""
    cfg = dict(
        type='SwapConv2d',
        inside='ResNet',
        swaps=dict(where='spatial'),
        depth=18,
        base_channels=4,
        _scope_='mmdet',
    )
    with DefaultScope.overwrite_default_scope('mmengine'):
        model = MODELS.build(cfg)
        model.init_weights()
    assert len(layers(model)) == 17
    assert_at_rest(model)


@pytest.mark.parametrize('swaps', [[], None, 'spatial', ['spatial']])
def test_swaps_of_another_kind(data_root, tmp_path, swaps):
    config = make_config(data_root, tmp_path)
    config.model.update(type='SwapConv2d', inside='RetinaNet', swaps=swaps)
    with pytest.raises(TypeError, match='swaps must be a dict of type, where and options'):
        MODELS.build(config.model)
