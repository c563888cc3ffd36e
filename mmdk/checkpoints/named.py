"""Checkpoints that come with mmdk, by name: `mmdk://NAME`, wherever MMEngine loads one."""

from pathlib import Path

import torch
from mmengine.runner.checkpoint import CheckpointLoader

__all__ = ['load_from_mmdk', 'names']

SCHEME = 'mmdk://'
FOLDER = Path(__file__).with_name('trained')


def names() -> list[str]:
    """Those there are. Each is the name of the config in configs/digits that it was trained with.

    Example:
        >>> 'mmdk://retinanet_r50-dw-w16-dk-c3-c5-head_fpn_1e_digits' in names()
        True
    """
    return sorted(SCHEME + path.stem for path in FOLDER.glob('*.pth'))


@CheckpointLoader.register_scheme(prefixes=SCHEME)
def load_from_mmdk(
    filename: str, map_location: str | torch.device | None = None
) -> dict[str, dict]:
    """What MMEngine calls for such a name, in `load_from`, in `init_cfg` and by its tools.

    Args:
        filename: The name, with `mmdk://`.
        map_location: As `torch.load` has it.

    Returns:
        'state_dict', with weights in half precision, and 'meta'.

    Raises:
        FileNotFoundError: There is none of that name.

    Example:
        >>> from mmengine.runner import load_checkpoint
        >>> from torch import nn
        >>> name = 'mmdk://retinanet_r50-dw-w16-dk-c3-c5-head_fpn_1e_digits'
        >>> checkpoint = load_checkpoint(nn.Module(), name, logger='silent')
        >>> checkpoint['meta']['dataset_meta']['classes'][:3]
        ('0', '1', '2')
    """
    if filename not in names():
        raise FileNotFoundError(
            f'mmdk has no checkpoint {filename}. Those it has: {", ".join(names())}.'
        )
    path = FOLDER / f'{filename.removeprefix(SCHEME)}.pth'
    return torch.load(path, map_location, weights_only=True)
