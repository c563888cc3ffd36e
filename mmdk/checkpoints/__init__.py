"""Checkpoints: those of other models, converted, and those that come with mmdk, by name."""

from mmdk.checkpoints.conversion import Conversion, convert_state_dict
from mmdk.checkpoints.files import check_target, read_checkpoint, write_checkpoint
from mmdk.checkpoints.named import load_from_mmdk, names

__all__ = [
    'Conversion',
    'check_target',
    'convert_state_dict',
    'load_from_mmdk',
    'names',
    'read_checkpoint',
    'write_checkpoint',
]
