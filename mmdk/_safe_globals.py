"""Lets weights-only loading read MMEngine's own checkpoints.

From PyTorch 2.6 on `torch.load` refuses every type it was not told of, and so MMDetection's test.py
and `--resume` refuse the checkpoints that its train.py wrote: they hold MMEngine's HistoryBuffers,
which are NumPy arrays and references to methods. Just these are named safe here; loading stays
weights-only and any other pickled object is refused as before.
"""

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

STATISTICS = ('min', 'max', 'current', 'mean')


def allow_mmengine_checkpoints() -> None:
    """Tell `torch.load` that what MMEngine's checkpoints hold is safe."""
    if not hasattr(torch.serialization, 'get_unsafe_globals_in_checkpoint'):
        return  # before PyTorch 2.6 loading is not weights-only by default
    numpy_core = np._core if hasattr(np, '_core') else np.core
    # NumPy 2 renamed its core; each version reads the other's files.
    rebuilders = [
        (getattr(numpy_core.multiarray, function), f'{module}.multiarray.{function}')
        for function in ('_reconstruct', 'scalar')
        for module in ('numpy.core', 'numpy._core')
    ]
    dtypes = {type(np.dtype(code)) for code in ('float32', 'float64', 'int32', 'int64', 'bool')}
    torch.serialization.add_safe_globals(
        [HistoryBuffer, np.ndarray, np.dtype, *dtypes, *rebuilders]
        + [(_statistics_method, 'builtins.getattr')]
    )


def _statistics_method(*arguments):
    """Stands in for `getattr`, by which a pickle names a method: HistoryBuffer's statistics only.

    Raises:
        ValueError: Anything else is asked for.
    """
    if arguments not in [(HistoryBuffer, name) for name in STATISTICS]:
        raise ValueError(f'getattr{arguments!r} in a checkpoint is not allowed.')
    return getattr(*arguments)
