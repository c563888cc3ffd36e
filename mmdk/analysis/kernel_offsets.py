"""Learned kernel offsets: where on an image the taps move, how far, and where to."""

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import nn

from mmdk.analysis.figures import colour_of_point
from mmdk.analysis.recording import each_call, taps_of
from mmdk.analysis.units import nearest_unit

PANELS_PER_ROW = 8  # at most, but those of one layer
PANEL = 2.0  # inches


@dataclasses.dataclass(frozen=True)
class LayerOffsets:
    """The kernel offsets of one call of one layer, for the first image of the batch.

    Attributes:
        name: The layer's name in the model.
        offsets: (G, kh, kw, 2, H_out, W_out), (y, x) in scope cells; (..., 1, 1) for 'GlobalDK'.
        scope_size: Height and width of the scope, cells.
        batch_size: Images of the call; in an RoI head, regions.
    """

    name: str
    offsets: np.ndarray
    scope_size: tuple[int, int]
    batch_size: int = 1

    @property
    def distance(self) -> np.ndarray:
        """How far the taps move, (H_out, W_out), scope cells, mean over taps and groups."""
        return np.linalg.norm(self.offsets, axis=3).mean(axis=(0, 1, 2))

    @property
    def without_cell(self) -> float:
        """The share of the taps that see no cell."""
        taps = self.rigid_taps[..., None, None] + self.offsets
        return float(1 - sees_a_cell(np.moveaxis(taps, 3, -1), self.scope_size).mean())

    @property
    def rigid_taps(self) -> np.ndarray:
        """Where the taps look the scope up without offsets, (kh, kw, 2), (y, x) cells."""
        kernel_size = np.array(self.offsets.shape[1:3])
        taps = np.stack(np.meshgrid(*map(np.arange, kernel_size), indexing='ij'), axis=-1)
        return taps + (np.array(self.scope_size) - kernel_size) / 2

    def taps_at(self, y: int, x: int) -> np.ndarray:
        """Where the taps look the scope up at output pixel (y, x), (G, kh, kw, 2)."""
        return self.rigid_taps + self.offsets[..., y, x]


def sees_a_cell(taps: np.ndarray, scope_size: tuple[int, int]) -> np.ndarray:
    """Which of the taps (..., 2), (y, x) cells, look up anything: those inside (-1, size)."""
    return ((taps > -1) & (taps < scope_size)).all(axis=-1)


@contextlib.contextmanager
def record_kernel_offsets(model: nn.Module) -> Iterator[list[LayerOffsets]]:
    """Records the kernel offsets of every layer that has some while the model runs.

    Args:
        model: Holds layers of type 'DK', 'GlobalDK' or 'DKDCN'.

    Yields:
        Filled while the model runs, one for each call of a layer (the layers of a dense head are
        called once per pyramid level).
    """
    records = []

    def record(name, layer, x):
        offsets = taps_of(layer, layer.kernel_offset(x)[:1])[0]
        records.append(LayerOffsets(name, offsets, tuple(layer.scope_size), len(x)))

    with each_call(model, 'kernel_offset', record):
        yield records


def over_the_image(records: list[LayerOffsets]) -> list[LayerOffsets]:
    """Of each layer that saw one image the first call, in dense heads that of most resolution.

    Layers of an RoI head, which see regions as a batch, are left out: nothing there lies over a
    point of the image.
    """
    first = {}
    for record in records:
        if record.batch_size == 1:
            first.setdefault(record.name, record)
    return list(first.values())


