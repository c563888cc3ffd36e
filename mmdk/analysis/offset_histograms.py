"""Histograms of offsets, layer by layer, over any number of images."""

import collections
import contextlib
import dataclasses
import math
from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import nn

from mmdk.analysis.recording import each_call, taps_of

__all__ = ['UNITS', 'OffsetHistogram', 'plot_offset_histograms', 'record_offset_histograms']

UNITS = {'kernel_offset': 'scope cells', 'image_offset': 'pixels of the input'}
BIN_WIDTHS = {'kernel_offset': 1 / 32, 'image_offset': 1 / 16}

LAYERS_PER_ROW = 4
PANEL = (2.6, 1.7)  # inches
DRAWN = 0.999  # share of the offsets between the ends of the axis
LEAST_BINS, MOST_BINS = 4, 32  # on each side of zero


@dataclasses.dataclass
class OffsetHistogram:
    """How often the taps of a layer move how far, down and to the right.

    The bins are of equal width, centred on its multiples, and as many as it takes.

    Attributes:
        name: The layer's name in the model.
        kind: 'kernel_offset', in scope cells, or 'image_offset', in pixels of the layer's input.
        counts: For y, then x: by the number of the bin, how many offsets are in it.
    """

    name: str
    kind: str
    counts: tuple[collections.Counter, collections.Counter] = dataclasses.field(
        default_factory=lambda: (collections.Counter(), collections.Counter())
    )

    @property
    def width(self) -> float:
        """Of a bin."""
        return BIN_WIDTHS[self.kind]

    def add(self, offsets: np.ndarray) -> None:
        """Counts further offsets.

        Args:
            offsets: (N, G, K_h, K_w, 2, H, W), y before x.

        Raises:
            ValueError: Some are NaN or infinite.
        """
        if not np.isfinite(offsets).all():
            raise ValueError(
                f'Offsets of {self.name!r} are NaN or infinite; take an earlier checkpoint.'
            )
        bins = np.rint(offsets / self.width).astype(np.int64)
        for counts, along in zip(self.counts, np.moveaxis(bins, 4, 0), strict=True):
            numbers, times = np.unique(along, return_counts=True)
            counts.update(dict(zip(numbers.tolist(), times.tolist(), strict=True)))

    def quantiles(self, shares: Sequence[float]) -> np.ndarray:
        """(2, shares): the offsets, y then x, below which these shares are, to half a bin."""
        return np.array([self._quantiles(counts, shares) for counts in self.counts])

    def _quantiles(self, counts: collections.Counter, shares: Sequence[float]) -> np.ndarray:
        numbers = np.array(sorted(counts))
        below = np.cumsum([counts[number] for number in numbers])
        return numbers[np.searchsorted(below, np.asarray(shares) * below[-1])] * self.width

    def shares(self, axis: int, edges: np.ndarray) -> np.ndarray:
        """The share of the offsets along an axis, 0 for y and 1 for x, between these edges.

        Args:
            axis: 0 or 1.
            edges: (bins + 1,), rising, in the middle between two multiples of the width.
        """
        counts = self.counts[axis]
        numbers = np.array(list(counts)) * self.width
        return np.histogram(numbers, edges, weights=list(counts.values()))[0] / counts.total()


@contextlib.contextmanager
def record_offset_histograms(model: nn.Module) -> Iterator[list[OffsetHistogram]]:
    """Counts the offsets of every layer that has some while the model runs.

    Args:
        model: Holds layers of type 'DK', 'GlobalDK', 'DKDCN' or 'FastDCN'.

    Yields:
        When the block ends, one for each kind of offset, kernel offsets first, and layer that was
        called.

    Raises:
        ValueError: The model has no such layer.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from mmdk.layers import DeformKernel2d
        >>> model = nn.Sequential(DeformKernel2d(3, 4, 3, padding=1))
        >>> with record_offset_histograms(model) as histograms:
        ...     _ = model(torch.randn(2, 3, 8, 8))
        >>> [(histogram.name, histogram.counts[0].total()) for histogram in histograms]
        [('0', 1152)]
    """
    found = {
        (kind, name): OffsetHistogram(name, kind)
        for kind in UNITS
        for name, layer in model.named_modules()
        if hasattr(layer, kind)
    }
    if not found:
        raise ValueError(
            'the model has no layer with offsets, that is, of type DK, GlobalDK, DKDCN or FastDCN.'
        )

    def recorder(kind):
        def record(name, layer, x):
            found[kind, name].add(taps_of(layer, getattr(layer, kind)(x)))

        return record

    histograms = []
    with contextlib.ExitStack() as stack:
        for kind in UNITS:
            stack.enter_context(each_call(model, kind, recorder(kind)))
        yield histograms
    histograms += [histogram for histogram in found.values() if histogram.counts[0]]


def plot_offset_histograms(histograms: Sequence[OffsetHistogram]) -> Figure:
    """Draws the share of the offsets in each bin, y and x apart, on a logarithmic axis.

    Args:
        histograms: Of :func:`record_offset_histograms`.

    Raises:
        ValueError: There is none.
    """
    if not histograms:
        raise ValueError('histograms is empty: did the model run?')
    columns = min(LAYERS_PER_ROW, len(histograms))
    rows = math.ceil(len(histograms) / columns)
    figure = Figure(
        figsize=(max(columns * PANEL[0], 4), rows * PANEL[1] + 0.6), layout='constrained'
    )
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis, histogram in zip(axes.flat, histograms, strict=False):
        _draw(axis, histogram)
    for axis in axes.flat[len(histograms) :]:
        axis.set_axis_off()
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc='outside upper right', fontsize=7)
    figure.suptitle('Share of the offsets in each bin, logarithmic', fontsize=9, x=0.02, ha='left')
    return figure


def _draw(axis: Axes, histogram: OffsetHistogram) -> None:
    edges = _edges(histogram)
    for along, (label, colour) in enumerate((('y, down', 'tab:blue'), ('x, right', 'tab:orange'))):
        axis.stairs(histogram.shares(along, edges), edges, color=colour, label=label)
    axis.set_yscale('log')
    axis.axvline(0, color='0.7', linewidth=0.6, zorder=0)
    (top, bottom), (left, right) = histogram.quantiles([0.05, 0.95])
    axis.set_title(
        f'{histogram.name}\n90 %: y {top:.2f} to {bottom:.2f}, x {left:.2f} to {right:.2f}',
        fontsize=6.5,
    )
    axis.set_xlabel(
        f'{histogram.kind.replace("_", " ")}, {UNITS[histogram.kind]}', fontsize=6.5, labelpad=1
    )
    axis.tick_params(labelsize=6)


def _edges(histogram: OffsetHistogram) -> np.ndarray:
    """Of the bins to draw: around zero, and each an odd number of the histogram's own."""
    ends = histogram.quantiles([(1 - DRAWN) / 2, (1 + DRAWN) / 2])
    reach = max(round(np.abs(ends).max() / histogram.width), LEAST_BINS)
    merged = 2 * (reach // (2 * MOST_BINS)) + 1
    bins = math.ceil(reach / merged) + 1
    return (np.arange(-bins, bins + 2) - 0.5) * merged * histogram.width
