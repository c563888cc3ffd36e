"""What the operator's variants cost for the arithmetic they need.

Every ratio is (time / multiply-adds) of a variant over that of the main case: 1x256x100x168, K = 3,
S = 4, channels_last, local kernel offsets. At 1 a variant is as well made as the main case; over
2, in bold, it is not.

    python -m benchmarks.variants
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch

from benchmarks.arithmetic import multiply_adds
from benchmarks.cases import DIRECTIONS, Case, ours
from benchmarks.measure import Measurement, Ratio, run, time_pairs

MAINS = {'depthwise': Case(depthwise=True), 'dense': Case()}
# What differs from the main case.
VARIANTS = {
    'K=5, S=6': dict(kernel=5, scope=6),
    'K=1, S=2': dict(kernel=1, scope=2),
    'stride 2': dict(stride=2),
    'dilation 2': dict(dilation=2),
    'batch 8, 35x60': dict(shape=(8, 256, 35, 60)),
    'narrow, 2400x7': dict(shape=(1, 256, 2400, 7)),
    '250 channels': dict(shape=(1, 250, 100, 168)),
    '100 channels': dict(shape=(1, 100, 100, 168)),
    '30 channels': dict(shape=(1, 30, 100, 168)),
    'contiguous': dict(memory_format=torch.contiguous_format),
    '4 offset groups': dict(offset_groups=4),
    'groups 32': dict(groups=32),
    'global kernels': dict(kernel_offset='global'),
    'DK + DCN, mask': dict(image_offset=True, mask=True),
    'DCN': dict(kernel_offset=None, image_offset=True),
    'DCNv2': dict(kernel_offset=None, image_offset=True, mask=True),
}
GOAL = 2


def measurements() -> Iterator[Measurement]:
    for name, changes in VARIANTS.items():
        for kind, main in MAINS.items():
            if main.depthwise and 'groups' in changes:
                continue  # it has as many as there can be
            for direction in DIRECTIONS:
                yield Measurement(
                    'time per multiply-add / main case',
                    name,
                    f'{kind} {direction}',
                    partial(compare, replace(main, **changes), main, direction),
                    GOAL,
                )


def compare(variant: Case, main: Case, direction: str, pairs: int) -> Ratio:
    return time_pairs(
        ours(variant).direction(direction),
        ours(main).direction(direction),
        pairs,
        scale=multiply_adds(main) / multiply_adds(variant),
    )


if __name__ == '__main__':
    run(__doc__, measurements(), pairs=3)
