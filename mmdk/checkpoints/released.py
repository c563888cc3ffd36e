"""Entries of the released code's modules, renamed and rewritten for the layers here.

The released code is https://github.com/hangg7/deformable-kernels, commit 886c353; `mmdk.modules`
has its modules, whose state dicts have the same entries.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mmdk.layers.conv_base import ConvBase

__all__ = ['convert_released']


class Form(NamedTuple):
    """How a module of the released code is known by what is in a state dict."""

    module: str
    kinds: tuple[str, ...]


# By the parts that predict offsets.
FORMS = {
    ('fc',): Form('GlobalDeformKernel2d', ('GlobalDK',)),
    ('rotation_conv',): Form('LocalDeformKernel2d', ('DK',)),
    ('offset_conv',): Form('DeformKernelConv2d or DeformConv2d', ('DKDCN', 'FastDCN')),
    ('offset_conv', 'rotation_conv'): Form('DeformKernelConv2d', ('DKDCN',)),
}
GENERATORS = ('fc', 'offset_conv', 'rotation_conv')


def convert_released(state: dict[str, Tensor], model: nn.Module) -> list[str]:
    """Turn what the released code's modules saved into entries of the layers here, in place.

    Where the model has a layer, entries of the released module under its name are replaced; all
    others are left alone. The output is the released module's. What a state dict does not say comes
    from the layer: the dilation, by which the released code multiplies image offsets, and clipping.

    The released code interleaves channels over `rotation_groups` G, channel c has offsets c % G;
    here groups own neighbouring channels. They agree for G = 1 and for G = C_in; for all others
    the layer needs `offset_groups` = C_in, and gets equal offsets for the channels of a group.

    Args:
        state: The state dict.
        model: Has layers of :mod:`mmdk.layers` where the saved one had released modules.

    Returns:
        The names of the layers that were converted.

    Raises:
        ValueError: A layer is of another type, or cannot express the saved module.
    """
    converted = []
    for name, layer in model.named_modules(remove_duplicate=False):
        if isinstance(layer, ConvBase) and _convert(state, f'{name}.' if name else '', layer):
            converted.append(name)
    return converted


def _convert(state: dict[str, Tensor], prefix: str, layer: ConvBase) -> bool:
    """Whether the entries under a layer's name were a released module's, and are now its own."""
    parts = tuple(part for part in GENERATORS if f'{prefix}{part}.weight' in state)
    form = FORMS.get(parts)
    holder = prefix if parts == ('fc',) else f'{prefix}inner_conv.'
    if form is None or f'{holder}weight' not in state:
        return False
    _check_layer(prefix[:-1] or 'the layer', layer, form)
    for key in ('weight', 'bias'):
        if f'{holder}{key}' in state:
            state[f'{prefix}{key}'] = state.pop(f'{holder}{key}')
        saved = {
            part: state.pop(f'{prefix}{part}.{key}')
            for part in parts
            if f'{prefix}{part}.{key}' in state
        }
        if len(saved) == len(parts):
            state[f'{prefix}conv_offset.{key}'] = _conv_offset(prefix, layer, key, saved)
    # `mmdk.modules` writes down its kind, and the entries are no longer of that.
    getattr(state, '_metadata', {}).pop(prefix[:-1], None)
    return True


def _check_layer(name: str, layer: ConvBase, form: Form) -> None:
    if layer.kind not in form.kinds:
        raise ValueError(
            f'{name} was saved by {form.module} of the released code, and is of type '
            f'{layer.kind!r} here. Build it as {" or ".join(map(repr, form.kinds))}.'
        )
    if layer.kind == 'GlobalDK' and layer.offset_clip != 'scope':
        raise ValueError(
            f"{name} was saved by the released code's {form.module}, which keeps its taps inside "
            f'the scope, and has offset_clip={layer.offset_clip!r} here. Build it with '
            "offset_clip='scope'."
        )


def _conv_offset(prefix: str, layer: ConvBase, key: str, saved: dict[str, Tensor]) -> Tensor:
    """Weight or bias, as `key` says, of `conv_offset`, from those of the released parts."""
    expected = layer.conv_offset.get_parameter(key).shape[1:]
    rows = []
    for part, values in saved.items():
        if part == 'fc' and key == 'weight' and values.dim() == 2:
            saved[part] = values = values[:, :, None, None]
        if values.shape[1:] != expected:
            raise ValueError(
                f'size mismatch for {prefix}{part}.{key}: {tuple(values.shape)} is in the '
                f'checkpoint, {("channels", *expected)} is expected with in_channels='
                f'{layer.in_channels} and kernel_size={layer.kernel_size}. Build the layer with '
                'those that were saved.'
            )
    if 'offset_conv' not in saved:
        ((part, values),) = saved.items()
        return _regrouped(f'{prefix}{part}.{key}', layer, values)
    if 'rotation_conv' in saved:
        name = f'{prefix}rotation_conv.{key}'
        rows.append(_regrouped(name, layer, saved['rotation_conv']))
    elif layer.kind == 'DKDCN':
        # The released code never had kernel offsets there.
        channels = layer.offset_groups * _channels(layer)
        rows.append(saved['offset_conv'].new_zeros(channels, *expected))
    rows.append(_in_pixels(f'{prefix}offset_conv.{key}', layer, saved['offset_conv']))
    return torch.cat(rows)


def _channels(layer: ConvBase) -> int:
    """Of the offsets of one group."""
    return math.prod(layer.kernel_size) * 2


def _groups(name: str, layer: ConvBase, values: Tensor) -> int:
    channels = _channels(layer)
    if not len(values) or len(values) % channels:
        raise ValueError(
            f'{name} has {len(values)} output channels; kernel_size {layer.kernel_size} here takes '
            f'a multiple of {channels}. Build the layer with the kernel size that was saved.'
        )
    return len(values) // channels


def _regrouped(name: str, layer: ConvBase, values: Tensor) -> Tensor:
    """Rows of the kernel offsets, for groups of neighbouring channels."""
    groups = _groups(name, layer, values)
    saved_group = (torch.arange(layer.in_channels) % groups).view(layer.offset_groups, -1)
    if (saved_group != saved_group[:, :1]).any():
        raise ValueError(
            f'{name} is of {groups} rotation_groups, over which the released code interleaves '
            f'channels; with offset_groups={layer.offset_groups} here, groups own neighbouring '
            f'channels. Build the layer with offset_groups={layer.in_channels}, its in_channels, '
            f'which computes the same with {layer.in_channels // groups} times as many offsets; or '
            'go on with mmdk.modules, which has the released order.'
        )
    return values.unflatten(0, (groups, -1))[saved_group[:, 0]].flatten(0, 1)


def _in_pixels(name: str, layer: ConvBase, values: Tensor) -> Tensor:
    """Rows of image offsets, which the released code counts in steps of the dilation."""
    taps = _groups(name, layer, values) * math.prod(layer.kernel_size)
    steps = torch.tensor(layer.dilation, dtype=values.dtype).repeat(taps)
    return values * steps.view(-1, *[1] * (values.dim() - 1))
