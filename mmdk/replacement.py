"""Swapping deformable layers into a model that exists, or that a config builds."""

import copy
import difflib
import functools
import inspect
import re
from collections.abc import Callable, Iterator, Sequence

import mmcv.cnn.bricks
from mmengine.config import ConfigDict
from mmengine.logging import print_log
from mmengine.model import BaseModule, PretrainedInit, initialize, is_model_wrapper
from mmengine.registry import MODELS, DefaultScope
from torch import nn
from torch.nn.utils.parametrize import type_before_parametrizations

from mmdk.layers.registry import WHERE, is_selected

__all__ = ['build_swapped', 'replace_conv2d']

# Subclasses mean something else, but MMCV's, which only accepts empty batches on old PyTorch.
PLAIN = (nn.Conv2d, mmcv.cnn.bricks.Conv2d)

Where = str | Sequence[str] | Callable[[str, nn.Module], bool]


def replace_conv2d(
    module: nn.Module, type: str = 'DK', where: Where = 'spatial', **cfg
) -> list[str]:
    r"""Swap convolutions inside a model, in place, for layers of a registered type.

    The new layers take over weights (lifted: the model first computes what it did before), device,
    dtype, `requires_grad` and training mode. Everything that the old layer did not have, such as
    `conv_offset`, is frozen where its weight is. Names in the state dict stay. Swap before making
    the optimizer, and after initialising the model: MMEngine's `init_weights()` draws new weights.
    :func:`.build_swapped` does both in the right order, from a config.

    A convolution under several names is swapped once, at all of them. If any cannot be swapped,
    none is.

    Args:
        module: Holds the convolutions: nn.Conv2d or MMCV's wrapper of it, no other subclass. Not
            yet wrapped for distributed training.
        type: Registered in `mmengine.registry.MODELS` as a conv layer, such as `'DK'`.
        where: Which convolutions. A word, 'spatial' (kernels larger than 1), 'depthwise' or 'all';
            or a regular expression that matches the whole dotted name of a convolution, such as
            ``r'backbone\.layer[34].*conv2'``; or a list of those, for what any of them
            selects, and each has to select something; or a function of the name and the
            convolution.
        **cfg: Options of the type.

    Returns:
        The names of what was swapped, in the model's order; the first of several names.

    Raises:
        ValueError: `where` selects nothing, or what it selects cannot be swapped.
        KeyError: There is no such type.
        TypeError: `module` or `where` is none of the above, or the type has no such option.

    Example:
        >>> from torch import nn
        >>> import mmdk
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 1))
        >>> mmdk.replace_conv2d(model)
        ['0']
        >>> mmdk.replace_conv2d(model, where='2', offset_clip='scope')
        ['2']
        >>> model[2].scope_size
        (2, 2)
    """
    _check_module(module)
    names = _names(module)
    layers = {}
    for conv in _select(module, where, names):
        reason = _obstacle(module, conv)
        if reason:
            raise ValueError(f'{names[conv][0]!r} cannot be replaced by {type!r}: {reason}.')
        layers[conv] = _successor(names[conv][0], conv, type, cfg)
    for parent in list(module.modules()):
        for name, child in parent._modules.items():
            if child in layers:
                parent._modules[name] = layers[child]
    replaced = [names[conv][0] for conv in layers]
    print_log(
        f'{len(replaced)} convolutions replaced by {type!r}: {", ".join(replaced)}',
        logger='current',
    )
    return replaced


