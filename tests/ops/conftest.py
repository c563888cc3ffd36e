import pytest
import torch


@pytest.fixture(autouse=True)
def _poisoned_memory():
    """What an operator allocates and forgets to write is NaN, not a lucky zero."""
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)
