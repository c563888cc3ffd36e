"""Looking at layers while a model runs."""

import contextlib
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ['each_call', 'taps_of']


@contextlib.contextmanager
def each_call(
    model: nn.Module, method: str, record: Callable[[str, nn.Module, Tensor], None]
) -> Iterator[None]:
    """Calls `record(name, layer, input)`, without gradients, after each call of certain layers.

    Args:
        model: Holds the layers.
        method: 'kernel_offset' or 'image_offset': of the layers that have this method.
        record: Is not called for empty batches, as RoI heads have where nothing was proposed.
    """

    def hook(name: str) -> Callable:
        def after(layer: nn.Module, inputs: tuple, output: object) -> None:
            if len(inputs[0]):
                with torch.no_grad():
                    record(name, layer, inputs[0])

        return after

    handles = [
        layer.register_forward_hook(hook(name))
        for name, layer in model.named_modules()
        if hasattr(layer, method)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def taps_of(layer: nn.Module, offset: Tensor) -> np.ndarray:
    """(N, G*K_h*K_w*2, H, W) offsets as (N, G, K_h, K_w, 2, H, W) float32, y before x."""
    return offset.unflatten(1, (-1, *layer.kernel_size, 2)).float().cpu().numpy()
