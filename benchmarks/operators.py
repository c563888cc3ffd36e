"""Times deform_kernel2d against its peers.

DK against F.conv2d (`plain`) of the same kernel size, which samples nothing; deformable convolution
against MMCV's operators; DK against the same composed of PyTorch's own operators. Kernel offsets
vary by 0.5 scope cells, image offsets by 2 pixels, and independently of each other unless a row
says otherwise: the worst case.

    python -m benchmarks.operators
"""

from collections.abc import Callable, Iterator
from functools import partial

from benchmarks.cases import (
    DIRECTIONS,
    FORMATS,
    SHAPES,
    Call,
    Case,
    as_text,
    composition,
    mmcv_peer,
    ours,
    plain,
)
from benchmarks.measure import Measurement, Ratio, run, time_pairs

KINDS = {'depthwise': True, 'dense': False}
# At most so many times the plain convolution; what is not named has no goal.
DK_GOALS = {
    ('depthwise', 'forward', 'channels_last'): 2,
    ('depthwise', 'forward+backward', 'channels_last'): 2.5,
    ('depthwise', 'forward', 'contiguous'): 2,
    ('depthwise', 'forward+backward', 'contiguous'): 2,
    ('dense', 'forward', 'channels_last'): 2.2,
}
DCN_GOALS = {'depthwise': 1 / 50, 'dense': 1 / 5}

# MMCV's backward takes seconds even at these, a quarter of the pixels in each direction.
MMCV_SHAPES = [(1, 128, 50, 84), (1, 256, 25, 42)]
MMCV_PAIRS = 3
# The composition trains in hundreds of times the input's memory, dense C times as much again.
COMPOSITION_SHAPES = {'depthwise': (1, 256, 50, 84), 'dense': (1, 32, 50, 84)}


def measurements() -> Iterator[Measurement]:
    yield from against_plain()
    yield from against_mmcv()
    yield from against_composition()


def against_plain() -> Iterator[Measurement]:
    variants = [
        *((layout, 'normal') for layout in FORMATS),
        ('channels_last', 'smooth'),
        ('channels_last', 'zero'),
    ]
    for kind, depthwise in KINDS.items():
        for layout, spread in variants:
            for direction in DIRECTIONS:
                row = f'{kind} {direction}, {layout}'
                for shape in SHAPES:
                    case = Case(shape, depthwise, spread=spread, memory_format=FORMATS[layout])
                    yield Measurement(
                        'DK / plain convolution',
                        row if spread == 'normal' else f'{row}, {spread} offsets',
                        as_text(shape),
                        partial(compare, case, plain, direction),
                        DK_GOALS.get((kind, direction, layout)),
                    )


def against_mmcv() -> Iterator[Measurement]:
    for name, mask in (('DCN', False), ('DCNv2', True)):
        for kind, depthwise in KINDS.items():
            for layout, memory_format in FORMATS.items():
                for direction in DIRECTIONS:
                    for shape in MMCV_SHAPES:
                        case = Case(
                            shape,
                            depthwise,
                            kernel_offset=None,
                            image_offset=True,
                            mask=mask,
                            memory_format=memory_format,
                        )
                        yield Measurement(
                            "deformable convolution / MMCV's, which is contiguous",
                            f'{name}, {kind} {direction}, {layout}',
                            as_text(shape),
                            partial(compare_to_mmcv, case, direction),
                            DCN_GOALS[kind],
                            f"reduced shapes and {MMCV_PAIRS} pairs: MMCV's backward is slow",
                        )


def against_composition() -> Iterator[Measurement]:
    for kind, depthwise in KINDS.items():
        case = Case(COMPOSITION_SHAPES[kind], depthwise)
        for direction in DIRECTIONS:
            yield Measurement(
                'DK / composition of PyTorch operators',
                f'{kind}, {as_text(case.shape)}',
                direction,
                partial(compare, case, composition, direction),
                note='reduced shapes: the composition needs much memory',
            )


def compare_to_mmcv(case: Case, direction: str, pairs: int) -> Ratio:
    return compare(case, mmcv_peer, direction, min(pairs, MMCV_PAIRS))


def compare(case: Case, peer: Callable[[Case], Call], direction: str, pairs: int) -> Ratio:
    return time_pairs(ours(case).direction(direction), peer(case).direction(direction), pairs)


if __name__ == '__main__':
    run(__doc__, measurements(), pairs=5)
