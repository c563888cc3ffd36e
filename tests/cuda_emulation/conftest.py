import pytest
import torch

from tests.cuda_emulation import emulator


@pytest.fixture(scope='session', autouse=True)
def _library():
    emulator.load()


@pytest.fixture(autouse=True)
def _one_thread():
    """Guarded memory is watched by one thread, the one that runs the emulator."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
