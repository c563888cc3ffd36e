"""Effective receptive fields against the scale of the objects they look at."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import spearmanr

__all__ = ['ObjectField', 'plot_receptive_field_scale', 'rank_correlation']

PANEL = 2.6  # inches
BINS = 6
LEAST_IN_BIN = 5
SHARES = {'area_50': '50 %', 'area_90': '90 %'}


@dataclasses.dataclass(frozen=True)
class ObjectField:
    """The effective receptive field of the unit over the middle of an object.

    Attributes:
        scale: Square root of the area of the object's box, pixels of the network's input.
        area_50: The least number of these pixels that hold half of the energy.
        area_90: The same for 90 % of it.
    """

    scale: float
    area_50: int
    area_90: int


def rank_correlation(fields: Sequence[ObjectField], area: str) -> tuple[float, float]:
    """Spearman's rank correlation of an area and the objects' scale.

    Args:
        fields: At least three.
        area: 'area_50' or 'area_90'.

    Returns:
        The coefficient, and the p-value of its being 0 were objects independent, which those of one
        image are not quite. NaN where all values are equal.

    Raises:
        ValueError: There are fewer than three.
    """
    if len(fields) < 3:
        raise ValueError(f'a rank correlation needs at least 3 objects, got {len(fields)}.')
    result = spearmanr(
        [field.scale for field in fields], [getattr(field, area) for field in fields]
    )
    return float(result.statistic), float(result.pvalue)


def plot_receptive_field_scale(fields: dict[str, Sequence[ObjectField]]) -> Figure:
    """Draws the size of the effective receptive fields against the objects', detector by detector.

    Args:
        fields: By what a detector is called in the picture; at least three objects each.

    Returns:
        A dot for each object, a line through medians of bins that hold equally many of them, and
        above it Spearman's rank correlation.
    """
    figure = Figure(
        figsize=(max(len(fields) * PANEL + 0.4, 5.2), 2 * PANEL + 0.6), layout='constrained'
    )
    axes = figure.subplots(len(SHARES), len(fields), squeeze=False, sharex=True, sharey='row')
    for column, (name, each) in zip(axes.T, fields.items(), strict=True):
        for axis, area in zip(column, SHARES, strict=True):
            _draw(axis, each, area)
        column[0].set_title(f'{name}\n{column[0].get_title()}', fontsize=7)
        column[-1].set_xlabel('object: √(area of the box), px', fontsize=7)
    for row, share in zip(axes, SHARES.values(), strict=True):
        row[0].set_ylabel(f'field: √(area with {share} of the energy), px', fontsize=7)
    figure.suptitle(
        'Dots: units over the middle of objects. Line: medians of bins with equally many.',
        fontsize=8,
    )
    return figure


def _draw(axis: Axes, fields: Sequence[ObjectField], area: str) -> None:
    scales = np.array([field.scale for field in fields])
    sides = np.sqrt([getattr(field, area) for field in fields])
    coefficient, probability = rank_correlation(fields, area)
    axis.scatter(scales, sides, s=7, alpha=0.4, edgecolors='none')
    axis.plot(*binned_medians(scales, sides), color='tab:red', marker='o', markersize=4)
    axis.set_title(
        f'rank correlation {coefficient:.2f} (p = {probability:.1g}, {len(fields)} objects)',
        fontsize=7,
    )
    axis.grid(alpha=0.3)
    axis.tick_params(labelsize=7)


def binned_medians(scales: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Medians of both in up to six bins of equally many, at least five, by scale."""
    bins = max(1, min(BINS, len(scales) // LEAST_IN_BIN))
    parts = np.array_split(np.argsort(scales, kind='stable'), bins)
    return tuple(np.array([np.median(each[part]) for part in parts]) for each in (scales, values))
