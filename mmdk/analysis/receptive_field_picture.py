"""Effective receptive fields side by side."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse

from mmdk.analysis.receptive_field import ReceptiveField

__all__ = ['plot_receptive_fields']

PANEL = 2.6  # inches


def plot_receptive_fields(
    fields: dict[str, ReceptiveField | Sequence[ReceptiveField]], image: np.ndarray | None = None
) -> Figure:
    """Draws effective receptive fields side by side.

    Args:
        fields: By what they are called in the picture; or lists of fields, of as many units each,
            which are drawn one above the other.
        image: (H, W, 3) uint8 RGB to draw them on, if any.

    Returns:
        For each the square root of the energy, which shows its tail, a cross at the unit, and the
        ellipse of two standard deviations; above it the area that holds half and 90 % of it.

    Raises:
        ValueError: There is no field, or the lists differ in length.
    """
    if not fields:
        raise ValueError('fields is empty; give at least one.')
    columns = {
        name: [each] if isinstance(each, ReceptiveField) else list(each)
        for name, each in fields.items()
    }
    counts = {name: len(column) for name, column in columns.items()}
    if len(set(counts.values())) != 1 or 0 in counts.values():
        raise ValueError(f'fields must hold as many units under each name, got {counts}.')
    rows = next(iter(counts.values()))
    height, width = next(iter(columns.values()))[0].energy.shape
    figure = Figure(
        figsize=(max(len(columns), 2) * PANEL, rows * (PANEL * height / width + 0.48) + 0.4),
        layout='compressed',
    )
    axes = figure.subplots(rows, len(columns), squeeze=False)
    for axes_of_name, (name, column) in zip(axes.T, columns.items(), strict=True):
        for axis, field in zip(axes_of_name, column, strict=True):
            _draw(axis, name, field, image)
    figure.supxlabel(
        'Colour: square root of the energy. Cross: the unit. Ellipse: two standard deviations.\n'
        'Above: how many pixels hold 50 % and 90 % of it; the longest axis, counter-clockwise.',
        fontsize=7,
    )
    return figure


def _draw(axis: Axes, name: str, field: ReceptiveField, image: np.ndarray | None) -> None:
    visible = np.sqrt(field.energy / field.energy.max())
    if image is not None:
        axis.imshow(image)
    # Opaque where there is energy, so that the image shows where there is none.
    opacity = None if image is None else np.minimum(3 * visible, 1)
    axis.imshow(visible, cmap='plasma', vmin=0, vmax=1, alpha=opacity)
    y, x = field.unit
    axis.plot(x, y, marker='+', color='cyan', markersize=8)
    most, least = field.axes
    centre_y, centre_x = field.centre
    # Matplotlib turns clockwise where the y axis points down.
    ellipse = Ellipse(
        (centre_x, centre_y), 4 * most, 4 * least, angle=-field.orientation, fill=False, color='w'
    )
    axis.add_patch(ellipse)
    height, width = visible.shape
    axis.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    axis.set_axis_off()
    axis.set_title(
        f'{name}\n50 %: {field.area(0.5)} px, 90 %: {field.area(0.9)} px\n'
        f'{field.orientation:.0f}°, eccentricity {field.eccentricity:.2f}',
        fontsize=8,
    )
