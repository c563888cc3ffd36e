"""Weights-only loading reads MMEngine's checkpoints and nothing else it did not read before."""

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer, MessageHub

import mmdk  # noqa: F401  (what is tested happens at import)


@pytest.fixture
def message_hub():
    hub = MessageHub('checkpoint')
    for step in range(3):
        hub.update_scalar('train/loss', 0.5 * step)
        hub.update_scalar('train/float32', np.float32(step))
        hub.update_scalar('train/tensor', torch.tensor(1.0))
    hub.update_info('epoch', 3)
    return hub


def test_message_hub(message_hub, tmp_path):
    torch.save({'message_hub': message_hub.state_dict()}, tmp_path / 'epoch.pth')
    loaded = torch.load(tmp_path / 'epoch.pth', weights_only=True)['message_hub']
    buffer = loaded['log_scalars']['train/loss']
    assert isinstance(buffer, HistoryBuffer)
    assert buffer.mean() == 0.5 and buffer.statistics('max') == 1.0
    assert loaded['runtime_info']['epoch'] == 3


class Evil:
    """Runs code when it is unpickled."""

    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize(
    'evil',
    [
        Evil(eval, '1 + 1'),
        Evil(__import__, 'os'),
        Evil(getattr, HistoryBuffer, '__init__'),
        Evil(getattr, torch.Tensor, 'numpy'),
        Evil(getattr, HistoryBuffer, 'mean', 'default'),
    ],
    ids=['eval', 'import', 'other_method', 'other_owner', 'default'],
)
def test_unsafe_pickles_are_refused(evil, tmp_path):
    torch.save({'state_dict': {}, 'meta': evil}, tmp_path / 'evil.pth')
    with pytest.raises(Exception, match='Weights only load failed|not allowed'):
        torch.load(tmp_path / 'evil.pth', weights_only=True)
