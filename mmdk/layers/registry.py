"""Layers as MMCV conv layers: what `conv_cfg=dict(type='DK')` and `dcn=dict(type='DK')` build.

Stock builders pass one `conv_cfg` to every convolution they make, stems and 1x1 included. `where`
says which of them become deformable; the others are built as nn.Conv2d.
"""

import difflib
import inspect
from collections.abc import Callable

from mmengine.registry import MODELS
from torch import nn

from mmdk.layers.arguments import checked_pair
from mmdk.layers.cond_conv2d import CondConv2d
from mmdk.layers.conv_base import ConvBase
from mmdk.layers.deform_conv2d import DeformConv2d
from mmdk.layers.deform_kernel2d import DeformKernel2d
from mmdk.layers.deform_kernel_conv2d import DeformKernelConv2d
from mmdk.layers.global_deform_kernel2d import GlobalDeformKernel2d

__all__ = ['LAYERS', 'WHERE', 'build_layer', 'is_selected']

# Type: (class, `where` by default).
LAYERS: dict[str, tuple[type[ConvBase], str]] = {
    'DK': (DeformKernel2d, 'spatial'),
    'GlobalDK': (GlobalDeformKernel2d, 'all'),
    'DKDCN': (DeformKernelConv2d, 'spatial'),
    'FastDCN': (DeformConv2d, 'spatial'),
    'CondConv': (CondConv2d, 'spatial'),
}


def _is_spatial(kernel_size: tuple[int, int], in_channels: int, groups: int) -> bool:
    return max(kernel_size) > 1


def _is_spatial_depthwise(kernel_size: tuple[int, int], in_channels: int, groups: int) -> bool:
    return max(kernel_size) > 1 and groups == in_channels > 1


def _is_any(kernel_size: tuple[int, int], in_channels: int, groups: int) -> bool:
    return True


WHERE: dict[str, Callable[[tuple[int, int], int, int], bool]] = {
    'spatial': _is_spatial,
    'depthwise': _is_spatial_depthwise,
    'all': _is_any,
}


def is_selected(
    where: str, kernel_size: int | tuple[int, int], in_channels: int, groups: int
) -> bool:
    """Whether `where` selects a convolution of this shape.

    Args:
        where: 'spatial' (kernels larger than 1), 'depthwise' (those with groups = C_in) or 'all'.
        kernel_size: (K_h, K_w), or one int for both.
        in_channels: C_in.
        groups: Convolution groups.

    Raises:
        ValueError: `where` is none of these words.

    Example:
        >>> is_selected('spatial', 1, 64, 1), is_selected('spatial', 3, 64, 1)
        (False, True)
    """
    if not isinstance(where, str) or where not in WHERE:
        raise ValueError(
            f'where must be one of {tuple(WHERE)}, got {where!r}; patterns that match names are '
            "for mmdk.replace_conv2d and type 'SwapConv2d'."
        )
    kernel_size = checked_pair('kernel_size', kernel_size, least=1)
    return WHERE[where](kernel_size, in_channels, groups)


def build_layer(
    type: str,
    in_channels: int,
    out_channels: int,
    *args,
    where: str | None = None,
    depthwise: bool = False,
    **kwargs,
) -> nn.Module:
    """Build a layer of a type in `LAYERS`, or the nn.Conv2d it stands for.

    Args:
        type: 'DK', 'GlobalDK', 'DKDCN', 'FastDCN' or 'CondConv'.
        in_channels: C_in.
        out_channels: C_out.
        *args: Further arguments of the layer's class, by position.
        where: Which convolutions become such layers; see :func:`is_selected`. None: 'spatial', but
            'all' for 'GlobalDK'.
        depthwise: Make those depthwise, groups = C_in = C_out, whatever `groups` says.
        **kwargs: Further arguments of the layer's class, by name.

    Raises:
        TypeError: An option that does not exist.
        ValueError: A value out of range, or `depthwise` with C_in != C_out. Both tell inside which
            models the layer was to be.

    Example:
        >>> from mmcv.cnn import build_conv_layer
        >>> build_conv_layer(dict(type='DK'), 8, 8, 3, padding=1).scope_size
        (4, 4)
        >>> build_conv_layer(dict(type='DK'), 8, 8, 1)
        Conv2d(8, 8, kernel_size=(1, 1), stride=(1, 1))
    """
    try:
        return _build(type, (in_channels, out_channels, *args), where, depthwise, kwargs)
    except (TypeError, ValueError) as error:
        place = ' > '.join([*_under_construction(), type])
        channels = f'in_channels={in_channels}, out_channels={out_channels}'
        raise error.__class__(f'{place} ({channels}): {error}') from error


def _build(type: str, args: tuple, where: str | None, depthwise: bool, kwargs: dict) -> nn.Module:
    layer, where_by_default = LAYERS[type]
    bound = _bind(type, layer, args, kwargs)
    if where is None:
        where = where_by_default
    if not is_selected(where, bound['kernel_size'], bound['in_channels'], bound.get('groups', 1)):
        plain = inspect.signature(nn.Conv2d).parameters
        return nn.Conv2d(**{key: value for key, value in bound.items() if key in plain})
    if depthwise:
        if bound['in_channels'] != bound['out_channels']:
            raise ValueError(
                f"type='{type}' with depthwise=True needs in_channels == out_channels, got "
                f'{bound["in_channels"]} and {bound["out_channels"]}; leave depthwise out here, or '
                "use where='depthwise' to replace only convolutions that are depthwise already."
            )
        bound['groups'] = bound['in_channels']
    return layer(**bound)


def _under_construction() -> list[str]:
    """Classes of the modules whose constructors are running, outermost first.

    A layer's name is not known before the model around it is there; of where the layer is to be,
    this is all that can be told.
    """
    owners = {}
    frame = inspect.currentframe()
    while frame is not None:
        owner = frame.f_locals.get('self')
        if frame.f_code.co_name == '__init__' and isinstance(owner, nn.Module):
            owners[id(owner)] = owner.__class__.__name__  # once, however many bases it has
        frame = frame.f_back
    return list(owners.values())[::-1]


def _bind(name: str, layer: type[ConvBase], args: tuple, kwargs: dict) -> dict:
    """Arguments by name; an unknown option is an error also where a plain layer is built."""
    signature = inspect.signature(layer)
    known = [*signature.parameters, 'where', 'depthwise']
    for option in kwargs:
        if option not in known:
            close = difflib.get_close_matches(option, known, n=1)
            hint = f' Did you mean {close[0]!r}?' if close else ''
            raise TypeError(
                f"type='{name}' has no option {option!r}.{hint} Its options are {', '.join(known)}."
            )
    return signature.bind(*args, **kwargs).arguments


def _register(type: str) -> None:
    def build(*args, **kwargs) -> nn.Module:
        return build_layer(type, *args, **kwargs)

    # For those who look up which options there are.
    signature = inspect.signature(build_layer)
    parameters = [p for p in signature.parameters.values() if p.name != 'type']
    build.__signature__ = signature.replace(parameters=parameters)
    MODELS.register_module(name=type, module=build)


for _type in LAYERS:
    _register(_type)
