"""What the tests of all layers share."""

import functools

from torch import nn

from mmdk.layers import (
    CondConv2d,
    DeformConv2d,
    DeformKernel2d,
    DeformKernelConv2d,
    GlobalDeformKernel2d,
)

CLASSES = {
    'DK': DeformKernel2d,
    'GlobalDK': GlobalDeformKernel2d,
    'DKDCN': DeformKernelConv2d,
    'FastDCN': DeformConv2d,
    'CondConv': CondConv2d,
}
# With what makes another layer of the same class.
VARIANTS = {
    **CLASSES,
    'DKDCN_mask': functools.partial(DeformKernelConv2d, modulated=True),
    'FastDCN_mask': functools.partial(DeformConv2d, modulated=True),
}
GENERATORS = ('conv_offset', 'routing')


def generator(layer):
    """What is zero at rest."""
    return next(getattr(layer, name) for name in GENERATORS if hasattr(layer, name))


def learnt(layer, scale=0.5):
    """Give a layer a generator that moves."""
    nn.init.normal_(generator(layer).weight, std=scale / layer.in_channels)
    nn.init.normal_(generator(layer).bias, std=scale)
    return layer


def is_at_rest(layer):
    return not any(parameter.any() for parameter in generator(layer).parameters())
