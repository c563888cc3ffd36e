"""The layers under MMEngine's mixed precision."""

import pytest
import torch
from mmengine.optim import AmpOptimWrapper
from mmengine.optim.optimizer import amp_optimizer_wrapper
from torch import nn

from tests.layers.family import VARIANTS


@pytest.fixture
def _amp_on_the_cpu(monkeypatch):
    """AmpOptimWrapper asks for a GPU when it is made; what it then does works without one."""
    monkeypatch.setattr(amp_optimizer_wrapper, 'is_cuda_available', lambda: True)


@pytest.mark.usefixtures('_amp_on_the_cpu')
@pytest.mark.filterwarnings('ignore:.*GradScaler:Warning')
@pytest.mark.parametrize('make', VARIANTS.values(), ids=VARIANTS)
def test_trains_in_bfloat16(make):
    """A line's direction, told from its picture, by a small network."""
    lines = torch.zeros(16, 1, 8, 8)
    for i in range(8):
        lines[i, 0, i] = lines[8 + i, 0, :, i] = 1
    directions = torch.arange(16) // 8
    model = nn.Sequential(
        make(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        make(8, 8, 3, padding=1, groups=8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 2),
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    wrapper = AmpOptimWrapper(dtype='bfloat16', optimizer=optimizer)
    before = {name: p.clone() for name, p in model.named_parameters()}
    losses, dtypes = [], set()
    model[0].register_forward_hook(lambda module, args, output: dtypes.add(output.dtype))
    for _ in range(30):
        with wrapper.optim_context(model):
            loss = nn.functional.cross_entropy(model(lines), directions)
        wrapper.update_params(loss)
        losses.append(loss.item())
    assert dtypes == {torch.bfloat16}
    assert losses[-1] < 0.3 * losses[0]
    for name, parameter in model.named_parameters():
        assert parameter.dtype == torch.float32, name
        assert not torch.equal(parameter, before[name]), name
