"""All pictures of what a model's kernels do on one image."""

from collections.abc import Sequence

from matplotlib.figure import Figure
from mmengine.model import BaseModel

from mmdk.analysis.images import run_on_image
from mmdk.analysis.kernel_offsets import (
    over_the_image,
    plot_kernel_offsets,
    record_kernel_offsets,
)
from mmdk.analysis.offset_histograms import plot_offset_histograms, record_offset_histograms
from mmdk.analysis.sampled_kernels import plot_sampled_kernels, sampled_kernels

__all__ = ['kernel_pictures']


def kernel_pictures(
    model: BaseModel, data: dict, at: Sequence[tuple[float, float]] | None = None
) -> dict[str, Figure]:
    """Draws what :class:`mmdk.hooks.KernelPictureHook` does.

    Args:
        model: In evaluation mode.
        data: What a test pipeline gives: 'inputs', (3, H, W) uint8 BGR, and 'data_samples'.
        at: Points (y, x), pixels of the image file. None: the middle.

    Returns:
        Pictures by name, 'offset_histograms' and, where layers with kernel offsets see the whole
        image, 'kernel_offsets' and 'sampled_kernels'.

    Raises:
        ValueError: The model has no layer with offsets, or runs none; or the image has no such
            point.
    """
    with record_kernel_offsets(model) as records, record_offset_histograms(model) as histograms:
        image = run_on_image(model, data)
    if not histograms:
        raise ValueError('the model ran none of its layers with offsets on this image.')
    pictures = {'offset_histograms': plot_offset_histograms(histograms)}
    layers = over_the_image(records)
    if layers:
        points = [(size / 2 for size in image.shape)] if at is None else map(image.point, at)
        points = [tuple(point) for point in points]
        kernels = sampled_kernels(model, layers, points, image.size)
        pictures['kernel_offsets'] = plot_kernel_offsets(image.pixels, layers, points)
        pictures['sampled_kernels'] = plot_sampled_kernels(image.pixels, kernels, points)
    return pictures
