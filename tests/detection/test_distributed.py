"""Layers in data-parallel training: gradients of two processes, conversions, averages."""

import copy

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from mmcv.cnn import build_conv_layer
from mmengine.model import ExponentialMovingAverage, convert_sync_batchnorm, revert_sync_batchnorm
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

import mmdk  # noqa: F401  (registers the conv layer types)
from tests.layers.family import generator

PROCESSES = 2
TYPES = {
    'DK': dict(type='DK'),
    'DK clipped': dict(type='DK', offset_groups=4, offset_clip='scope'),
    'GlobalDK': dict(type='GlobalDK'),
    'DKDCN': dict(type='DKDCN'),
    'DKDCN modulated': dict(type='DKDCN', modulated=True),
    'FastDCN': dict(type='FastDCN'),
    'FastDCN modulated': dict(type='FastDCN', modulated=True),
    'CondConv': dict(type='CondConv', num_experts=3),
}
LAYERS = {
    f'{name}, groups={groups}': dict(cfg, groups=groups)
    for name, cfg in TYPES.items()
    for groups in (1, 2, 8)
}


class Net(nn.Module):
    """Two layers of a type, with offsets that are not at rest."""

    def __init__(self, cfg, norm=None, with_cp=False):
        super().__init__()
        self.layers = nn.ModuleList(build_conv_layer(cfg, 8, 8, 3, padding=1) for _ in range(2))
        self.norm = nn.Identity() if norm is None else norm(8)
        self.with_cp = with_cp
        for layer in self.layers:
            for parameter in generator(layer).parameters():
                nn.init.normal_(parameter, std=0.05)

    def forward(self, x):
        for layer in self.layers:
            x = checkpoint(layer, x, use_reentrant=False) if self.with_cp else layer(x)
            x = self.norm(x).tanh()
        return x


def compare_gradients(rank, cfg, with_cp):
    """A share of the batch through DDP, and all of it without."""
    torch.manual_seed(0)
    alone = Net(cfg, with_cp=with_cp).double()
    parallel = DistributedDataParallel(copy.deepcopy(alone))
    batch, target = torch.randn(2, 2 * PROCESSES, 8, 9, 7, dtype=torch.float64)
    (alone(batch) - target).square().mean().backward()
    share = slice(2 * rank, 2 * rank + 2)
    (parallel(batch[share]) - target[share]).square().mean().backward()
    for (name, expected), actual in zip(
        alone.named_parameters(), parallel.parameters(), strict=True
    ):
        assert expected.grad.any(), name
        torch.testing.assert_close(
            actual.grad,
            expected.grad,
            rtol=1e-9,
            atol=1e-12,
            msg=lambda m, n=name: f'{cfg}, with_cp={with_cp}, {n}: {m}',
        )


def run_process(rank, store):
    """All comparisons in one process group: what takes long is starting processes."""
    torch.set_num_threads(1)
    dist.init_process_group('gloo', f'file://{store}', rank=rank, world_size=PROCESSES)
    for cfg in LAYERS.values():
        for with_cp in (False, True):
            compare_gradients(rank, cfg, with_cp)
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.slow
def test_gradients_of_two_processes_are_those_of_one(tmp_path, monkeypatch):
    """Also with activation checkpointing."""
    monkeypatch.setenv('GLOO_SOCKET_IFNAME', 'lo')
    mp.spawn(run_process, (tmp_path / 'store',), PROCESSES)


@pytest.mark.parametrize(
    'convert',
    [
        nn.SyncBatchNorm.convert_sync_batchnorm,
        lambda model: convert_sync_batchnorm(model, 'torch'),
        lambda model: revert_sync_batchnorm(convert_sync_batchnorm(model, 'torch')),
    ],
    ids=['torch', 'mmengine', 'and back'],
)
@pytest.mark.parametrize('layer', LAYERS)
def test_batch_norm_conversion_leaves_layers_alone(layer, convert):
    model = Net(LAYERS[layer], nn.BatchNorm2d)
    layers, state = list(model.layers), copy.deepcopy(model.state_dict())
    norm = model.norm
    model = convert(model)
    assert model.norm is not norm
    assert all(now is before for now, before in zip(model.layers, layers, strict=True))
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize('layer', LAYERS)
def test_average_of_the_weights(layer):
    """As EMAHook keeps it: a copy that follows."""
    model = Net(LAYERS[layer])
    average = ExponentialMovingAverage(model, momentum=0.25)
    average.update_parameters(model)
    first = copy.deepcopy(model.state_dict())
    for parameter in model.parameters():
        parameter.data += 1
    average.update_parameters(model)
    for name, value in average.module.state_dict().items():
        torch.testing.assert_close(value, first[name] + 0.25)
    x = torch.randn(1, 8, 6, 6)
    assert average(x).isfinite().all() and not torch.equal(average(x), model(x))
