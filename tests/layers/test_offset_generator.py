"""Nothing that initialises convolutions may find the offset generator."""

import pytest
import torch
from mmengine.model import constant_init, initialize
from torch import nn

from mmdk.layers import DeformKernel2d
from tests.layers.family import VARIANTS, is_at_rest


@pytest.mark.parametrize(
    'kind', ['Kaiming', 'Xavier', 'Normal', 'Uniform', 'TruncNormal', 'Caffe2Xavier']
)
@pytest.mark.parametrize('make', VARIANTS.values(), ids=VARIANTS)
def test_mmengine_initialisers_pass_it_by(kind, make):
    model = nn.ModuleDict({'layer': make(4, 4, 3), 'plain': nn.Conv2d(4, 4, 3)})
    before, weight = model['plain'].weight.clone(), model['layer'].weight.clone()
    options = {'Normal': {'std': 0.01}}.get(kind, {})
    initialize(model, dict(type=kind, layer=['Conv2d', '_ConvNd', 'Conv1d', 'Linear'], **options))
    assert not torch.equal(model['plain'].weight, before)
    assert is_at_rest(model['layer'])
    assert torch.equal(model['layer'].weight, weight)


@pytest.mark.parametrize('make', VARIANTS.values(), ids=VARIANTS)
def test_no_part_is_found_by_any_test_in_use(make):
    for module in make(4, 4, 3).modules():
        names = {base.__name__ for base in (type(module), *type(module).__bases__)}
        assert not names & {'Conv2d', '_ConvNd', 'Linear'}
        assert not isinstance(module, (nn.Conv2d, nn.Linear))


def test_heads_may_zero_it():
    generator = DeformKernel2d(4, 4, 3).conv_offset
    nn.init.ones_(generator.weight)
    constant_init(generator, 0)
    assert not generator.weight.any()