@MODELS.register_module(name='SwapConv2d')
def build_swapped(inside: str, swaps: dict | Sequence[dict], **cfg) -> nn.Module:
    """Build type `'SwapConv2d'`: a model of another type, with convolutions swapped.

    It returns the model itself, so that everything around it, optimizer, hooks, checkpoints, sees
    the names it always had. All settings of the model stay where a stock config has them; only
    `type` moves to `inside`.

    `init_weights()` gives what the plain model's would have: one is built beside it, initialised,
    and lifted. Pretrained weights, of the plain or of the swapped model, load in it too; but only
    the plain model's where `init_cfg` gives them to a part with an `init_weights` of its own, such
    as a DETR as a whole.

    Args:
        inside: The model's type.
        swaps: `type`, `where` and options of :func:`mmdk.replace_conv2d`; or several such, applied
            in order.
        **cfg: The model's settings.

    Raises:
        ValueError, KeyError, TypeError: As :func:`mmdk.replace_conv2d`.

    Example:
        >>> from mmengine.registry import MODELS
        >>> import mmdk
        >>> plain = dict(type='ConvModule', in_channels=3, out_channels=8, kernel_size=3)
        >>> swap = dict(type='DK', where='conv')
        >>> swapped = {**plain, 'type': 'SwapConv2d', 'inside': 'ConvModule', 'swaps': swap}
        >>> model = MODELS.build(swapped)
        >>> type(model).__name__, type(model.conv).__name__
        ('ConvModule', 'DeformKernel2d')
    """
    swaps = [swaps] if isinstance(swaps, dict) else swaps
    are_many = isinstance(swaps, (list, tuple)) and len(swaps) > 0
    if not are_many or not all(isinstance(swap, dict) for swap in swaps):
        raise TypeError(
            'swaps must be a dict of type, where and options, or a list of at least one, got '
            f'{swaps!r}.'
        )
    cfg = dict(type=inside, **cfg)
    model = MODELS.build(copy.deepcopy(cfg))
    for swap in swaps:
        replace_conv2d(model, **swap)
    if hasattr(model, 'init_weights'):
        # On the instance: a class of its own would have another name, and names choose
        # initialisers. A partial is copied and pickled along with the model.
        scope = DefaultScope.get_current_instance()
        scope_name = None if scope is None else scope.scope_name
        model.init_weights = functools.partial(_init_weights, model, ConfigDict(cfg), scope_name)
    return model


def _init_weights(model: nn.Module, plain_cfg: dict, scope_name: str | None) -> None:
    """Initialise as the plain model would, and lift.

    Args:
        model: Swapped.
        plain_cfg: Of the model before the swaps.
        scope_name: MMEngine's scope in which `plain_cfg` has its meaning; None: the one of now.
    """
    if getattr(model, 'is_init', False):
        model.__class__.init_weights(model)  # MMEngine's warning
        return
    with DefaultScope.overwrite_default_scope(scope_name):
        plain = MODELS.build(copy.deepcopy(plain_cfg))
    pretrained = _take_pretrained(plain)
    plain.init_weights()
    model.load_state_dict(plain.state_dict(), strict=False)
    for name, cfgs in reversed(pretrained.items()):
        initialize(model.get_submodule(name), cfgs)
    for part in model.modules():
        if isinstance(part, BaseModule):
            part.is_init = True


def _take_pretrained(plain: nn.Module) -> dict[str, list[dict]]:
    """Take away the pretrained weights to load, by the part's name, parents first.

    MMEngine loads them last, so the swapped model can, which reads those of swapped models as well.
    Parts that load them in a way of their own keep them.
    """
    taken = {}
    for name, part in plain.named_modules():
        if getattr(part.__class__, 'init_weights', None) is not BaseModule.init_weights:
            continue
        cfgs = [part.init_cfg] if isinstance(part.init_cfg, dict) else part.init_cfg or []
        pretrained = [cfg for cfg in cfgs if cfg['type'] in ('Pretrained', PretrainedInit)]
        if pretrained:
            taken[name] = pretrained
            part.init_cfg = [cfg for cfg in cfgs if cfg not in pretrained]
    return taken


def _check_module(module: nn.Module) -> None:
    """Raises an error if convolutions inside can not be swapped at all."""
    if not isinstance(module, nn.Module):
        raise TypeError(f'module must be an nn.Module, got {module!r}.')
    for name, part in module.named_modules():
        if is_model_wrapper(part):
            raise ValueError(
                f'{name or "module"!r} is a {part.__class__.__name__}, which may know only the '
                'parameters that it was made with: swap before wrapping.'
            )
    if _is_plain(module):
        raise ValueError(
            'The module is a convolution itself, and can only be replaced inside another: build '
            'the layer and load the state dict of this one into it.'
        )


