"""Peak memory of operators beyond their inputs, outputs and gradients, in sizes of the input.

benchmarks/peak.py says how it is counted. Each case runs in a process of its own, after a call on
half the image that loads code: buffers that are kept from call to call count by their growth.

    python -m benchmarks.memory
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import torch

from benchmarks.cases import (
    DIRECTIONS,
    FORMATS,
    Call,
    Case,
    as_text,
    composition,
    mmcv_peer,
    ours,
    plain,
)
from benchmarks.measure import Measurement, Ratio, run
from benchmarks.peak import in_fresh_process, peak_growth

SHAPE = (1, 256, 100, 168)
# MMCV's backward is slow, and the composition takes much memory, dense C times as much again.
MMCV_SHAPE = COMPOSITION_SHAPE = (1, 256, 50, 84)
DENSE_COMPOSITION_SHAPE = (1, 32, 50, 84)

DCN = dict(kernel_offset=None, image_offset=True)
OURS = {
    'depthwise DK': Case(SHAPE, depthwise=True),
    'dense DK': Case(SHAPE),
    'depthwise DCN': Case(SHAPE, depthwise=True, **DCN),
    'dense DCN': Case(SHAPE, **DCN),
    'dense DCNv2': Case(SHAPE, mask=True, **DCN),
    'depthwise DK + DCN, mask': Case(SHAPE, depthwise=True, image_offset=True, mask=True),
    'dense DK + DCN, mask': Case(SHAPE, image_offset=True, mask=True),
}
PLAIN = {
    'depthwise F.conv2d': Case(SHAPE, depthwise=True),
    'dense F.conv2d': Case(SHAPE),
}
# Contiguous float32 only.
MMCV = {
    "MMCV's dense DCN": Case(MMCV_SHAPE, **DCN),
    "MMCV's dense DCNv2": Case(MMCV_SHAPE, mask=True, **DCN),
}
COMPOSITION = {
    'depthwise DK of PyTorch operators': Case(COMPOSITION_SHAPE, depthwise=True),
    'dense DK of PyTorch operators': Case(DENSE_COMPOSITION_SHAPE),
}
GOAL = 1


def measurements() -> Iterator[Measurement]:
    for operator, cases, goal in ((ours, OURS, GOAL), (plain, PLAIN, None)):
        for name, case in cases.items():
            for dtype in (torch.float32, torch.bfloat16):
                for memory_format in FORMATS.values():
                    yield from both(
                        name,
                        operator,
                        replace(case, dtype=dtype, memory_format=memory_format),
                        goal,
                    )
    for operator, cases in ((mmcv_peer, MMCV), (composition, COMPOSITION)):
        for name, case in cases.items():
            yield from both(name, operator, replace(case, memory_format=torch.contiguous_format))


def both(
    name: str, operator: Callable[[Case], Call], case: Case, goal: float | None = None
) -> Iterator[Measurement]:
    layout = next(name for name, value in FORMATS.items() if value == case.memory_format)
    dtype = str(case.dtype).removeprefix('torch.')
    for direction in DIRECTIONS:
        yield Measurement(
            'extra memory / input',
            f'{name}, {as_text(case.shape)}, {dtype}, {layout}',
            direction,
            partial(extra_memory, operator, case, direction),
            goal,
        )


def extra_memory(operator: Callable[[Case], Call], case: Case, direction: str, pairs: int) -> Ratio:
    """One call: it is counted, not timed."""
    return Ratio(in_fresh_process(count, operator, case, direction))


def count(operator: Callable[[Case], Call], case: Case, direction: str) -> float:
    batch, channels, height, width = case.shape
    operator(replace(case, shape=(batch, channels, height // 2, width))).direction(direction)()
    call = operator(case)
    growth, results = peak_growth(call.direction(direction))
    return (growth - sum(result.nbytes for result in results)) / call.leaves[0].nbytes


if __name__ == '__main__':
    run(__doc__, measurements(), pairs=1)
