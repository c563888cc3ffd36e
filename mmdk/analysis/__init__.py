"""Pictures of what was learnt. Needs matplotlib: `pip install mmdk[demo]`."""

from mmdk.analysis.detections import plot_detections
from mmdk.analysis.kernel_offsets import LayerOffsets, plot_kernel_offsets, record_kernel_offsets
from mmdk.analysis.receptive_field import ReceptiveField, plot_receptive_fields, receptive_field
from mmdk.analysis.training_curve import plot_training_curve, read_scalars

__all__ = [
    'LayerOffsets',
    'ReceptiveField',
    'plot_detections',
    'plot_kernel_offsets',
    'plot_receptive_fields',
    'plot_training_curve',
    'read_scalars',
    'receptive_field',
    'record_kernel_offsets',
]