def _is_plain(part: nn.Module) -> bool:
    """Whether it could be swapped, but for what :func:`_obstacle` finds, such as weight norm."""
    return type_before_parametrizations(part) in PLAIN


def _names(module: nn.Module) -> dict[nn.Module, list[str]]:
    """All names of every part."""
    names = {}
    for name, part in module.named_modules(remove_duplicate=False):
        names.setdefault(part, []).append(name)
    return names


def _select(module: nn.Module, where: Where, names: dict[nn.Module, list[str]]) -> list[nn.Conv2d]:
    """The convolutions that `where` selects, in the model's order.

    Raises:
        ValueError: It, or one pattern in it, selects none.
    """
    inner = {part for layer in names if _is_convolution(layer) for part in _below(layer)}
    convs = [part for part in names if _is_plain(part) and part not in inner]
    if callable(where):
        chosen = {conv for conv in convs if any(where(name, conv) for name in names[conv])}
        if not chosen:
            raise ValueError(f'where={where!r} selects {_none_of(convs, module)}.')
        return [conv for conv in convs if conv in chosen]
    conditions = [where] if isinstance(where, str) else where
    are_many = isinstance(conditions, (list, tuple)) and len(conditions) > 0
    if not are_many or not all(isinstance(condition, str) for condition in conditions):
        raise TypeError(
            f'where must be one of {tuple(WHERE)}, a regular expression, a list of those or a '
            f'function of name and module, got {where!r}.'
        )
    chosen = set()
    for condition in conditions:
        chosen |= _meeting(condition, convs, module, names)
    return [conv for conv in convs if conv in chosen]


def _meeting(
    condition: str,
    convs: list[nn.Conv2d],
    module: nn.Module,
    names: dict[nn.Module, list[str]],
) -> set[nn.Conv2d]:
    """The convolutions that a word selects or a pattern matches; an error if there is none."""
    if condition in WHERE:
        found = {
            conv
            for conv in convs
            if is_selected(condition, conv.kernel_size, conv.in_channels, conv.groups)
        }
        if not found:
            raise ValueError(f'where={condition!r} selects {_none_of(convs, module)}.')
        return found
    matched = {part for part in names if any(_matches(condition, name) for name in names[part])}
    found = matched.intersection(convs)
    if not found:
        raise ValueError(_no_match(condition, convs, matched, names))
    return found


def _matches(pattern: str, name: str) -> bool:
    try:
        return re.fullmatch(pattern, name) is not None
    except re.error as error:
        raise ValueError(f'where={pattern!r} is no regular expression: {error}.') from error


def _no_match(
    pattern: str,
    convs: list[nn.Conv2d],
    matched: set[nn.Module],
    names: dict[nn.Module, list[str]],
) -> str:
    parts = [f'where={pattern!r} matches no plain nn.Conv2d.']
    others = [part for part in names if part in matched]
    if others:
        listed = ', '.join(f'{names[part][0]!r} ({part.__class__.__name__})' for part in others[:3])
        more = f' and {len(others) - 3} more' if len(others) > 3 else ''
        parts.append(f'It matches {listed}{more}.')
    if any(part in convs for other in others for part in _below(other)):
        whole = f'({pattern})' if '|' in pattern else pattern
        parts.append(f'Everything inside is {whole + chr(92) + "..*"!r}.')
    written = pattern.replace(chr(92), '')
    known = [name for conv in convs for name in names[conv]] + list(WHERE)
    close = difflib.get_close_matches(written, known, n=3, cutoff=0.3)
    if close:
        parts.append(f'Closest: {", ".join(map(repr, close))}.')
    parts.append('A pattern has to match the whole name.')
    return ' '.join(parts)


def _none_of(convs: list[nn.Conv2d], module: nn.Module) -> str:
    return f'none of the {len(convs)} plain nn.Conv2d in {module.__class__.__name__}'


