"""Checkpoint files: read without running what is in them, written without losing another."""

import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

__all__ = ['check_target', 'read_checkpoint', 'write_checkpoint']


def read_checkpoint(path: str | os.PathLike) -> dict:
    """Read a checkpoint that MMEngine could load, weights-only, onto the CPU.

    Args:
        path: A file that `torch.save` wrote: a state dict, or a dict that has one under
            'state_dict', as MMEngine's checkpoints do.

    Returns:
        What is in the file; a bare state dict is put under 'state_dict'.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no such checkpoint, damaged, or holds what weights-only loading refuses.

    Example:
        >>> import tempfile
        >>> from torch import nn
        >>> with tempfile.NamedTemporaryFile(suffix='.pth') as file:
        ...     torch.save(nn.Conv2d(3, 8, 3).state_dict(), file.name)
        ...     list(read_checkpoint(file.name)['state_dict'])
        ['weight', 'bias']
    """
    if not os.path.exists(path):
        hint = ' Fetch it first.' if '://' in str(path) else ''
        raise FileNotFoundError(f'There is no file {path}.{hint}')
    path = Path(path)
    if not path.is_file():
        raise ValueError(f'{path} is not a file; name the checkpoint itself.')
    loaded = _load(path)
    checkpoint = loaded
    if isinstance(loaded, Mapping) and 'state_dict' not in loaded:
        checkpoint = {'state_dict': loaded}
    state = checkpoint.get('state_dict') if isinstance(checkpoint, Mapping) else None
    if not isinstance(state, Mapping) or not state:
        raise ValueError(
            f'{path} is no checkpoint of a model: it holds {_summary(loaded)}. Expected is a state '
            "dict, or a dict that has one under 'state_dict'."
        )
    others = [
        name
        for name, value in state.items()
        if not (isinstance(name, str) and isinstance(value, Tensor))
    ]
    if others:
        raise ValueError(
            f'{path} is no checkpoint that MMEngine loads: in the place of the state dict are '
            f'{_summary(state)}, of which {", ".join(map(repr, others[:5]))} are no named tensors. '
            'Expected is a state dict, or a dict that has one under '
            "'state_dict'; if it is there under another name, save that alone."
        )
    return checkpoint


def check_target(target: str | os.PathLike, source: str | os.PathLike, overwrite: bool) -> Path:
    """Where to write: the file itself, if `target` is a link.

    Args:
        target: The file to be written.
        source: A file that must stay as it is.
        overwrite: Whether `target` may exist.

    Raises:
        ValueError: `target` is `source`, under whatever name, or no file, such as a folder or a
            device.
        FileExistsError: It exists, and `overwrite` is false.
        FileNotFoundError: The folder that it would be in does not exist.
    """
    path = Path(os.path.realpath(target))
    if path.exists() and path.samefile(source):
        raise ValueError(
            f'{target} is what is read, {source}, and is never overwritten; name another file.'
        )
    if path.exists() and not path.is_file():
        kind = 'a folder' if path.is_dir() else 'no ordinary file'
        raise ValueError(f'{target} is {kind}; name the file to write.')
    if path.exists() and not overwrite:
        raise FileExistsError(
            f'{target} exists; name another file, or allow it by overwrite (--overwrite).'
        )
    if not path.parent.is_dir():
        raise FileNotFoundError(f'There is no folder {path.parent}; make it first.')
    return path


def write_checkpoint(
    checkpoint: dict, target: str | os.PathLike, source: str | os.PathLike, overwrite: bool
) -> None:
    """Write a checkpoint wholly or not at all.

    It is written beside `target` and then renamed, so that a full disk or an interruption leaves
    `target` as it was.

    Args:
        checkpoint: What to write.
        target: As the next two, see :func:`check_target`.
        source: A file that must stay as it is.
        overwrite: Whether `target` may exist.

    Raises:
        ValueError, OSError: See :func:`check_target`; or it cannot be written.
    """
    path = check_target(target, source, overwrite)
    unfinished = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
    try:
        with open(unfinished, 'xb') as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        # Conversion takes a while, in which somebody else may have written there.
        check_target(target, source, overwrite)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def _load(path: Path) -> object:
    with open(path, 'rb') as file:
        is_zip = file.read(4) == b'PK\x03\x04'
    if is_zip and not zipfile.is_zipfile(path):
        # A zip archive's table of contents is at its end.
        raise ValueError(f'{path} is damaged: its end is missing. Fetch or copy it again.')
    try:
        return torch.load(path, map_location='cpu', weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f'{path} is no checkpoint, or holds objects that weights-only loading refuses because '
            f'they could run code: {_reason(error)}'
        ) from error
    except Exception as error:  # which one depends on where the file is damaged
        raise ValueError(
            f'{path} is no checkpoint, or damaged: {error.__class__.__name__}: {_reason(error)}'
        ) from error


def _reason(error: Exception) -> str:
    """What PyTorch found, without its advice to load all the same."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    found = [line for line in lines if line.startswith('WeightsUnpickler error')]
    return (found or lines or ['no reason given'])[0]


def _summary(found: object) -> str:
    if not isinstance(found, Mapping):
        return f'a {found.__class__.__name__}'
    if not found:
        return 'an empty dict'
    names = ', '.join(map(repr, list(found)[:8]))
    return f'a dict of {names}{", ..." if len(found) > 8 else ""}'
