"""Operators on a GPU: against cuDNN, MMCV's and torchvision's, and against memory.

Times are what passes on the GPU from before a call to after it, by CUDA's events, with nothing of
the tensors in its cache; the two of a ratio take turns. A GPU that waits for Python counts as well:
small calls are bound by that, ours and their peers'. The DRAM bound is what the least bytes would
take, each number of x, offsets and y once (with gradients: those of the forward pass, then x, the
offsets and the gradient of y read and two gradients written), at the speed of a large copy that
takes turns with the call. float32 is float32, without TF32. cuDNN tries its algorithms and takes
the fastest. No GPU has run this so far.

    python -m benchmarks.gpu
"""

import math
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial

import torch

from benchmarks.cases import (
    DIRECTIONS,
    FORMATS,
    SHAPES,
    Call,
    Case,
    as_text,
    mmcv_peer,
    ours,
    plain,
    torchvision_peer,
)
from benchmarks.measure import Measurement, MissingError, Ratio, run, this_machine, time_pairs
from tests.cuda.gpu import why_no_gpu

DEVICE = 'cuda'
BATCHES = [(2, 256, 100, 168), (8, 256, 100, 168)]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
KINDS = {'depthwise': True, 'dense': False}
DCN = dict(kernel_offset=None, image_offset=True)
VARIANTS = {
    'DK': {},
    'DCN': DCN,
    'DCNv2': DCN | dict(mask=True),
    'DK + DCN': dict(image_offset=True),
}
# They loop over groups: depthwise, a call is hundreds of small ones.
PEERS = {"MMCV's": mmcv_peer, "torchvision's": torchvision_peer}
PEER_SHAPES = SHAPES[1:3]
PLAIN_SHAPES = {'DK': SHAPES + BATCHES, 'DCN': PEER_SHAPES, 'DK + DCN': PEER_SHAPES}
MEMORY_SHAPE = SHAPES[1]
MEMORY_GOAL = 1

# More than any GPU's cache holds, and long enough to copy that its speed is the memory's.
COPIED_BYTES = 1 << 30
CACHE_BYTES = 256 << 20


def measurements() -> Iterator[Measurement]:
    for variant, shapes in PLAIN_SHAPES.items():
        for dtype in DTYPES:
            yield from against_plain(variant, shapes, dtype)
            yield from against_memory(variant, shapes, dtype)
    for variant in ('DCN', 'DCNv2'):
        for dtype in DTYPES:
            yield from against_peers(variant, dtype)
    for variant in VARIANTS:
        yield from extra_memory(variant)


def against_plain(variant: str, shapes: list, dtype: torch.dtype) -> Iterator[Measurement]:
    for row, direction, case in rows(KINDS, shapes, variant, dtype):
        yield Measurement(
            f'{variant} / F.conv2d, {name_of(dtype)}',
            row,
            as_text(case.shape),
            partial(compare, case, 'F.conv2d', plain, direction),
        )


def against_memory(variant: str, shapes: list, dtype: torch.dtype) -> Iterator[Measurement]:
    """Depthwise alone: dense calls are bound by arithmetic."""
    for row, direction, case in rows(['depthwise'], shapes, variant, dtype):
        yield Measurement(
            f'{variant} / DRAM bound, {name_of(dtype)}',
            row,
            as_text(case.shape),
            partial(compare_to_bound, case, direction),
        )


def against_peers(variant: str, dtype: torch.dtype) -> Iterator[Measurement]:
    for peer, make in PEERS.items():
        for row, direction, case in rows(KINDS, PEER_SHAPES, variant, dtype):
            yield Measurement(
                f'{variant} / {peer}, which is contiguous, {name_of(dtype)}',
                row,
                as_text(case.shape),
                partial(compare, case, peer, make, direction),
            )


def extra_memory(variant: str) -> Iterator[Measurement]:
    for dtype in DTYPES:
        for row, direction, case in rows(KINDS, [MEMORY_SHAPE], variant, dtype):
            yield Measurement(
                f'extra memory / input, {as_text(MEMORY_SHAPE)}',
                f'{variant}, {row}',
                name_of(dtype),
                partial(count_memory, case, direction),
                MEMORY_GOAL,
            )