def plot_kernel_offsets(
    image: np.ndarray, layers: list[LayerOffsets], points: Sequence[tuple[float, float]]
) -> Figure:
    """Draws, for each layer, how far the taps move over the image and where to at some points.

    Args:
        image: (H, W, 3) uint8 RGB, what the network saw.
        layers: One entry a layer.
        points: (y, x) in image pixels; one scope is drawn each. May be empty.

    Returns:
        Per layer the image under the mean distance of the taps, and per point the cells of the
        scope with the rigid (hollow) and the learned (filled) taps of the first offset group.
    """
    panels = 1 + len(points)
    rows = math.ceil(len(layers) / max(PANELS_PER_ROW // panels, 1))
    columns = math.ceil(len(layers) / rows) * panels
    # Scopes are square; maps alone are as high as the image.
    height = PANEL if points else PANEL * image.shape[0] / image.shape[1]
    figure = Figure(figsize=(columns * PANEL, rows * (height + 0.3)), layout='constrained')
    axes = figure.subplots(rows, columns, squeeze=False).reshape(-1, panels)
    for axis in axes.flat:
        axis.set_axis_off()
    # The last row may have more axes than there are layers.
    for (map_axis, *scope_axes), layer in zip(axes, layers, strict=False):
        _draw_distance(map_axis, image, layer, points)
        for index, (axis, point) in enumerate(zip(scope_axes, points, strict=True)):
            unit = nearest_unit(point, image.shape[:2], layer.offsets.shape[-2:])
            _draw_scope(axis, layer, unit, colour_of_point(index))
    maps = 'Maps: how far the taps move, mean over taps, from 0 (dark) to the maximum named above.'
    scopes = '\nSquares: the scope at the marked points; rigid taps hollow, learned filled.'
    figure.suptitle(maps + scopes if points else maps, fontsize=9)
    return figure


def _draw_distance(
    axis: Axes,
    image: np.ndarray,
    layer: LayerOffsets,
    points: Sequence[tuple[float, float]],
) -> None:
    height, width = image.shape[:2]
    extent = (0, width, height, 0)
    # Grey and dark, so that the map alone has colours and tells large from small.
    axis.imshow(image.mean(2), extent=extent, cmap='gray', vmin=0, vmax=2 * 255)
    axis.imshow(
        _by_pixel(layer.distance, (height, width)),
        extent=extent,
        alpha=0.7,
        cmap='inferno',
        vmin=0,
        vmax=layer.distance.max(),
        interpolation='nearest',
    )
    for index, (y, x) in enumerate(points):
        axis.plot(
            x, y, marker='s', color=colour_of_point(index), markeredgecolor='white', markersize=7
        )
    axis.set_title(
        f'{layer.name}\nmean {layer.distance.mean():.2f}, max {layer.distance.max():.2f} cells',
        fontsize=7,
    )


def _by_pixel(values: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
    """A map of units as one of pixels: each has the value of the unit nearest to it."""
    height, width = image_size
    rows = [nearest_unit((y + 0.5, 0), image_size, values.shape)[0] for y in range(height)]
    columns = [nearest_unit((0, x + 0.5), image_size, values.shape)[1] for x in range(width)]
    return values[np.ix_(rows, columns)]


def _draw_scope(
    axis: Axes, layer: LayerOffsets, unit: tuple[int, int], colour: tuple[float, ...]
) -> None:
    height, width = layer.scope_size
    for y in range(height):
        for x in range(width):
            axis.add_patch(
                Rectangle(
                    (x - 0.5, y - 0.5), 1, 1, facecolor='0.95', edgecolor='0.75', linewidth=0.8
                )
            )
    rigid = layer.rigid_taps.reshape(-1, 2)
    learned = layer.taps_at(*unit)[0].reshape(-1, 2)
    for (y0, x0), (y1, x1) in zip(rigid, learned, strict=True):
        axis.plot([x0, x1], [y0, y1], color=colour, linewidth=1)
    axis.scatter(rigid[:, 1], rigid[:, 0], s=22, facecolors='none', edgecolors='0.3')
    axis.scatter(learned[:, 1], learned[:, 0], s=14, color=colour)
    # A look-up counts inside (-1, size): that is how far the axes reach.
    axis.set(xlim=(-1, width), ylim=(height, -1), aspect='equal')
