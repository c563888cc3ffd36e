"""OffsetHook in runs of a tiny model."""

import json
import math
from pathlib import Path

import pytest
import torch
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn

import mmdk  # noqa: F401  (registers the hook)
from mmdk.hooks import OffsetHook
from mmdk.layers import DeformConv2d, DeformKernel2d, DeformKernelConv2d

STEPS = 4


class Model(BaseModel):
    """Three stages of layers whose taps move by known offsets, which do not learn."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.ModuleDict(
            dict(
                layer1=nn.Sequential(
                    DeformKernel2d(3, 3, 3, padding=1),
                    DeformKernel2d(3, 3, 3, padding=1, offset_clip='scope'),
                ),
                layer2=nn.Sequential(DeformKernel2d(3, 3, 3, padding=1, offset_clip=0.5)),
                layer3=nn.Sequential(
                    DeformConv2d(3, 3, 3, padding=1, modulated=True),
                    DeformKernelConv2d(3, 3, 3, stride=2, padding=(1, 2), dilation=(1, 2)),
                ),
            )
        )
        first, second = self.backbone['layer1']
        # Taps rest at 0.5, 1.5 and 2.5 of cells 0 to 3.
        set_offset(first, (0.6, -0.8))  # 1 cell long; the last row, the first column go outside
        set_offset(second, (0, -0.75))  # the first column is clipped to -0.5
        set_offset(self.backbone['layer2'][0], (0.3, 0.4))
        set_offset(self.backbone['layer3'][0], (0, 0.75))
        set_offset(self.backbone['layer3'][1], (0.3, 0.4), (0.5, 0))
        self.calls = []

    def forward(self, inputs, mode):
        assert mode == 'loss'
        self.calls.append(len(self.backbone['layer1'][0]._forward_hooks))
        x = torch.stack(inputs)
        for stage in self.backbone.values():
            x = stage(x)
        return dict(loss=x.square().mean())


def set_offset(layer, *offsets):
    """Of each kind that the layer has, the same for all taps."""
    bias = torch.cat([torch.tensor(offset).repeat(9) for offset in offsets])
    layer.conv_offset.bias.data[: len(bias)] = bias
    layer.conv_offset.requires_grad_(False)


class Data(torch.utils.data.Dataset):
    def __len__(self):
        return STEPS

    def __getitem__(self, index):
        return dict(inputs=torch.full((3, 8, 6), 0.1 * (index + 1)))


def train(work_dir, model=None, visualizer=None, **hook):
    runner = Runner(
        model=model or Model(),
        work_dir=str(work_dir),
        train_dataloader=dict(
            dataset=Data(), batch_size=1, sampler=dict(type='DefaultSampler', shuffle=False)
        ),
        train_cfg=dict(by_epoch=False, max_iters=STEPS),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=1e-3)),
        custom_hooks=[dict(type='OffsetHook', **hook)],
        default_hooks=dict(logger=dict(type='LoggerHook', interval=2)),
        visualizer=visualizer,
        experiment_name=work_dir.name,
    )
    runner.train()
    return runner


def scalars(runner):
    return {
        name.removeprefix('train/'): history.current()
        for name, history in runner.message_hub.log_scalars.items()
        if 'offset/' in name
    }


KERNEL_OFFSETS = {
    # 5 of 9 taps are in the last row or the first column.
    'backbone.layer1.0': (1, 5 / 9, 0),
    'backbone.layer1.1': ((0.5 * 3 + 0.75 * 6) / 9, 0, 3 / 9),
    # Taps of the last column would be at 2.9, inside.
    'backbone.layer2.0': (0.5, 0, 0),
    'backbone.layer3.1': (0.5, 0, 0),
}
# Images are 8 x 6. Inside are the rows of 22 in 24 pairs of output and tap, and the columns of 14
# in 18; then, of 4 x 3 outputs, the rows of 10 in 12 and the columns of 7 in 9.
IMAGE_OFFSETS = {
    'backbone.layer3.0': (0.75, 1 - 22 / 24 * 14 / 18),
    'backbone.layer3.1': (0.5, 1 - 10 / 12 * 7 / 9),
}
KERNEL_SCALARS = ('mean_abs', 'outside', 'clipped')
IMAGE_SCALARS = ('mean_abs', 'outside')


def expected_scalars():
    return {
        f'{kind}/{layer}/{name}': value
        for kind, names, layers in (
            ('kernel_offset', KERNEL_SCALARS, KERNEL_OFFSETS),
            ('image_offset', IMAGE_SCALARS, IMAGE_OFFSETS),
        )
        for layer, values in layers.items()
        for name, value in zip(names, values, strict=True)
    }


def test_scalars_of_every_layer(tmp_path):
    logged = scalars(train(tmp_path, interval=2))
    assert logged == pytest.approx(expected_scalars(), abs=1e-6)


def test_scalars_of_every_stage(tmp_path):
    logged = scalars(train(tmp_path, interval=2, by='stage'))
    first, second = KERNEL_OFFSETS['backbone.layer1.0'], KERNEL_OFFSETS['backbone.layer1.1']
    stage = 'kernel_offset/backbone.layer1'
    assert logged[f'{stage}/mean_abs'] == pytest.approx((first[0] + second[0]) / 2)
    assert logged[f'{stage}/outside'] == pytest.approx((first[1] + second[1]) / 2)
    # The first of these layers has 8 x 6 outputs, the second 4 x 3.
    means = [values[0] for values in IMAGE_OFFSETS.values()]
    assert logged['image_offset/backbone.layer3/mean_abs'] == pytest.approx(
        (48 * means[0] + 12 * means[1]) / 60
    )
    assert logged['kernel_offset/backbone.layer2/clipped'] == 0
    assert len(logged) == 3 * len(KERNEL_SCALARS) + len(IMAGE_SCALARS)


def test_they_reach_the_log(tmp_path):
    runner = train(tmp_path, interval=2)
    lines = Path(runner._log_dir, 'vis_data/scalars.json').read_text().splitlines()
    assert [json.loads(line)['step'] for line in lines] == [2, 4]
    for line in lines:
        values = json.loads(line)
        assert {name: values[name] for name in expected_scalars()} == pytest.approx(
            expected_scalars(), abs=1e-6
        )
    text = Path(runner._log_dir, f'{runner.timestamp}.log').read_text()
    assert 'kernel_offset/backbone.layer1.0/outside: 0.5556' in text
    assert 'image_offset/backbone.layer3.0/mean_abs: 0.7500' in text


def test_they_reach_tensorboard(tmp_path):
    events = pytest.importorskip('tensorboard.backend.event_processing.event_accumulator')
    backend = dict(type='TensorboardVisBackend')
    runner = train(tmp_path, visualizer=dict(type='Visualizer', vis_backends=[backend]), interval=2)
    runner.visualizer.close()
    written = events.EventAccumulator(str(Path(runner._log_dir, 'vis_data'))).Reload()
    for name, value in expected_scalars().items():
        records = written.Scalars(name)
        assert [record.step for record in records] == [2, 4]
        assert [record.value for record in records] == pytest.approx([value] * 2, abs=1e-6)


def test_only_recorded_iterations_pay(tmp_path):
    model = Model()
    train(tmp_path, model, interval=2)
    assert model.calls == [0, 1, 0, 1]
    assert not model.backbone['layer1'][0]._forward_hooks


def test_training_is_not_changed(tmp_path):
    torch.manual_seed(0)
    watched = train(tmp_path / 'watched', interval=1).model
    torch.manual_seed(0)
    alone = train(tmp_path / 'alone', interval=100).model
    for name, value in alone.state_dict().items():
        assert torch.equal(watched.state_dict()[name], value), name
    assert watched.backbone['layer2'][0].offset_clip == 0.5


@pytest.mark.parametrize('value', [math.nan, math.inf])
@pytest.mark.parametrize(
    'stage, index, channel, kind',
    [('layer1', 1, 3, 'Kernel'), ('layer3', 0, 17, 'Image'), ('layer3', 1, 20, 'Image')],
)
def test_offsets_that_are_not_finite_stop_training(tmp_path, stage, index, channel, kind, value):
    model = Model()
    layer = model.backbone[stage][index]
    layer.conv_offset.bias.data[channel] = value
    layer.offset_clip = None
    name = rf'backbone\.{stage}\.{index}'
    message = rf"{kind} offsets of '{name}'.* NaN or infinite in iteration 2\..*lr_mult"
    with pytest.raises(FloatingPointError, match=message):
        train(tmp_path, model, interval=2)


def test_infinite_offsets_that_clipping_hides_are_seen(tmp_path):
    model = Model()
    model.backbone['layer2'][0].conv_offset.bias.data[0] = math.inf
    with pytest.raises(FloatingPointError, match="'backbone.layer2.0'"):
        train(tmp_path, model, interval=2)


def test_model_without_such_layers(tmp_path):
    model = Model()
    model.backbone = nn.ModuleDict(
        dict(layer1=nn.Sequential(nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3)))
    )
    with pytest.raises(ValueError, match='the model has no layer with offsets'):
        train(tmp_path, model)


def test_empty_batches_are_no_taps():
    hook = OffsetHook()
    assert hook._grouped({('kernel_offset', 'head.conv'): [0.0, 0.0, 0.0, 0.0]}) == {}


@pytest.mark.parametrize(
    'cfg, message',
    [
        (dict(interval=0), 'interval must be an int of at least 1, got 0'),
        (dict(by='block'), "by must be 'layer' or 'stage', got 'block'"),
    ],
)
def test_bad_arguments(cfg, message):
    with pytest.raises(ValueError, match=message):
        OffsetHook(**cfg)


def test_the_layer_computes_its_offsets_first(tmp_path):
    """Under autocast, older PyTorch keeps the first cast of a weight, with or without gradient."""
    model, modes = Model(), []
    model.backbone['layer1'][0].conv_offset.register_forward_hook(
        lambda *_: modes.append(torch.is_grad_enabled())
    )
    train(tmp_path, model, interval=STEPS)
    assert modes == [True] * STEPS + [False]


def test_silent_layers_are_noticed_once(tmp_path):
    """As in a model that was compiled before the hook came."""

    class Compiled(Model):
        def forward(self, inputs, mode):
            x = torch.stack(inputs)
            for layer in (layer for stage in self.backbone.values() for layer in stage):
                x = layer.forward(x)
            return dict(loss=x.square().mean())

    runner = train(tmp_path, Compiled(), interval=1)
    (log,) = Path(runner.log_dir).glob('*.log')
    assert log.read_text().count('no layer with offsets reported in iteration 1') == 1
    assert not scalars(runner)
