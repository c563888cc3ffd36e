"""Effective receptive fields of MMDetection's detectors."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmdet.utils import get_test_pipeline_cfg
from mmengine.dataset import BaseDataset, Compose, pseudo_collate
from mmengine.model import BaseModel
from torch import Tensor

from mmdk.analysis.images import seen_image
from mmdk.analysis.receptive_field import PROBES, ReceptiveField, receptive_field
from mmdk.analysis.receptive_field_scale import ObjectField

__all__ = [
    'AnnotatedObject',
    'detector_receptive_field',
    'object_receptive_fields',
    'pick_objects',
    'pipeline_of_testing',
]

STRIDE = 32  # the largest of most detectors


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
            normalised and padded as the detector does, not resized. One whose test pipeline pads
            instead, such as RTMDet, needs multiples of its largest stride.
        position: Where the unit is, as (y, x) shares of the padded image's height and width.
        call: Which call of the layer: a dense head calls its layers once for each pyramid level.
        probes: Gradients for each image, as :func:`~mmdk.analysis.receptive_field` takes them.

    Raises:
        ValueError: The images differ in size, or the detector fails on theirs, which is no multiple
            of 32; else as :func:`mmdk.analysis.receptive_field`.
    """
    sizes = {image.shape[:2] for image in images}
    if len(sizes) > 1:
        # Padded, they might be of one size, with their middles elsewhere.
        raise ValueError(f'images must have one height and width, got {sorted(sizes)}.')
    batches = [
        _preprocessed(
            detector,
            dict(inputs=torch.from_numpy(image).permute(2, 0, 1), data_samples=_sample_of(image)),
        )
        for image in images
    ]
    return _field(detector, layer, batches, position, call, probes)


@dataclasses.dataclass(frozen=True)
class AnnotatedObject:
    """An object of a data set.

    Attributes:
        image: The index of its image in the data set.
        box: (left, top, right, bottom), pixels of the image file.
    """

    image: int
    box: tuple[float, float, float, float]


def pick_objects(dataset: BaseDataset, count: int, seed: int = 0) -> list[AnnotatedObject]:
    """Picks annotated objects at random, each at most once, in the data set's order.

    Args:
        dataset: MMDetection's, such as `CocoDataset`; crowds and other regions to ignore are left
            out.
        count: How many. Where there are fewer, all.
        seed: Of the choice.

    Raises:
        ValueError: `count` is below 1, or the data set has no object.
    """
    if count < 1:
        raise ValueError(f'count must be at least 1, got {count!r}.')
    objects = [
        AnnotatedObject(index, tuple(instance['bbox']))
        for index in range(len(dataset))
        for instance in dataset.get_data_info(index)['instances']
        if not instance.get('ignore_flag')
    ]
    if not objects:
        raise ValueError('The data set has no annotated objects.')
    chosen = np.random.default_rng(seed).permutation(len(objects))[:count]
    return [objects[index] for index in sorted(chosen)]


def object_receptive_fields(
    detector: BaseModel,
    dataset: BaseDataset,
    objects: Sequence[AnnotatedObject],
    layer: str,
    *,
    call: int = 0,
    probes: int = PROBES,
) -> list[ObjectField]:
    """The effective receptive fields of the units over the middle of objects.

    Args:
        detector: Made by `mmdet.apis.init_detector`.
        dataset: With a test pipeline; images are resized as it says.
        objects: Of this data set.
        layer: As for :func:`detector_receptive_field`, as are the others.
        call: Which call of the layer.
        probes: Gradients for each object, as :func:`~mmdk.analysis.receptive_field` takes them.

    Raises:
        ValueError: As :func:`mmdk.analysis.receptive_field`.
    """
    fields = []
    for each in objects:
        data = dataset[each.image]
        batch = _preprocessed(detector, data)
        size = tuple(batch['inputs'].shape[2:])
        vertical, horizontal = seen_image(data).scale
        left, top, right, bottom = each.box
        middle = ((top + bottom) / 2 * vertical, (left + right) / 2 * horizontal)
        position = tuple(at / pixels for at, pixels in zip(middle, size, strict=True))
        field = _field(detector, layer, [batch], position, call, probes)
        scale = math.sqrt((right - left) * horizontal * (bottom - top) * vertical)
        fields.append(ObjectField(scale, field.area(0.5), field.area(0.9)))
    return fields


def pipeline_of_testing(detector: BaseModel) -> Compose:
    """What testing makes of an image file, `dict(img_path=..., img_id=0)`."""
    return Compose(get_test_pipeline_cfg(detector.cfg.copy()))


def _field(
    detector: BaseModel,
    layer: str,
    batches: Sequence[dict],
    position: tuple[float, float],
    call: int,
    probes: int,
) -> ReceptiveField:
    # Some detectors look at the sizes in the data samples, which come in the images' order.
    samples = iter([batch['data_samples'] for batch in batches])

    def run(detector: BaseModel, x: Tensor) -> object:
        try:
            return detector(x, next(samples), mode='tensor')
        except torch.cuda.OutOfMemoryError:
            raise
        except RuntimeError as error:
            height, width = x.shape[2:]
            if height % STRIDE or width % STRIDE:
                raise ValueError(
                    f'{type(detector).__name__} failed on images of {height} x {width} pixels '
                    f'({error}); many detectors need sides that are multiples of {STRIDE}: give '
                    'such images.'
                ) from error
            raise

    inputs = [batch['inputs'] for batch in batches]
    return receptive_field(detector, layer, inputs, position, run=run, call=call, probes=probes)


def _preprocessed(detector: BaseModel, data: dict) -> dict:
    return detector.data_preprocessor(pseudo_collate([data]), False)


def _sample_of(image: np.ndarray) -> DetDataSample:
    """What a test pipeline would say of an image that it does not resize."""
    size = image.shape[:2]
    meta = dict(ori_shape=size, img_shape=size, scale_factor=(1.0, 1.0), img_id=0, img_path='')
    return DetDataSample(metainfo=meta)
