"""Pictures of what was learnt. Needs matplotlib: `pip install mmdk[demo]`.

What needs MMDetection too is in `mmdk.analysis.detectors`, and what the commands in
`tools/analysis_tools` share in `mmdk.analysis.command_line`.
"""

from mmdk.analysis.detections import compare_detections, plot_detections
from mmdk.analysis.figures import add_figure, render
from mmdk.analysis.images import SeenImage, run_on_image
from mmdk.analysis.kernel_offsets import (
    LayerOffsets,
    over_the_image,
    plot_kernel_offsets,
    record_kernel_offsets,
)
from mmdk.analysis.offset_curves import plot_offset_curves, read_offset_curves
from mmdk.analysis.offset_histograms import (
    OffsetHistogram,
    plot_offset_histograms,
    record_offset_histograms,
)
from mmdk.analysis.pictures import kernel_pictures
from mmdk.analysis.receptive_field import ReceptiveField, receptive_field
from mmdk.analysis.receptive_field_picture import plot_receptive_fields
from mmdk.analysis.receptive_field_scale import (
    ObjectField,
    plot_receptive_field_scale,
    rank_correlation,
)
from mmdk.analysis.sampled_kernels import LayerKernels, plot_sampled_kernels, sampled_kernels
from mmdk.analysis.training_curve import plot_training_curve, read_scalars

__all__ = [
    'LayerKernels',
    'LayerOffsets',
    'ObjectField',
    'OffsetHistogram',
    'ReceptiveField',
    'SeenImage',
    'add_figure',
    'compare_detections',
    'kernel_pictures',
    'over_the_image',
    'plot_detections',
    'plot_kernel_offsets',
    'plot_offset_curves',
    'plot_offset_histograms',
    'plot_receptive_field_scale',
    'plot_receptive_fields',
    'plot_sampled_kernels',
    'plot_training_curve',
    'rank_correlation',
    'read_offset_curves',
    'read_scalars',
    'receptive_field',
    'record_kernel_offsets',
    'record_offset_histograms',
    'render',
    'run_on_image',
    'sampled_kernels',
]
