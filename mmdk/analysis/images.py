"""One image through a model as in testing, and what the model saw of it."""

import dataclasses

import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from mmengine.model import BaseModel

__all__ = ['SeenImage', 'run_on_image', 'seen_image']


@dataclasses.dataclass(frozen=True)
class SeenImage:
    """What a network saw of an image file.

    Attributes:
        pixels: (H, W, 3) uint8 RGB, resized and padded as for the network.
        shape: Height and width of the image in it, without the padding.
        scale: (y, x) factors from pixels of the file to these.
    """

    pixels: np.ndarray
    shape: tuple[int, int]
    scale: tuple[float, float]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the network's input."""
        return self.pixels.shape[:2]

    def point(self, at: tuple[float, float]) -> tuple[float, float]:
        """A point (y, x) of the file, pixels, as one of the network's input.

        Raises:
            ValueError: It is outside the image.
        """
        point = tuple(float(where * factor) for where, factor in zip(at, self.scale, strict=True))
        if not all(0 <= where < size for where, size in zip(point, self.shape, strict=True)):
            height, width = (
                size / factor for size, factor in zip(self.shape, self.scale, strict=True)
            )
            raise ValueError(
                f'the point y={at[0]:g}, x={at[1]:g} is outside the image, which is {height:.0f} '
                f'pixels high and {width:.0f} wide.'
            )
        return point


def run_on_image(model: BaseModel, data: dict) -> SeenImage:
    """Runs a model on one image as in testing; its layers' hooks see what is to be recorded.

    Args:
        model: In evaluation mode.
        data: What a test pipeline gives: 'inputs', (3, H, W) uint8 BGR, and 'data_samples'.
    """
    batch = model.data_preprocessor(pseudo_collate([data]), False)
    with torch.no_grad():
        model(**batch, mode='predict')
    return seen_image(data, tuple(batch['inputs'][0].shape[-2:]))


def seen_image(data: dict, size: tuple[int, int] | None = None) -> SeenImage:
    """What a network sees of an image.

    Args:
        data: As for :func:`run_on_image`.
        size: Height and width of the network's input, to which the image is padded below and right.
            None: it is not padded.
    """
    image = data['inputs'].flip(0).permute(1, 2, 0).numpy()  # BGR to RGB
    pixels = np.zeros((*(size or image.shape[:2]), 3), np.uint8)
    pixels[: image.shape[0], : image.shape[1]] = image
    # Width before height, as OpenMMLab has it; where nothing was resized, nothing is said.
    sample = data.get('data_samples')
    horizontal, vertical = sample.get('scale_factor', (1.0, 1.0)) if sample else (1.0, 1.0)
    return SeenImage(pixels, image.shape[:2], (vertical, horizontal))
