"""State dicts of other models as those of a model with deformable layers."""

import dataclasses
import difflib
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence

from torch import Tensor, nn

from mmdk.checkpoints.released import convert_released
from mmdk.layers.conv_base import ConvBase

__all__ = ['Conversion', 'convert_state_dict']

# What networks trained on ImageNet call their last layers, for which detectors have no use.
CLASSIFIERS = ('fc.', 'classifier.', 'head.')
LISTED = 10


@dataclasses.dataclass(frozen=True)
class Conversion:
    """What became of a state dict.

    Attributes:
        state_dict: The model's.
        lifted: Layers that got a plain convolution's weights.
        released: Layers that got those of a module of the released code.
        taken_over: Entries of the given state dict that went into all other parts.
        left_out: Entries of the given state dict that went nowhere.
        missing: Entries of the model that are in neither state dict.
    """

    state_dict: OrderedDict[str, Tensor]
    lifted: list[str]
    released: list[str]
    taken_over: list[str]
    left_out: list[str]
    missing: list[str]

    def report(self) -> str:
        """One line for each that is not empty."""
        names = {
            'lifted from plain convolutions': self.lifted,
            "converted from the released code's modules": self.released,
            'taken over as they are': self.taken_over,
            'left out of what was read': self.left_out,
            'not in what was read, and not written': self.missing,
        }
        lines = [
            f'{len(found)} {what}: '
            f'{_shortened(found) if found is self.taken_over else ", ".join(found)}'
            for what, found in names.items()
            if found
        ]
        if self.released:
            lines.append(
                'Whether the released code clipped offsets (rotation_clip, offset_clip) is in no '
                'checkpoint: see that the layers here clip alike.'
            )
        return '\n'.join(lines)


def convert_state_dict(
    state: dict[str, Tensor],
    model: nn.Module,
    prefix: str = '',
    leave_out: Sequence[str] = (),
) -> Conversion:
    r"""Convert a state dict to that of a model with deformable layers.

    Entries of plain convolutions are lifted, those of the released code's modules rewritten (see
    :func:`mmdk.checkpoints.released.convert_released`), all others taken over. What is not
    understood is refused: every entry has to find its place, and every place its entry. Without
    saying, only an image classifier's last layers may be left over.

    Args:
        state: The state dict.
        model: It is loaded with the result; overwritten in part where that fails.
        prefix: Only entries whose names begin with it are read, without it.
        leave_out: Regular expressions. Entries that match as a whole are not read, and may be
            missing for the model; what is missing is not in the result.

    Returns:
        The result, whose state dict has the model's dtypes and loads into it with `strict=True`
        unless entries are missing, and how it came about.

    Raises:
        ValueError: Something is not understood, or there is nothing to convert.

    Example:
        >>> from torch import nn
        >>> from mmdk import layers, modules
        >>> from mmdk.checkpoints import convert_state_dict
        >>> released = nn.Sequential(modules.DeformKernel2d((4, 4), 8, 8, 3, groups=8))
        >>> model = nn.Sequential(layers.DeformKernel2d(8, 8, 3, groups=8, bias=False))
        >>> conversion = convert_state_dict(released.state_dict(), model)
        >>> conversion.released, list(conversion.state_dict)
        (['0'], ['0.weight', '0.conv_offset.weight', '0.conv_offset.bias'])
    """
    # A layer that is shared has entries under each of its names.
    parts = model.named_modules(remove_duplicate=False)
    layers = [name for name, part in parts if isinstance(part, ConvBase)]
    if not layers:
        raise ValueError(
            f'{model.__class__.__name__} has no deformable layers, for which nothing needs to be '
            'converted; name the model that has them.'
        )
    given = _below(prefix, _without_data_parallel(state))
    is_left_out = _matcher(leave_out, {**given, **model.state_dict()})
    read = _selected(given, lambda name: not is_left_out(name))
    released = convert_released(read, model)
    _check_numbers(read, model)
    try:
        result = model.load_state_dict(read, strict=False)
    except RuntimeError as error:
        raise ValueError(f'{error}\n{_how_to_leave_out()}') from error
    unexpected = [name for name in result.unexpected_keys if not _of_classifier(name, model)]
    missing = [name for name in result.missing_keys if not is_left_out(name)]
    if unexpected or missing:
        raise ValueError(_misfits(unexpected, missing, given))

    converted = model.state_dict()
    made_up = set(converted).difference(read, result.missing_keys)
    lifted = [name for name in layers if any(_is_in(name, entry) for entry in made_up)]
    if not lifted and not released:
        raise ValueError(
            'There is nothing to convert: what was read are already entries of this model'
            f'{"" if not result.missing_keys else ", or left out"}. Load it as it is.'
        )
    taken_over = [
        name
        for name in read
        if name in converted and not any(_is_in(layer, name) for layer in lifted + released)
    ]
    return Conversion(
        state_dict=_selected(converted, lambda name: name not in result.missing_keys),
        lifted=lifted,
        released=released,
        taken_over=taken_over,
        left_out=[name for name in given if is_left_out(name) or name in result.unexpected_keys],
        missing=result.missing_keys,
    )


