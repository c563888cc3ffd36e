"""Scopes, kernels and taps, as all figures draw them."""

import argparse
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

KERNEL = 3
IMAGES = Path(__file__).resolve().parents[1] / 'images'


def save(figure: Figure, name: str, description: str) -> None:
    """The command of one figure: writes docs/images/NAME.png, or what --out names."""
    parser = argparse.ArgumentParser(description=description)
    target = IMAGES / f'{name}.png'
    parser.add_argument('--out', type=Path, default=target, help='PNG to write [%(default)s]')
    figure.savefig(parser.parse_args().out, dpi=110)


def example_weights(size: int) -> Tensor:
    """(size, size): an oriented edge, so that moving taps visibly changes the kernel."""
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    return torch.from_numpy(np.sin(1.1 * x + 0.5 * y) * np.exp(-(x**2 + y**2) / 6)).float()


def tap_grid() -> Tensor:
    """(taps, 2): the taps' indices, (y, x)."""
    return torch.cartesian_prod(torch.arange(KERNEL), torch.arange(KERNEL)).float()


def draw_scope(
    axis: Axes, scope: Tensor, offsets: Tensor, limit: float, shown: float | None = None
) -> None:
    """The cells, with taps at rest (hollow) and moved by offsets (taps, 2), (y, x) cells."""
    draw_cells(axis, scope, limit, shown)
    rest = tap_grid() + (len(scope) - KERNEL) / 2
    taps = rest + offsets
    for (y0, x0), (y1, x1) in zip(rest.tolist(), taps.tolist(), strict=True):
        axis.plot([x0, x1], [y0, y1], color='black', linewidth=1)
    axis.scatter(rest[:, 1], rest[:, 0], s=26, facecolors='none', edgecolors='black')
    axis.scatter(taps[:, 1], taps[:, 0], s=14, color='black')


def draw_cells(axis: Axes, values: Tensor, limit: float, shown: float | None = None) -> None:
    """Weights as colours, from -limit to limit; `shown` is how many cells the axes reach across."""
    size = len(values)
    axis.imshow(values, cmap='RdBu_r', vmin=-limit, vmax=limit)
    for y, x in np.ndindex(*values.shape):
        axis.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, edgecolor='white'))
    middle, reach = (size - 1) / 2, (shown or size + 0.8) / 2
    axis.set(xticks=[], yticks=[], xlim=(middle - reach, middle + reach))
    axis.set(ylim=(middle + reach, middle - reach))
    axis.spines[:].set_visible(False)
