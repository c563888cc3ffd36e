"""Draws docs/images/concept.png: scopes, taps, and the kernels that mmdk samples there."""

import argparse
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from mmdk.ops import sample_kernel

KERNEL, SCOPE = 3, 4
TARGET = Path(__file__).resolve().parents[1] / 'images/concept.png'


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--out', type=Path, default=TARGET, help='PNG to write [%(default)s]')
    args = parser.parse_args()
    draw().savefig(args.out, dpi=110)


def draw() -> Figure:
    scope = example_scope()
    cases = example_offsets()
    figure = Figure(figsize=(2.3 * len(cases), 4.8), layout='constrained')
    axes = figure.subplots(2, len(cases))
    limit = scope.abs().max().item()
    for column, (title, offsets) in enumerate(cases.items()):
        kernel = sample_kernel(scope[None, None], offsets.reshape(1, -1), KERNEL)[0, 0, 0]
        draw_scope(axes[0, column], scope, offsets, limit)
        axes[0, column].set_title(title, fontsize=10)
        draw_cells(axes[1, column], kernel, limit)
    axes[0, 0].set_ylabel(f'the scope, {SCOPE} x {SCOPE} weights,\nand where taps look it up')
    axes[1, 0].set_ylabel(f'the {KERNEL} x {KERNEL} kernel\nused at that position')
    return figure


def example_scope() -> torch.Tensor:
    """An oriented edge, so that moving taps visibly changes the kernel."""
    y, x = np.mgrid[:SCOPE, :SCOPE] - (SCOPE - 1) / 2
    return torch.from_numpy(np.sin(1.1 * x + 0.5 * y) * np.exp(-(x**2 + y**2) / 6)).float()


def example_offsets() -> dict[str, torch.Tensor]:
    """Offsets (taps, 2), (y, x) in scope cells."""
    centred = torch.cartesian_prod(torch.arange(KERNEL), torch.arange(KERNEL)).float() - 1
    turn = torch.tensor([[0.71, -0.71], [0.71, 0.71]])
    generator = torch.Generator().manual_seed(4)
    return {
        'at rest:\na convolution': torch.zeros_like(centred),
        'spread': 0.5 * centred,
        'gathered': -0.6 * centred,
        'turned': centred @ turn.T - centred,
        'free': 0.45 * torch.randn(centred.shape, generator=generator),
    }


def draw_scope(axis, scope, offsets, limit):
    draw_cells(axis, scope, limit)
    rest = torch.cartesian_prod(torch.arange(KERNEL), torch.arange(KERNEL)) + (SCOPE - KERNEL) / 2
    taps = rest + offsets
    for (y0, x0), (y1, x1) in zip(rest.tolist(), taps.tolist(), strict=True):
        axis.plot([x0, x1], [y0, y1], color='black', linewidth=1)
    axis.scatter(rest[:, 1], rest[:, 0], s=26, facecolors='none', edgecolors='black')
    axis.scatter(taps[:, 1], taps[:, 0], s=14, color='black')


def draw_cells(axis, values, limit):
    axis.imshow(values, cmap='RdBu_r', vmin=-limit, vmax=limit)
    for y, x in np.ndindex(*values.shape):
        axis.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, edgecolor='white'))
    axis.set(xticks=[], yticks=[], xlim=(-0.9, SCOPE - 0.1), ylim=(SCOPE - 0.1, -0.9))
    if len(values) == KERNEL:
        axis.set(xlim=(-1.4, KERNEL + 0.4), ylim=(KERNEL + 0.4, -1.4))
    axis.spines[:].set_visible(False)


if __name__ == '__main__':
    main()
