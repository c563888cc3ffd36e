"""DK trained through MMEngine's Runner: a step changes what it should, a resumed run goes on."""

import pytest
import torch
from mmengine.runner import Runner

from mmdk.layers import DeformKernel2d
from tests.detection import stock
from tests.detection.tiny import EPOCHS, make_config


def make_dk_config(data_root, work_dir, **changes):
    """With DK in a stage and in the head's tower."""
    config = make_config(data_root, work_dir, **changes)
    config.model.backbone.merge(dict(dcn=stock.DK, stage_with_dcn=(False, False, False, True)))
    config.model.bbox_head.conv_cfg = stock.DK
    return config


def weights(runner):
    return {name: value.clone() for name, value in runner.model.state_dict().items()}


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


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(data_root, tmp_path):
    whole = Runner.from_cfg(make_dk_config(data_root, tmp_path / 'whole'))
    whole.train()

    interrupted = make_dk_config(data_root, tmp_path / 'parts')
    interrupted.train_cfg.max_epochs = 1
    Runner.from_cfg(interrupted).train()
    resumed = Runner.from_cfg(make_dk_config(data_root, tmp_path / 'parts', resume=True))
    resumed.train()
    assert resumed.epoch == EPOCHS
    for name, value in weights(whole).items():
        torch.testing.assert_close(weights(resumed)[name], value, msg=lambda m, n=name: f'{n}: {m}')
