"""Checkpoints of other models, converted to those of a model with deformable layers."""

from mmdk.checkpoints.conversion import Conversion, convert_state_dict
from mmdk.checkpoints.files import check_target, read_checkpoint, write_checkpoint

__all__ = [
    'Conversion',
    'check_target',
    'convert_state_dict',
    'read_checkpoint',
    'write_checkpoint',
]
