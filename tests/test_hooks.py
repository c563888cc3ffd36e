"""KernelOffsetHook in runs of a tiny model."""

import json
import math
from pathlib import Path

import pytest
import torch
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn

import mmdk  # noqa: F401  (registers the hook)
from mmdk.hooks import KernelOffsetHook
from mmdk.layers import DeformKernel2d

STEPS = 4


class Model(BaseModel):
    """Two stages; the first two layers' taps move by known offsets, which do not learn."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.ModuleDict(
            dict(
                layer1=nn.Sequential(
                    DeformKernel2d(3, 3, 3, padding=1),
                    DeformKernel2d(3, 3, 3, padding=1, offset_clip='scope'),
                ),
                layer2=nn.Sequential(DeformKernel2d(3, 3, 3, padding=1, offset_clip=0.5)),
            )
        )
        first, second = self.backbone['layer1']
        # Taps rest at 0.5, 1.5 and 2.5 of cells 0 to 3.
        set_offset(first, (0.6, -0.8))  # 1 cell long; the last row, the first column go outside
        set_offset(second, (0, -0.75))  # the first column is clipped to -0.5
        set_offset(self.backbone['layer2'][0], (0.3, 0.4))
        self.calls = []

    def forward(self, inputs, mode):
        assert mode == 'loss'
        self.calls.append(len(self.backbone['layer1'][0]._forward_pre_hooks))
        x = torch.stack(inputs)
        for stage in self.backbone.values():
            x = stage(x)
        return dict(loss=x.square().mean())


def set_offset(layer, offset):
    layer.conv_offset.bias.data.copy_(torch.tensor(offset).repeat(9))
    layer.conv_offset.requires_grad_(False)


class Data(torch.utils.data.Dataset):
    def __len__(self):
        return STEPS

    def __getitem__(self, index):
        return dict(inputs=torch.full((3, 8, 8), 0.1 * (index + 1)))


def train(work_dir, model=None, **hook):
    runner = Runner(
        model=model or Model(),
        work_dir=str(work_dir),
        train_dataloader=dict(
            dataset=Data(), batch_size=1, sampler=dict(type='DefaultSampler', shuffle=False)
        ),
        train_cfg=dict(by_epoch=False, max_iters=STEPS),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=1e-3)),
        custom_hooks=[dict(type='KernelOffsetHook', **hook)],
        default_hooks=dict(logger=dict(type='LoggerHook', interval=2)),
        experiment_name=work_dir.name,
    )
    runner.train()
    return runner


def scalars(runner):
    prefix = 'train/offset/'
    return {
        name[len(prefix) :]: history.current()
        for name, history in runner.message_hub.log_scalars.items()
        if name.startswith(prefix)
    }


EXPECTED = {
    # 5 of 9 taps are in the last row or the first column.
    'backbone.layer1.0': (1, 5 / 9, 0),
    'backbone.layer1.1': ((0.5 * 3 + 0.75 * 6) / 9, 0, 3 / 9),
    # Taps of the last column would be at 2.9, inside.
    'backbone.layer2.0': (0.5, 0, 0),
}


def test_scalars_of_every_layer(tmp_path):
    logged = scalars(train(tmp_path, interval=2))
    expected = {
        f'{layer}/{key}': value
        for layer, values in EXPECTED.items()
        for key, value in zip(('mean_abs', 'outside', 'clipped'), values, strict=True)
    }
    assert logged == pytest.approx(expected, abs=1e-6)


def test_scalars_of_every_stage(tmp_path):
    logged = scalars(train(tmp_path, interval=2, by='stage'))
    first, second = EXPECTED['backbone.layer1.0'], EXPECTED['backbone.layer1.1']
    assert logged['backbone.layer1/mean_abs'] == pytest.approx((first[0] + second[0]) / 2)
    assert logged['backbone.layer1/outside'] == pytest.approx((first[1] + second[1]) / 2)
    assert logged['backbone.layer2/clipped'] == 0
    assert len(logged) == 6


def test_they_reach_the_log(tmp_path):
    runner = train(tmp_path, interval=2)
    lines = Path(runner._log_dir, 'vis_data/scalars.json').read_text().splitlines()
    assert [json.loads(line)['step'] for line in lines] == [2, 4]
    for line in lines:
        assert json.loads(line)['offset/backbone.layer1.0/mean_abs'] == pytest.approx(1)
    text = Path(runner._log_dir, f'{runner.timestamp}.log').read_text()
    assert 'offset/backbone.layer1.0/outside: 0.5556' in text


def test_only_recorded_iterations_pay(tmp_path):
    model = Model()
    train(tmp_path, model, interval=2)
    assert model.calls == [0, 1, 0, 1]
    assert not model.backbone['layer1'][0]._forward_pre_hooks


def test_training_is_not_changed(tmp_path):
    torch.manual_seed(0)
    watched = train(tmp_path / 'watched', interval=1).model
    torch.manual_seed(0)
    alone = train(tmp_path / 'alone', interval=100).model
    for name, value in alone.state_dict().items():
        assert torch.equal(watched.state_dict()[name], value), name
    assert watched.backbone['layer2'][0].offset_clip == 0.5


@pytest.mark.parametrize('value', [math.nan, math.inf])
def test_offsets_that_are_not_finite_stop_training(tmp_path, value):
    model = Model()
    model.backbone['layer1'][1].conv_offset.bias.data[3] = value
    model.backbone['layer1'][1].offset_clip = None
    message = r"Kernel offsets of 'backbone.layer1.1'.*NaN or infinite in iteration 2\..*lr_mult"
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
    with pytest.raises(ValueError, match='the model has no layer with kernel offsets'):
        train(tmp_path, model)


def test_empty_batches_are_no_taps():
    hook = KernelOffsetHook()
    assert hook._grouped({'head.conv': [0.0, 0.0, 0.0, 0.0]}) == {}


@pytest.mark.parametrize(
    'cfg, message',
    [
        (dict(interval=0), 'interval must be an int of at least 1, got 0'),
        (dict(by='block'), "by must be 'layer' or 'stage', got 'block'"),
    ],
)
def test_bad_arguments(cfg, message):
    with pytest.raises(ValueError, match=message):
        KernelOffsetHook(**cfg)
