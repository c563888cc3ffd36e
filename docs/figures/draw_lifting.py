"""Draws docs/images/lifting.png: a kernel, and the scopes that mmdk lifts it to."""

import torch
from cells import KERNEL, draw_cells, draw_scope, example_weights, save, tap_grid
from matplotlib.figure import Figure

from mmdk import lift_kernel

SCOPES = {4: 'each tap is the mean of 2 x 2 cells', 5: 'taps lie on cells'}


def draw() -> Figure:
    kernel = example_weights(KERNEL)
    scopes = {size: lift_kernel(kernel, size) for size in SCOPES}
    limit = max(values.abs().max().item() for values in (kernel, *scopes.values()))
    figure = Figure(figsize=(8.4, 3.7), layout='constrained')
    first, *others = figure.subplots(1, 1 + len(scopes))
    shown = max(scopes) + 0.8
    draw_cells(first, kernel, limit, shown)
    first.set_title(f'a kernel, {KERNEL} x {KERNEL}', fontsize=10)
    for axis, (size, scope) in zip(others, scopes.items(), strict=True):
        draw_scope(axis, scope, torch.zeros_like(tap_grid()), limit, shown)
        axis.set_title(f'lifted to {size} x {size}:\n{SCOPES[size]}', fontsize=10)
    return figure


if __name__ == '__main__':
    save(draw(), 'lifting', __doc__)