def rows(
    kinds: Iterable[str], shapes: list[tuple], variant: str, dtype: torch.dtype
) -> Iterator[tuple[str, str, Case]]:
    """A row's label, its direction, and the case of each shape."""
    for kind in kinds:
        for layout, memory_format in FORMATS.items():
            for direction in DIRECTIONS:
                for shape in shapes:
                    case = Case(
                        shape,
                        KINDS[kind],
                        memory_format=memory_format,
                        dtype=dtype,
                        device=DEVICE,
                        **VARIANTS[variant],
                    )
                    yield f'{kind} {direction}, {layout}', direction, case


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix('torch.')


def compare(
    case: Case, peer: str, make_peer: Callable[[Case], Call], direction: str, pairs: int
) -> Ratio:
    return time_pairs(
        ready('mmdk', ours, case, direction),
        ready(peer, make_peer, case, direction),
        pairs,
        clock=seconds,
    )


def compare_to_bound(case: Case, direction: str, pairs: int) -> Ratio:
    call = ready('mmdk', ours, case, direction)
    copy, copied_bytes = large_copy()
    scale = copied_bytes / least_bytes(case, direction)
    return time_pairs(call, copy, pairs, scale, clock=seconds)


def ready(name: str, make: Callable[[Case], Call], case: Case, direction: str) -> Callable:
    """A call that has worked once."""
    try:
        call = make(case).direction(direction)
        call()
        wait()
    except (ImportError, RuntimeError, AssertionError) as error:
        reason = str(error).strip() or type(error).__name__
        # In a cell of a table.
        raise MissingError(f'{name}: {reason.splitlines()[0]}'.replace('|', '/')) from error
    return call


def large_copy() -> tuple[Callable, int]:
    """A call that copies, and the bytes that it reads and writes."""
    source, target = buffers(COPIED_BYTES)
    return partial(target.copy_, source), 2 * source.nbytes


@cache
def buffers(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    return tuple(torch.zeros(size, dtype=torch.uint8, device=DEVICE) for _ in range(2))


def least_bytes(case: Case, direction: str) -> int:
    batch, channels, height, width = case.shape
    positions = batch * math.prod(case.out_size)
    taps = case.offset_groups * case.kernel**2
    offsets = (2 * bool(case.kernel_offset) + 2 * case.image_offset + case.mask) * taps * positions
    x, y = batch * channels * height * width, channels * positions
    forward = x + offsets + y
    backward = (x + offsets + y) + (x + offsets)
    numbers = forward + (backward if direction != 'forward' else 0)
    return numbers * case.dtype.itemsize


def count_memory(case: Case, direction: str, pairs: int) -> Ratio:
    """One call, after a first: it is counted, not timed."""
    call = ready('mmdk', ours, case, direction)
    wait()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    results = call()
    growth = torch.cuda.max_memory_allocated() - before
    own = sum(result.nbytes for result in results)
    return Ratio((growth - own) / (math.prod(case.shape) * case.dtype.itemsize))


def seconds(function: Callable, times: int) -> float:
    """Of one call, the mean, with nothing in the cache before each."""
    evict = buffers(COPIED_BYTES)[0][:CACHE_BYTES]
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(times)]
    for start, end in events:
        evict.zero_()
        start.record()
        function()
        end.record()
    wait()
    return sum(start.elapsed_time(end) for start, end in events) / times / 1000


def wait() -> None:
    torch.cuda.synchronize()


def machine(threads: int) -> dict:
    properties = torch.cuda.get_device_properties(0)
    copy, copied_bytes = large_copy()
    torchvision = sys.modules.get('torchvision')
    return this_machine(threads) | {
        'gpu': properties.name,
        'gpu_capability': f'{properties.major}.{properties.minor}',
        'gpu_memory_bytes': properties.total_memory,
        'gpu_processors': properties.multi_processor_count,
        'copy_bytes_per_second': round(copied_bytes / seconds(copy, 10)),
        'cuda': torch.version.cuda,
        'cudnn': torch.backends.cudnn.version(),
        **({'torchvision': torchvision.__version__} if torchvision else {}),
    }


def main() -> None:
    """Measure; ends with an error where an operator of ours could not be measured."""
    reason = why_no_gpu()
    if reason:
        sys.exit(f'error: nothing to measure: {reason}')
    choose_arithmetic()
    measured, _ = run(__doc__, measurements(), pairs=5, machine=machine)
    failed = [row for row in measured if row.get('missing', '').startswith('mmdk:')]
    if failed:
        sys.exit(f'error: {len(failed)} of {len(measured)} calls of mmdk failed')


def choose_arithmetic() -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True


if __name__ == '__main__':
    main()
