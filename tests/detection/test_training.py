"""DK trained through MMEngine's Runner: a step changes what it should, a resumed run goes on."""

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner, find_latest_checkpoint

from mmdk.layers import DeformKernel2d
from tests.detection import stock
from tests.detection.tiny import make_config


def make_dk_config(data_root, work_dir, layer=stock.DK, **changes):
    """With DK, or another layer, in a stage and in the head's tower."""
    config = make_config(data_root, work_dir, **changes)
    config.model.backbone.merge(dict(dcn=layer, stage_with_dcn=(False, False, False, True)))
    config.model.bbox_head.conv_cfg = layer
    return config


def test_a_step_moves_scopes_and_offsets(data_root, tmp_path):
    config = make_dk_config(data_root, tmp_path)
    config.train_cfg.max_epochs = 1
    runner = Runner.from_cfg(config)
    runner.model.init_weights()
    layers = {
        name: module
        for name, module in runner.model.named_modules()
        if isinstance(module, DeformKernel2d)
    }
    before = {name: layer.weight.clone() for name, layer in layers.items()}
    runner.train()
    assert len(layers) == 3 + 8
    for name, layer in layers.items():
        assert not torch.equal(layer.weight, before[name]), name
        assert layer.conv_offset.weight.any(), name
        assert all(parameter.isfinite().all() for parameter in layer.parameters()), name


def test_offsets_have_their_own_learning_rate(data_root, tmp_path):
    config = make_dk_config(data_root, tmp_path)
    runner = Runner.from_cfg(config)
    optimizer = runner.build_optim_wrapper(config.optim_wrapper).optimizer
    rates = {id(group['params'][0]): group['lr'] for group in optimizer.param_groups}
    for name, parameter in runner.model.named_parameters():
        if parameter.requires_grad:
            assert rates[id(parameter)] == pytest.approx(1e-4 if 'conv_offset' in name else 1e-3)


class Losses(Hook):
    """Keeps what every iteration logs, by its number."""

    priority = 'LOWEST'

    def __init__(self):
        self.seen = {}

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.seen[runner.iter] = {name: value.item() for name, value in outputs.items()}


def train(config):
    """A run, and the losses of its iterations."""
    runner, losses = Runner.from_cfg(config), Losses()
    runner.register_hook(losses)
    runner.train()
    return runner, losses.seen


def end_of(runner):
    """The last checkpoint: the average, the weights beside it, and the optimizer's state."""
    checkpoint = torch.load(find_latest_checkpoint(runner.work_dir), weights_only=True)
    return {name: checkpoint[name] for name in ('state_dict', 'ema_state_dict', 'optimizer')}


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['DK', 'DKDCN'])
def test_a_resumed_run_repeats_an_uninterrupted_one_bit_for_bit(kind, data_root, tmp_path):
    """Every loss, the weights, their average and the optimizer's state."""

    def config(name, **changes):
        config = make_dk_config(
            data_root,
            tmp_path / name,
            layer=dict(type=kind),
            custom_hooks=[dict(type='EMAHook', momentum=0.5)],
            **changes,
        )
        config.train_dataloader.batch_size = 1  # two iterations an epoch
        config.train_cfg.max_epochs = 3
        return config

    whole, expected = train(config('whole'))
    interrupted = config('parts')
    interrupted.train_cfg.max_epochs = 1
    _, before = train(interrupted)
    resumed, after = train(config('parts', resume=True))

    assert list(before) == [0, 1] and list(after) == [2, 3, 4, 5]
    assert {**before, **after} == expected
    assert all('loss_bbox' in losses for losses in expected.values())
    torch.testing.assert_close(end_of(resumed), end_of(whole), rtol=0, atol=0)
    averages = end_of(whole)['state_dict'].items()
    trained = whole.model.state_dict()
    assert any(
        'conv_offset' in name and not torch.equal(value, trained[name]) for name, value in averages
    )
