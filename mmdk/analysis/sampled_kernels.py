"""The kernels that layers sample from their scopes at points of an image."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from torch import nn

from mmdk.analysis.figures import colour_of_point
from mmdk.analysis.kernel_offsets import LayerOffsets, sees_a_cell
from mmdk.analysis.units import nearest_unit
from mmdk.layers.kernel_offset_conv2d import KernelOffsetConv2d
from mmdk.ops import sample_kernel

__all__ = ['LayerKernels', 'plot_sampled_kernels', 'sampled_kernels']

PANEL = 1.35  # inches
NUMBERED = 4  # kernels of up to so many taps a side have their numbers written into them


@dataclasses.dataclass(frozen=True)
class LayerKernels:
    """What a layer makes of its scope at some points, for one image.

    Attributes:
        name: The layer's name in the model.
        scope: (C_out, C_in/groups, S_h, S_w), the layer's weight.
        rigid: (C_out, C_in/groups, K_h, K_w), the kernel without offsets.
        kernels: (P, C_out, C_in/groups, K_h, K_w), the kernel sampled at each point. A mask, as
            type 'DKDCN' may have, is no part of it.
        rigid_taps: (K_h, K_w, 2), where taps look the scope up without offsets, (y, x) cells.
        taps: (P, G, K_h, K_w, 2), where they do at each point, by offset group.
        offset_groups: (C_out, C_in/groups), the offset group that each kernel's input channel has.
    """

    name: str
    scope: np.ndarray
    rigid: np.ndarray
    kernels: np.ndarray
    rigid_taps: np.ndarray
    taps: np.ndarray
    offset_groups: np.ndarray


def sampled_kernels(
    model: nn.Module,
    records: Sequence[LayerOffsets],
    points: Sequence[tuple[float, float]],
    image_size: tuple[int, int],
) -> list[LayerKernels]:
    """The kernels that layers sample at points of an image.

    Args:
        model: The one whose offsets were recorded.
        records: One each layer, of :func:`record_kernel_offsets`.
        points: (y, x), pixels of the network's input.
        image_size: Height and width of that input, with its padding.

    Raises:
        ValueError: There is no point, or one outside the input.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from mmdk.analysis import record_kernel_offsets
        >>> from mmdk.layers import DeformKernel2d
        >>> model = nn.Sequential(DeformKernel2d(3, 8, 3, padding=1))
        >>> with record_kernel_offsets(model) as records:
        ...     _ = model(torch.randn(1, 3, 16, 16))
        >>> (kernels,) = sampled_kernels(model, records, [(8, 8), (2, 13)], (16, 16))
        >>> kernels.kernels.shape
        (2, 8, 3, 3, 3)
    """
    _check_points(points, image_size)
    return [
        _kernels_of_layer(model.get_submodule(record.name), record, points, image_size)
        for record in records
    ]


def _check_points(points: Sequence[tuple[float, float]], image_size: tuple[int, int]) -> None:
    if not points:
        raise ValueError('points is empty; give at least one (y, x).')
    height, width = image_size
    for y, x in points:
        if not (0 <= y < height and 0 <= x < width):
            raise ValueError(
                f'the point y={y:g}, x={x:g} is outside the image of {height} x {width} pixels '
                '(height x width).'
            )


def _kernels_of_layer(
    layer: KernelOffsetConv2d,
    record: LayerOffsets,
    points: Sequence[tuple[float, float]],
    image_size: tuple[int, int],
) -> LayerKernels:
    taps = np.stack(
        [
            record.taps_at(*nearest_unit(point, image_size, record.offsets.shape[-2:]))
            for point in points
        ]
    )
    groups = _offset_groups(layer)
    scope = layer.weight.detach().float().cpu()
    kernels = [_sample(scope, each - record.rigid_taps, groups) for each in taps]
    rigid = _sample(scope, np.zeros_like(taps[0]), groups)
    return LayerKernels(
        record.name, scope.numpy(), rigid, np.stack(kernels), record.rigid_taps, taps, groups
    )


def _offset_groups(layer: KernelOffsetConv2d) -> np.ndarray:
    """(C_out, C_in/groups): the offset group of the input channel that each kernel is for."""
    inputs = layer.in_channels // layer.groups
    first = np.arange(layer.out_channels) // (layer.out_channels // layer.groups) * inputs
    channels = first[:, None] + np.arange(inputs)
    return channels // (layer.in_channels // layer.offset_groups)


def _sample(scope: torch.Tensor, offsets: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """(C_out, C_in/groups, K_h, K_w), with offsets (G, K_h, K_w, 2)."""
    offset = torch.from_numpy(offsets).to(scope).flatten(1)
    kernels = sample_kernel(scope, offset, tuple(offsets.shape[1:3])).numpy()  # one a group
    return kernels[groups, np.arange(len(scope))[:, None], np.arange(scope.shape[1])]


def plot_sampled_kernels(
    image: np.ndarray,
    layers: Sequence[LayerKernels],
    points: Sequence[tuple[float, float]],
    channel: tuple[int, int] | None = None,
) -> Figure:
    """Draws, for each layer, the rigid kernel and, for each point, the taps and what they sample.

    Args:
        image: (H, W, 3) uint8 RGB, what the network saw.
        layers: What :func:`sampled_kernels` gives for these points.
        points: (y, x), pixels of the image.
        channel: (output channel, input channel of its group) to draw. None: the mean magnitude over
            all of them.

    Raises:
        ValueError: There is no layer, or one has no such channel.
    """
    _check_channel(layers, channel)
    columns = 1 + 2 * len(points)
    head = 1.6 * PANEL + 0.6
    rows = len(layers) * (PANEL + 0.22)
    figure = Figure(figsize=(max(columns * PANEL, 5), head + rows), layout='constrained')
    top, bottom = figure.subfigures(2, 1, height_ratios=(head, rows))
    top.suptitle(_caption(channel), fontsize=8)
    _draw_image(top, image, points)
    axes = bottom.subplots(len(layers), columns, squeeze=False)
    for row, layer in zip(axes, layers, strict=True):
        _draw_layer(row, layer, channel)
    for index, (y, x) in enumerate(points):
        axes[0, 1 + 2 * index].set_title(
            f'taps at y={y:.0f}, x={x:.0f}', fontsize=7, color=colour_of_point(index)
        )
        axes[0, 2 + 2 * index].set_title('kernel there', fontsize=7, color=colour_of_point(index))
    return figure


def _check_channel(layers: Sequence[LayerKernels], channel: tuple[int, int] | None) -> None:
    if not layers:
        raise ValueError('layers is empty; give at least one.')
    for layer in layers if channel is not None else ():
        size = layer.scope.shape[:2]
        if not all(0 <= index < of for index, of in zip(channel, size, strict=True)):
            raise ValueError(
                f'channel={channel} is not in {layer.name!r}, which has {size[0]} output channels '
                f'and {size[1]} input channels in each group.'
            )


def _caption(channel: tuple[int, int] | None) -> str:
    shown = (
        'mean magnitude of the weights over all channels'
        if channel is None
        else f'weights of output channel {channel[0]}, input channel {channel[1]} of its group'
    )
    return (
        'Left: the kernel without offsets. Then, for each marked point: the scope with the taps,\n'
        f'rigid white and learned coloured, and the kernel they sample.\nColours: {shown}.'
    )


def _draw_image(
    figure: SubFigure, image: np.ndarray, points: Sequence[tuple[float, float]]
) -> None:
    axis = figure.subplots()
    height, width = image.shape[:2]
    axis.imshow(image, extent=(0, width, height, 0))
    axis.set_axis_off()
    for index, (y, x) in enumerate(points):
        axis.plot(
            x, y, marker='s', color=colour_of_point(index), markeredgecolor='white', markersize=6
        )


def _draw_layer(row: Sequence[Axes], layer: LayerKernels, channel: tuple[int, int] | None) -> None:
    scope, rigid, *kernels = (
        np.abs(weights).mean((0, 1)) if channel is None else weights[channel]
        for weights in (layer.scope, layer.rigid, *layer.kernels)
    )
    most = max(np.abs(weights).max() for weights in (scope, rigid, *kernels))
    colours = (
        dict(cmap='viridis', vmin=0, vmax=most)
        if channel is None
        else dict(cmap='RdBu_r', vmin=-most, vmax=most)
    )
    group = 0 if channel is None else layer.offset_groups[channel]
    for axis in row:
        axis.set(xticks=[], yticks=[])
    _draw_kernel(row[0], rigid, colours)
    row[0].set_title(layer.name, fontsize=7, loc='left')
    for index, kernel in enumerate(kernels):
        scope_axis, kernel_axis = row[1 + 2 * index : 3 + 2 * index]
        scope_axis.imshow(scope, **colours)
        _draw_taps(scope_axis, layer, layer.taps[index, group], colour_of_point(index))
        _draw_kernel(kernel_axis, kernel, colours)


def _draw_kernel(axis: Axes, kernel: np.ndarray, colours: dict) -> None:
    drawn = axis.imshow(kernel, **colours)
    if max(kernel.shape) > NUMBERED:
        return
    for (y, x), value in np.ndenumerate(kernel):
        red, green, blue, _ = drawn.to_rgba(value)
        is_dark = 0.3 * red + 0.6 * green + 0.1 * blue < 0.5
        axis.text(
            x,
            y,
            f'{value:.2g}',
            fontsize=5.5,
            color='white' if is_dark else 'black',
            ha='center',
            va='center',
        )


def _draw_taps(
    axis: Axes, layer: LayerKernels, taps: np.ndarray, colour: tuple[float, ...]
) -> None:
    rigid, learned = layer.rigid_taps.reshape(-1, 2), taps.reshape(-1, 2)
    for (y0, x0), (y1, x1) in zip(rigid, learned, strict=True):
        axis.plot([x0, x1], [y0, y1], color=colour, linewidth=1)
    axis.scatter(rigid[:, 1], rigid[:, 0], s=14, color='white', edgecolors='black', linewidth=0.5)
    axis.scatter(
        learned[:, 1], learned[:, 0], s=14, color=colour, edgecolors='white', linewidth=0.5
    )
    # A look-up counts inside (-1, size): that is how far the axes reach.
    height, width = layer.scope.shape[2:]
    seeing = sees_a_cell(learned, (height, width))
    axis.set_xlabel(f'{np.sum(~seeing)} of {len(seeing)} taps see no cell', fontsize=6, labelpad=2)
    axis.set(xlim=(-1, width), ylim=(height, -1))
