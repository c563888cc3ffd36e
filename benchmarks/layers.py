"""Whole layers: DK, its offset generator included, against nn.Conv2d and MMCV's deformable layers.

Dense layers of 256 channels and depthwise ones, K = 3, in time and peak memory. The offset
generators have weights that make offsets vary by about 0.5. Memory is what the process grows by
during the call, outputs and gradients included; benchmarks/peak.py says how it is counted.

    python -m benchmarks.layers
"""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from mmcv.ops import DeformConv2dPack, ModulatedDeformConv2dPack
from torch import nn

from benchmarks.cases import DIRECTIONS, FORMATS, Call, as_text
from benchmarks.measure import Measurement, Ratio, run, time_pairs
from benchmarks.peak import in_fresh_process, peak_growth
from mmdk.layers import DeformKernel2d

CHANNELS = 256
SHAPE = (1, CHANNELS, 100, 168)
# MMCV's backward takes seconds even here.
SMALL_SHAPE = (1, CHANNELS, 25, 42)
SMALL_PAIRS = 3
OFFSETS = 0.5

# Groups, the peer, the input's shape and format.
COMPARISONS = {
    'dense DK / nn.Conv2d': (1, nn.Conv2d, SHAPE, 'channels_last'),
    'depthwise DK / depthwise nn.Conv2d': (CHANNELS, nn.Conv2d, SHAPE, 'channels_last'),
    "dense DK / MMCV's DCN": (1, DeformConv2dPack, SMALL_SHAPE, 'contiguous'),
    "dense DK / MMCV's DCNv2": (1, ModulatedDeformConv2dPack, SMALL_SHAPE, 'contiguous'),
}


def measurements() -> Iterator[Measurement]:
    for name, (groups, peer, shape, layout) in COMPARISONS.items():
        for direction in DIRECTIONS:
            for quantity, compare in (('time', compare_time), ('peak memory', compare_memory)):
                yield Measurement(
                    'DK layer / its peer',
                    f'{name}, {as_text(shape)}, {layout}',
                    f'{quantity}, {direction}',
                    partial(compare, peer, groups, shape, layout, direction),
                )


def compare_time(
    peer: type, groups: int, shape: tuple, layout: str, direction: str, pairs: int
) -> Ratio:
    return time_pairs(
        call(DeformKernel2d, groups, shape, layout).direction(direction),
        call(peer, groups, shape, layout).direction(direction),
        min(pairs, SMALL_PAIRS) if shape == SMALL_SHAPE else pairs,
    )


def compare_memory(
    peer: type, groups: int, shape: tuple, layout: str, direction: str, pairs: int
) -> Ratio:
    """One call each: memory is counted, not timed."""
    ours, theirs = (
        in_fresh_process(count, layer, groups, shape, layout, direction)
        for layer in (DeformKernel2d, peer)
    )
    return Ratio(ours / theirs)


def count(layer: type, groups: int, shape: tuple, layout: str, direction: str) -> int:
    batch, channels, height, width = shape
    call(layer, groups, (batch, channels, height // 2, width), layout).direction(direction)()
    growth, _ = peak_growth(call(layer, groups, shape, layout).direction(direction))
    return growth


def call(layer: Callable[..., nn.Module], groups: int, shape: tuple, layout: str) -> Call:
    memory_format = FORMATS[layout]
    module = layer(CHANNELS, CHANNELS, 3, padding=1, groups=groups)
    if hasattr(module, 'conv_offset'):
        # It starts at zero. Its inputs are random numbers of variance 1, nine to a channel.
        nn.init.normal_(module.conv_offset.weight, std=OFFSETS / (9 * CHANNELS) ** 0.5)
    module = module.to(memory_format=memory_format)
    x = torch.randn(shape).contiguous(memory_format=memory_format).requires_grad_()
    return Call(lambda: module(x), (x, *module.parameters()))


if __name__ == '__main__':
    run(__doc__, measurements(), pairs=5)
