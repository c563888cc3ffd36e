"""Nothing that initialises convolutions may find the offset generator."""

import pytest
import torch
from mmengine.model import constant_init, initialize
from torch import nn

from mmdk.layers import DeformKernel2d
from mmdk.layers.offset_generator import OffsetGenerator


@pytest.mark.parametrize(
    'kind', ['Kaiming', 'Xavier', 'Normal', 'Uniform', 'TruncNormal', 'Caffe2Xavier']
)
def test_mmengine_initialisers_pass_it_by(kind):
    model = nn.ModuleDict({'dk': DeformKernel2d(4, 4, 3), 'plain': nn.Conv2d(4, 4, 3)})
    before = model['plain'].weight.clone()
    options = {'Normal': {'std': 0.01}}.get(kind, {})
    initialize(model, dict(type=kind, layer=['Conv2d', '_ConvNd', 'Conv1d', 'Linear'], **options))
    assert not torch.equal(model['plain'].weight, before)
    assert not model['dk'].conv_offset.weight.any() and not model['dk'].conv_offset.bias.any()


def test_is_no_conv2d_by_any_test_in_use():
    bases = {base.__name__ for base in (OffsetGenerator, *OffsetGenerator.__bases__)}
    assert 'Conv2d' not in bases and '_ConvNd' not in bases
    assert not issubclass(OffsetGenerator, nn.Conv2d)
    assert not issubclass(DeformKernel2d, nn.Conv2d)


def test_heads_may_zero_it():
    generator = DeformKernel2d(4, 4, 3).conv_offset
    nn.init.ones_(generator.weight)
    constant_init(generator, 0)
    assert not generator.weight.any()


def test_init_weights_of_the_layer_zeroes_it():
    layer = DeformKernel2d(4, 4, 3)
    nn.init.ones_(layer.conv_offset.weight)
    nn.init.ones_(layer.conv_offset.bias)
    layer.init_weights()
    assert not layer.conv_offset.weight.any() and not layer.conv_offset.bias.any()
