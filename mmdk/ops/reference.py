"""The definition of the operators in plain PyTorch.

Written to be read beside the equation, not to be fast: every other implementation is tested against
it in float64. Signatures and meaning are those of :mod:`mmdk.ops`.
"""

import torch
from torch import Tensor
from torch.nn.modules.utils import _pair

__all__ = ['deform_kernel2d', 'sample_kernel']


def deform_kernel2d(
    input: Tensor,
    weight: Tensor,
    kernel_offset: Tensor | None = None,
    image_offset: Tensor | None = None,
    mask: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    kernel_size: int | tuple[int, int],
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
) -> Tensor:
    """See :func:`mmdk.ops.deform_kernel2d`; arguments are taken to be valid."""
    kernel, stride, padding, dilation = map(_pair, (kernel_size, stride, padding, dilation))
    batch, channels, *size = input.shape
    out_size = [
        (size[a] + 2 * padding[a] - dilation[a] * (kernel[a] - 1) - 1) // stride[a] + 1
        for a in (0, 1)
    ]
    out_channels, group_channels, *scope = weight.shape
    groups = channels // group_channels
    # One row per pair of output and input channels: (groups, outputs per group, C_in/groups, S, S).
    scopes = weight.unflatten(0, (groups, out_channels // groups))
    kernel_offset = _per_channel(kernel_offset, 2, kernel, channels)
    image_offset = _per_channel(image_offset, 2, kernel, channels)
    mask = _per_channel(mask, 1, kernel, channels)

    output = input.new_zeros(batch, groups, out_channels // groups, *out_size)
    for tap in range(kernel[0] * kernel[1]):
        k = divmod(tap, kernel[1])
        image_y, image_x = (
            _along(axis, torch.arange(out_size[axis], device=input.device, dtype=input.dtype))
            * stride[axis]
            - padding[axis]
            + k[axis] * dilation[axis]
            + _component(image_offset, tap, axis)
            for axis in (0, 1)
        )
        x_k = _look_up(input, image_y, image_x) * _component(mask, tap, 0, absent=1)
        scope_y, scope_x = (
            _as_positions(
                k[axis] + (scope[axis] - kernel[axis]) / 2 + _component(kernel_offset, tap, axis),
                input,
            ).unflatten(1, (-1, group_channels))[:, :, None]
            for axis in (0, 1)
        )
        w_k = _look_up(scopes, scope_y, scope_x)
        output = output + torch.einsum(
            'ngchw,ngochw->ngohw',
            x_k.unflatten(1, (groups, group_channels)).expand(-1, -1, -1, *out_size),
            w_k.expand(batch, groups, *w_k.shape[2:4], *out_size),
        )
    output = output.flatten(1, 2)
    return output if bias is None else output + bias[:, None, None]


def sample_kernel(
    weight: Tensor, kernel_offset: Tensor, kernel_size: int | tuple[int, int]
) -> Tensor:
    """See :func:`mmdk.ops.sample_kernel`; arguments are taken to be valid."""
    kernel = _pair(kernel_size)
    rest_y, rest_x = (
        _along(axis, torch.arange(kernel[axis], device=weight.device, dtype=weight.dtype))
        + (weight.shape[2 + axis] - kernel[axis]) / 2
        for axis in (0, 1)
    )
    # (N, K_h, K_w, 2), then a row of length 1 for each of C_out and C_in/groups.
    offset = kernel_offset.unflatten(1, (*kernel, 2))[:, None, None]
    return _look_up(weight, rest_y + offset[..., 0], rest_x + offset[..., 1])


def _look_up(values: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Bilinear look-up of `values` (..., H, W) at coordinates (..., P, Q) -> (..., P, Q)."""
    height, width = values.shape[-2:]
    inside = (y > -1) & (y < height) & (x > -1) & (x < width)
    y, x = torch.where(inside, y, 0), torch.where(inside, x, 0)
    y_low, x_low = y.detach().floor(), x.detach().floor()
    y_fraction, x_fraction = y - y_low, x - x_low
    result = 0
    for y_cell, y_weight in ((y_low, 1 - y_fraction), (y_low + 1, y_fraction)):
        for x_cell, x_weight in ((x_low, 1 - x_fraction), (x_low + 1, x_fraction)):
            result = result + _cell(values, y_cell, x_cell, inside) * y_weight * x_weight
    return result


def _cell(values: Tensor, y: Tensor, x: Tensor, inside: Tensor) -> Tensor:
    """`values` (..., H, W) at whole coordinates; zero where a cell or its look-up is outside."""
    height, width = values.shape[-2:]
    exists = inside & (y >= 0) & (y < height) & (x >= 0) & (x < width)
    index = y.clamp(0, height - 1).long() * width + x.clamp(0, width - 1).long()
    leading = torch.broadcast_shapes(values.shape[:-2], index.shape[:-2])
    index = index.expand(*leading, *index.shape[-2:])
    cells = values.expand(*leading, height, width).flatten(-2)
    return torch.where(exists, cells.gather(-1, index.flatten(-2)).view_as(index), 0)


def _per_channel(
    argument: Tensor | None, components: int, kernel: tuple[int, int], channels: int
) -> Tensor | None:
    """(N, G*taps*components, H, W) -> (N, C_in, taps, components, H, W)."""
    if argument is None:
        return None
    grouped = argument.unflatten(1, (-1, kernel[0] * kernel[1], components))
    return grouped.repeat_interleave(channels // grouped.shape[1], dim=1)


def _component(argument: Tensor | None, tap: int, index: int, absent: int = 0) -> Tensor | int:
    """One component of one tap, (N, C_in, H, W)."""
    return absent if argument is None else argument[:, :, tap, index]


def _along(axis: int, values: Tensor) -> Tensor:
    """A column for axis 0 (y), a row for axis 1 (x)."""
    return values[:, None] if axis == 0 else values[None, :]


def _as_positions(coordinate: Tensor | float, input: Tensor) -> Tensor:
    """A coordinate of every position: (N, C_in, H, W), or 1s where it is the same everywhere."""
    if isinstance(coordinate, Tensor):
        return coordinate
    return input.new_full((1, input.shape[1], 1, 1), coordinate)