def _is_convolution(layer: nn.Module) -> bool:
    """Whether it is one of any kind: what is inside is its own affair.

    Such as the convolution that predicts the offsets of MMCV's deformable ones.
    """
    return hasattr(layer, 'kernel_size') and hasattr(layer, 'weight')


def _below(layer: nn.Module) -> Iterator[nn.Module]:
    return (part for part in layer.modules() if part is not layer)


def _obstacle(module: nn.Module, conv: nn.Conv2d) -> str | None:
    """What a new layer could not take over."""
    if set(conv._parameters) != {'weight', 'bias'} or conv.weight is None:
        return f'its parameters are {sorted(conv._parameters)}, not weight and bias (weight norm?)'
    if any(value for name, value in vars(conv).items() if name.endswith('_hooks')):
        return 'it has hooks, which would be lost; remove them before'
    if 'forward' in vars(conv):
        return 'its method forward was replaced, which would be lost; put it back before'
    held = [*conv._buffers, *conv._modules]
    if held:
        return f'it holds {", ".join(map(repr, held))}, which would be lost'
    own = {id(value): name for name, value in conv._parameters.items() if value is not None}
    for name, part in module.named_modules():
        for value in part._parameters.values():
            if part is not conv and id(value) in own:
                return f'it shares its {own[id(value)]} with {name!r}, which would end'
    return None


def _successor(name: str, conv: nn.Conv2d, type: str, cfg: dict) -> nn.Module:
    """The layer that takes a convolution's place.

    Raises:
        KeyError: There is no such type.
        TypeError, ValueError: The type's own, with the convolution's name.
    """
    build = _builder(type)
    taken_over = dict(
        in_channels=conv.in_channels,
        out_channels=conv.out_channels,
        kernel_size=conv.kernel_size,
        stride=conv.stride,
        padding=conv.padding,
        dilation=conv.dilation,
        groups=conv.groups,
        bias=conv.bias is not None,
    )
    if conv.padding_mode != 'zeros':
        taken_over['padding_mode'] = conv.padding_mode
    if 'where' in inspect.signature(build).parameters:
        taken_over['where'] = 'all'  # what was chosen here is chosen
    for option in cfg:
        if option in (*taken_over, 'padding_mode', 'device', 'dtype'):
            raise TypeError(f'{option!r} is taken over from the convolution; leave it out.')
    try:
        with conv.weight.device:
            layer = build(**taken_over, **cfg).to(conv.weight.dtype)
        _load(name, layer, conv)
    except (AssertionError, TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f'{name}: {error}') from error
    for key, parameter in layer.named_parameters():
        predecessor = conv._parameters.get(key)
        if predecessor is None:
            predecessor = conv.weight
        parameter.requires_grad_(predecessor.requires_grad)
    return layer.train(conv.training)


def _builder(type: str) -> Callable[..., nn.Module]:
    build = MODELS.get(type) if isinstance(type, str) else None
    if build is None:
        close = difflib.get_close_matches(str(type), MODELS.module_dict, n=3)
        hint = f' Did you mean {" or ".join(map(repr, close))}?' if close else ''
        raise KeyError(f"type={type!r} is not registered in MMEngine's MODELS.{hint}")
    return build


def _load(name: str, layer: nn.Module, conv: nn.Conv2d) -> None:
    """Load a convolution's weights into its successor, whose log names its path in the model."""
    lost = conv.state_dict().keys() - layer.state_dict().keys()
    if lost:
        raise ValueError(f'{layer} has no {" and no ".join(sorted(lost))} to take over.')
    holder = nn.Module()
    holder._modules[name] = layer  # add_module() would refuse the dots
    state = {f'{name}.{key}': value for key, value in conv.state_dict().items()}
    try:
        # What the convolution did not have keeps its initial values.
        holder.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise ValueError(
            f'the weights of {conv} do not fit into {layer}; leave out options that change their '
            f'shape, such as depthwise. {error}'
        ) from error
