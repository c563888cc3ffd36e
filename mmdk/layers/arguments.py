"""Checks of the integer arguments that all layers take, as configs and callers write them."""

import operator

__all__ = ['checked_int', 'checked_pair']


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
