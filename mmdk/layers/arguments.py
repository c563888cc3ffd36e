"""Checks of the arguments that all layers take, as configs and callers write them."""

import operator

__all__ = ['checked_bool', 'checked_int', 'checked_pair']


def checked_bool(name: str, value: object) -> bool:
    """The bool that a config gives for a switch.

    Raises:
        ValueError: It is none, as the word 'False' is none.
    """
    if not isinstance(value, bool):
        raise ValueError(f'{name} must be True or False, got {value!r}.')
    return value


def checked_int(name: str, value: object, least: int = 1) -> int:
    """An int from an int of any kind, NumPy's included.

    Raises:
        ValueError: It is none, or smaller than `least`.
    """
    number = _as_int(value)
    if number is None or number < least:
        raise ValueError(f'{name} must be an int of at least {least}, got {value!r}.')
    return number


def checked_pair(name: str, value: object, least: int) -> tuple[int, int]:
    """(height, width) from an int for both, or from a tuple or list of two.

    Raises:
        ValueError: It is neither, or an entry is smaller than `least`.
    """
    items = value if isinstance(value, (tuple, list)) else (value, value)
    pair = tuple(_as_int(item) for item in items)
    if len(pair) != 2 or any(item is None or item < least for item in pair):
        raise ValueError(
            f'{name} must be an int or a (height, width) pair, at least {least}, got {value!r}.'
        )
    return pair


def _as_int(value: object) -> int | None:
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return None
