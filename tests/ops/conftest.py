import pytest
import torch


@pytest.fixture(autouse=True)
def _poisoned_memory():
    """What an operator allocates and forgets to write is NaN, not a lucky zero."""
    torch.use_deterministic_algorithms(True)
    if hasattr(torch.utils, 'deterministic'):  # before PyTorch 2.2 it is not an option but a rule
        torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)
