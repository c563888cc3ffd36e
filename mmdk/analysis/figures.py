"""Figures as arrays, and into MMEngine's visualizer, from where TensorBoard has them."""

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from mmengine.visualization import Visualizer

__all__ = ['add_figure', 'colour_of_point', 'render']

DPI = 120


def colour_of_point(index: int) -> tuple[float, ...]:
    """RGBA, the same wherever a picture shows the point with this index."""
    return matplotlib.colormaps['Set1'](index)


def render(figure: Figure, dpi: int = DPI) -> np.ndarray:
    """A figure's pixels, (H, W, 3) uint8 RGB.

    Args:
        figure: Made without pyplot, as this package does.
        dpi: Pixels an inch.

    Example:
        >>> from matplotlib.figure import Figure
        >>> render(Figure(figsize=(2, 1)), dpi=100).shape
        (100, 200, 3)
    """
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def add_figure(visualizer: Visualizer, name: str, figure: Figure, step: int = 0) -> None:
    """Adds a figure to all of a visualizer's backends.

    Args:
        visualizer: MMEngine's; a runner's is `runner.visualizer`.
        name: Of the picture, without slashes: MMEngine's local backend makes it a file's name.
        figure: What to add.
        step: The epoch or iteration that it belongs to.

    Raises:
        ValueError: The name has a slash; the local backend would write nothing and say nothing.
    """
    if '/' in name:
        raise ValueError(f'name={name!r} has a slash, but is to be part of a file name.')
    visualizer.add_image(name, render(figure), step)
