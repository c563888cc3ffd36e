"""Offsets over training, from what OffsetHook logged."""

import collections
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmdk.analysis.scalars import read_records

__all__ = ['plot_offset_curves', 'read_offset_curves']

# Kind of offset and scalar, as OffsetHook names them: what the picture calls them.
LABELS = {
    ('kernel_offset', 'mean_abs'): 'mean length of\nkernel offsets, scope cells',
    ('kernel_offset', 'outside'): 'share of taps outside\nthe scope',
    ('kernel_offset', 'clipped'): 'share of taps held back\nby offset_clip',
    ('image_offset', 'mean_abs'): 'mean length of\nimage offsets, pixels of the input',
    ('image_offset', 'outside'): "share of taps outside\nthe layer's input",
}
PANEL = (6.0, 2.0)  # inches
LEGEND = 2.6
LINE = 0.13  # a legend entry's height
MARKED = 3  # curves of up to so many points are drawn with marks

Curves = dict[tuple[str, str], dict[str, dict[int, float]]]


def read_offset_curves(work_dir: str | Path) -> Curves:
    """Reads what OffsetHook recorded in a work directory.

    Args:
        work_dir: The directory given to train.py.

    Returns:
        By kind of offset and scalar, such as ('kernel_offset', 'mean_abs'), then by layer or stage,
        in the model's order: the value by iteration.

    Raises:
        FileNotFoundError: There are no records.
        ValueError: There are, but none of OffsetHook's; or a file is broken.
    """
    curves = collections.defaultdict(lambda: collections.defaultdict(dict))
    for record in read_records(work_dir):
        for key, value in record.items():
            kind, _, rest = key.partition('/')
            name, _, scalar = rest.rpartition('/')
            if (kind, scalar) in LABELS:
                curves[kind, scalar][name][record['step']] = value
    if not curves:
        raise ValueError(
            f"{work_dir} has no offsets in its records: train with custom_hooks=[dict(type='"
            "OffsetHook')]."
        )
    return {
        key: {name: dict(sorted(values.items())) for name, values in curves[key].items()}
        for key in LABELS
        if key in curves
    }


def plot_offset_curves(curves: Curves) -> Figure:
    """Draws a panel for each scalar and in it a line for each layer, from blue, the first, to red.

    Args:
        curves: Of :func:`read_offset_curves`. Scalars that are zero throughout are left out.
    """
    drawn = {
        key: layers
        for key, layers in curves.items()
        if key[1] == 'mean_abs' or any(any(values.values()) for values in layers.values())
    }
    names = list(dict.fromkeys(name for layers in drawn.values() for name in layers))
    shades = matplotlib.colormaps['turbo'](np.linspace(0.05, 0.95, len(names)))
    colours = dict(zip(names, shades, strict=True))
    height = max(len(drawn) * PANEL[1], len(names) * LINE) + 0.4
    figure = Figure(figsize=(PANEL[0] + LEGEND, height), layout='constrained')
    axes = figure.subplots(len(drawn), 1, squeeze=False, sharex=True)[:, 0]
    for axis, (key, layers) in zip(axes, drawn.items(), strict=True):
        for name, values in layers.items():
            _draw(axis, values, name, colours[name])
        axis.set_ylabel(LABELS[key], fontsize=7)
        axis.tick_params(labelsize=7)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    axes[-1].set_xlabel('iteration', fontsize=8)
    lines = {line.get_label(): line for axis in axes for line in axis.lines}
    figure.legend(
        [lines[name] for name in names],
        names,
        loc='outside right upper',
        fontsize=6.5,
        frameon=False,
    )
    return figure


def _draw(axis: Axes, values: dict[int, float], name: str, colour: tuple[float, ...]) -> None:
    axis.plot(
        list(values),
        list(values.values()),
        color=colour,
        label=name,
        linewidth=1.2,
        marker='o' if len(values) <= MARKED else None,
        markersize=3,
    )