def _without_data_parallel(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """As MMEngine loads it: what wraps a model for data-parallel training is no part of names."""
    if not all(name.startswith('module.') for name in state):
        return state
    return _below('module.', state)


def _below(prefix: str, state: dict[str, Tensor]) -> OrderedDict[str, Tensor]:
    """Entries whose names begin with a prefix, without it, and the metadata of their modules.

    Raises:
        ValueError: There are none, or it is no whole name.
    """
    names = [name for name in state if name.startswith(prefix)]
    if not names or (prefix and not prefix.endswith('.')):
        close = difflib.get_close_matches(prefix, _prefixes(state), n=3, cutoff=0.3)
        hint = f' Closest: {", ".join(map(repr, close))}.' if close else ''
        raise ValueError(
            f"prefix={prefix!r} is that of no entries; it ends with a dot, as 'backbone.'.{hint}"
        )
    selected = OrderedDict((name.removeprefix(prefix), state[name]) for name in names)
    selected._metadata = {
        f'{module}.'.removeprefix(prefix)[:-1]: entry
        for module, entry in getattr(state, '_metadata', {}).items()
        if f'{module}.'.startswith(prefix)
    }
    return selected


def _prefixes(state: Iterable[str]) -> list[str]:
    parts = (name.split('.') for name in state)
    return list({'.'.join(p[:end]) + '.': None for p in parts for end in range(1, len(p))})


def _selected(
    state: OrderedDict[str, Tensor], is_wanted: Callable[[str], bool]
) -> OrderedDict[str, Tensor]:
    selected = OrderedDict((name, value) for name, value in state.items() if is_wanted(name))
    selected._metadata = state._metadata
    return selected


def _matcher(patterns: Sequence[str], names: Iterable[str]) -> Callable[[str], bool]:
    """Whether a name matches one of the patterns, each of which has to match one of `names`."""
    compiled = []
    for pattern in patterns:
        try:
            compiled.append(re.compile(pattern))
        except re.error as error:
            raise ValueError(f'leave_out={pattern!r} is no regular expression: {error}.') from error
        if not any(map(compiled[-1].fullmatch, names)):
            close = difflib.get_close_matches(pattern.replace('\\', ''), names, n=3, cutoff=0.3)
            raise ValueError(
                f'leave_out={pattern!r} matches no entry; it has to match the whole name. Closest: '
                f'{", ".join(map(repr, close)) or "none"}.'
            )
    return lambda name: any(pattern.fullmatch(name) for pattern in compiled)


def _check_numbers(state: dict[str, Tensor], model: nn.Module) -> None:
    """Raises an error where PyTorch would take integers, as of a quantised model, for weights."""
    for name, own in model.state_dict().items():
        given = state.get(name, own)
        if own.is_floating_point() and not given.is_floating_point():
            raise ValueError(
                f'{name} is {given.dtype} in what was read, and {own.dtype} here; name a '
                'checkpoint of weights as they are trained, not quantised.'
            )


def _is_in(module: str, entry: str) -> bool:
    return not module or entry.startswith(f'{module}.')


def _of_classifier(name: str, model: nn.Module) -> bool:
    return name.startswith(CLASSIFIERS) and not hasattr(model, name.split('.')[0])


def _misfits(unexpected: list[str], missing: list[str], given: Iterable[str]) -> str:
    """What found no place, what has no entry, and what may be the cause."""
    lines = ['The entries do not fit the model.']
    if unexpected:
        lines.append(f'{len(unexpected)} have no place in the model:')
        lines += [f'  {name}{_closest(name, missing)}' for name in unexpected[:LISTED]]
        lines += ['  ...'] * (len(unexpected) > LISTED)
    if missing:
        lines.append(f'{len(missing)} of the model are not there: {_shortened(missing)}')
    return '\n'.join([*lines, *_causes(unexpected, missing, given), _how_to_leave_out()])


def _closest(name: str, missing: list[str]) -> str:
    close = difflib.get_close_matches(name, missing, n=1)
    return f' (closest that is missing: {close[0]})' if close else ''


def _causes(unexpected: list[str], missing: list[str], given: Iterable[str]) -> list[str]:
    """Whether the names would fit with a prefix, or into a part of the model."""
    longer = [name for name in given for end in missing[:1] if name.endswith(f'.{end}')]
    if longer:
        prefix = longer[0].removesuffix(missing[0])
        return [f'What is missing may have longer names there: try prefix={prefix!r} (--prefix).']
    longer = [name for name in missing for end in unexpected[:1] if name.endswith(f'.{end}')]
    if longer:
        part = longer[0].removesuffix(f'.{unexpected[0]}')
        return [f'They may be those of a part of the model: convert them for {part!r} (--part).']
    return []


def _how_to_leave_out() -> str:
    return (
        'What is not to be converted can be left out by leave_out (--leave-out), which takes '
        'patterns of names.'
    )


def _shortened(names: Sequence[str]) -> str:
    more = f' and {len(names) - LISTED} more' if len(names) > LISTED else ''
    return ', '.join(names[:LISTED]) + more
