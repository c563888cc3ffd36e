import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample

from mmdk.analysis.images import seen_image


@pytest.fixture
def data():
    """A file of 20 x 60 pixels, enlarged to 40 x 90."""
    pixels = torch.zeros(3, 40, 90, dtype=torch.uint8)
    pixels[0] = 200  # blue
    sample = DetDataSample(metainfo=dict(scale_factor=(1.5, 2.0)))  # width, height
    return dict(inputs=pixels, data_samples=sample)


def test_padded_below_and_right_and_red_first(data):
    image = seen_image(data, (64, 96))
    assert image.size == (64, 96) and image.shape == (40, 90)
    assert (image.pixels[:40, :90] == (0, 0, 200)).all()
    assert image.pixels[40:].sum() == image.pixels[:, 90:].sum() == 0
    assert image.pixels.dtype == np.uint8


def test_points_of_the_file(data):
    image = seen_image(data)
    assert image.point((10, 30)) == (20, 45)


@pytest.mark.parametrize('point', [(20, 0), (-1, 0), (0, 60), (float('nan'), 0)])
def test_points_outside(data, point):
    with pytest.raises(ValueError, match='outside the image, which is 20 pixels high and 60 wide'):
        seen_image(data, (64, 96)).point(point)


def test_without_a_word_of_resizing():
    image = seen_image(dict(inputs=torch.zeros(3, 8, 8, dtype=torch.uint8)))
    assert image.point((3, 4)) == (3, 4)
