import pytest
import torch
from torch import nn

from mmdk.analysis.units import nearest_unit


@pytest.mark.parametrize('stride', [1, 2, 4])
@pytest.mark.parametrize('at', [0, 3, 9, 15])
def test_the_unit_that_sees_a_pixel_in_its_middle(stride, at):
    """A padded convolution of one tap in the middle gives what is there, at one unit or at none."""
    layer = nn.Conv2d(1, 1, 3, stride=stride, padding=1, bias=False)
    layer.weight.data = torch.zeros(1, 1, 3, 3)
    layer.weight.data[0, 0, 1, 1] = 1
    image = torch.arange(16.0).expand(1, 1, 16, 16)
    row = layer(image)[0, 0, 0]
    _, x = nearest_unit((0, at + 0.5), (16, 16), tuple(layer(image).shape[2:]))
    distances = (row - at).abs()
    assert distances[x] == distances.min()


def test_stays_inside_the_map():
    assert nearest_unit((63.9, 0), (64, 64), (2, 1)) == (1, 0)
    assert nearest_unit((40, 60), (64, 64), (1, 1)) == (0, 0)
