"""Effective receptive fields of MMDetection's detectors."""

from collections.abc import Sequence

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmengine.model import BaseModel
from torch import Tensor

from mmdk.analysis.receptive_field import PROBES, ReceptiveField, receptive_field

__all__ = ['detector_receptive_field']


def detector_receptive_field(
    detector: BaseModel,
    layer: str,
    images: Sequence[np.ndarray],
    position: tuple[float, float] = (0.5, 0.5),
    *,
    call: int = 0,
    probes: int = PROBES,
) -> ReceptiveField:
    """The effective receptive field of a unit of a detector, averaged over images.

    Args:
        detector: Made by `mmdet.apis.init_detector`.
        layer: The layer's name, such as `backbone.layer4` or `bbox_head.cls_convs.3`.
        images: Each (H, W, 3) uint8 BGR, as `mmcv.imread` gives them, all of one size. They are
            normalised and padded as the detector does, not resized.
        position: Where the unit is, as (y, x) shares of the padded image's height and width.
        call: Which call of the layer: a dense head calls its layers once for each pyramid level.
        probes: Random gradients for each image; more make the estimate smoother.

    Raises:
        ValueError: As :func:`mmdk.analysis.receptive_field`.
    """
    samples = {}

    def run(detector: BaseModel, x: Tensor) -> object:
        return detector(x, samples[tuple(x.shape)], mode='tensor')

    inputs = []
    for image in images:
        data = detector.data_preprocessor(
            dict(inputs=[torch.from_numpy(image).permute(2, 0, 1)], data_samples=[sample_of(image)])
        )
        inputs.append(data['inputs'])
        samples[tuple(data['inputs'].shape)] = data['data_samples']
    return receptive_field(detector, layer, inputs, position, run=run, call=call, probes=probes)


def sample_of(image: np.ndarray) -> DetDataSample:
    """What a test pipeline would say of an image that it does not resize."""
    size = image.shape[:2]
    meta = dict(ori_shape=size, img_shape=size, scale_factor=(1.0, 1.0), img_id=0, img_path='')
    return DetDataSample(metainfo=meta)
