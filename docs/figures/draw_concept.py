"""Draws docs/images/concept.png: scopes, taps, and the kernels that mmdk samples there."""

import torch
from cells import KERNEL, draw_cells, draw_scope, example_weights, save, tap_grid
from matplotlib.figure import Figure
from torch import Tensor

from mmdk.ops import sample_kernel

SCOPE = 4


def draw() -> Figure:
    scope = example_weights(SCOPE)
    cases = example_offsets()
    figure = Figure(figsize=(2.3 * len(cases), 4.8), layout='constrained')
    axes = figure.subplots(2, len(cases))
    limit = scope.abs().max().item()
    for column, (title, offsets) in enumerate(cases.items()):
        kernel = sample_kernel(scope[None, None], offsets.reshape(1, -1), KERNEL)[0, 0, 0]
        draw_scope(axes[0, column], scope, offsets, limit)
        axes[0, column].set_title(title, fontsize=10)
        draw_cells(axes[1, column], kernel, limit, shown=SCOPE + 0.8)
    axes[0, 0].set_ylabel(f'the scope, {SCOPE} x {SCOPE} weights,\nand where taps look it up')
    axes[1, 0].set_ylabel(f'the {KERNEL} x {KERNEL} kernel\nused at that position')
    return figure


def example_offsets() -> dict[str, Tensor]:
    """Offsets (taps, 2), (y, x) in scope cells."""
    centred = tap_grid() - 1
    turn = torch.tensor([[0.71, -0.71], [0.71, 0.71]])
    generator = torch.Generator().manual_seed(4)
    return {
        'at rest:\na convolution': torch.zeros_like(centred),
        'spread': 0.5 * centred,
        'gathered': -0.6 * centred,
        'turned': centred @ turn.T - centred,
        'free': 0.45 * torch.randn(centred.shape, generator=generator),
    }


if __name__ == '__main__':
    save(draw(), 'concept', __doc__)
