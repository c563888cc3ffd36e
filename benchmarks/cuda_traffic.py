"""What the CUDA kernels ask memory for, counted by the emulator; no GPU is needed, nothing timed.

DRAM sectors are what reads and writes of 32 bytes go beyond an L2 cache of 4 MiB, blocks taken in
the order they are issued in; least is each number of the kernel's tensors once. Loads are a
thread's instructions, whatever their width. Wavefronts are the steps in which shared memory serves
a warp, the conflicts of its banks among them.

    python -m benchmarks.cuda_traffic
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from benchmarks.cases import as_text
from benchmarks.measure import Measurement, Ratio, run
from tests.cuda_emulation import emulator

SHAPES = [(1, 128, 200, 336), (1, 256, 100, 168), (1, 512, 50, 84), (1, 1024, 25, 42)]
SMALL = (1, 128, 25, 42)  # for gradients, which take longest to emulate
FORMATS = {'channels_last': torch.channels_last, 'contiguous': torch.contiguous_format}
DTYPES = {'float32': torch.float32, 'float16': torch.float16}
# Of the DRAM sectors that a forward pass could do with.
DRAM_GOALS = {'channels_last': 1.15, 'contiguous': 1.3}
# Words that a thread of the paper's released kernels loads for an output: 18 of offsets, 9 of input
# and 36 of weights; in the three kernels of its backward pass 63, 28 and 108.
RELEASED_FORWARD = 63
RELEASED_BACKWARD = 63 + 28 + 108
LOADS_GOAL = 1 / 5
# An H100, as far as launches depend on it.
DEVICE = {'processors': 132, 'shared_bytes': 227 * 1024, 'capability': 90}

TAPS, CELLS = 9, 16
SECTOR = 32


@dataclass(frozen=True)
class Call:
    shape: tuple
    dtype: torch.dtype = torch.float32
    memory_format: torch.memory_format = torch.channels_last
    depthwise: bool = True
    image_offset: bool = False
    backward: bool = False

    @property
    def numbers(self) -> int:
        """In an activation; input and output have as many."""
        return torch.Size(self.shape).numel()

    @property
    def offsets(self) -> int:
        batch, _, height, width = self.shape
        return batch * TAPS * 2 * height * width

    def sectors(self, numbers: int) -> float:
        return numbers * self.dtype.itemsize / SECTOR


@functools.cache
def count(call: Call) -> dict[str, dict[str, int]]:
    """What each kernel of the call did, by its name without template arguments."""
    emulator.load()
    generator = torch.Generator().manual_seed(0)

    def normal(*size):
        # A copy: made within the emulation, so that its memory is watched.
        return torch.randn(size, generator=generator).to(call.dtype, copy=True)

    batch, channels, height, width = call.shape
    with emulator.emulated(**DEVICE):
        inputs = {
            'input': normal(*call.shape).contiguous(memory_format=call.memory_format),
            'weight': normal(channels, 1 if call.depthwise else channels, 4, 4),
            'kernel_offset': 0.5 * normal(batch, TAPS * 2, height, width),
        }
        if call.image_offset:
            inputs['image_offset'] = 0.5 * normal(batch, TAPS * 2, height, width)
        for tensor in inputs.values():
            tensor.requires_grad_(call.backward)
        with emulator.counting():
            output = emulator.deform_kernel2d(**inputs, kernel_size=3, padding=1)
            if call.backward:
                output.backward(torch.ones_like(output))
    return emulator.counters()


def of(call: Call, kernel: str) -> dict[str, int]:
    """The counters of one kernel: NAME, or NAME...LAST with its last template argument."""
    start, _, end = kernel.partition('...')
    found = [
        counters
        for name, counters in count(call).items()
        if f'::{start}<' in name and name.endswith(f'{end}>')
    ]
    if len(found) != 1:
        raise ValueError(f'{kernel} is {len(found)} kernels of {sorted(count(call))}')
    return found[0]


def dram(call: Call, kernel: str, least: float) -> Ratio:
    counters = of(call, kernel)
    return Ratio((counters['dram_loads'] + counters['dram_stores']) / call.sectors(least))


def loads(call: Call, kernels: list[str], released: float) -> Ratio:
    """A warp's instruction is one of each of its 32 threads."""
    instructions = sum(of(call, kernel)['global_loads'] for kernel in kernels)
    return Ratio(instructions * 32 / call.numbers / released)


def wavefronts(call: Call, kernel: str) -> Ratio:
    counters = of(call, kernel)
    return Ratio(counters['shared_wavefronts'] / (call.numbers / 32))


def forward_kernel(call: Call) -> str:
    if call.memory_format == torch.contiguous_format:
        return 'plane_sums...false'
    return 'depthwise_mma...false' if call.dtype.itemsize == 2 else 'depthwise_sums...false'


def forward_measurements() -> Iterator[Measurement]:
    for shape in SHAPES:
        for layout, memory_format in FORMATS.items():
            for dtype_name, dtype in DTYPES.items():
                call = Call(shape, dtype, memory_format)
                kernel, row = forward_kernel(call), f'{layout}, {dtype_name}'
                least = 2 * call.numbers + call.offsets

                def measured(table, function, goal=None, row=row, shape=shape):
                    return Measurement(table, row, as_text(shape), lambda _: function(), goal)

                yield measured(
                    'depthwise forward: DRAM sectors / least',
                    functools.partial(dram, call, kernel, least),
                    DRAM_GOALS[layout],
                )
                yield measured(
                    "depthwise forward: loads / the released kernel's 63",
                    functools.partial(loads, call, [kernel], RELEASED_FORWARD),
                    LOADS_GOAL,
                )
                yield measured(
                    'depthwise forward: shared-memory wavefronts for 32 outputs',
                    functools.partial(wavefronts, call, kernel),
                )


def gradient_measurements() -> Iterator[Measurement]:
    """Of every other kernel; columns are cells of all channels."""
    depthwise = Call(SMALL, backward=True)
    dense = Call(SMALL, depthwise=False, backward=True)
    numbers, offsets, columns = depthwise.numbers, depthwise.offsets, CELLS * depthwise.numbers
    kernels = {
        'depthwise: gradient of the input': (
            depthwise,
            'depthwise_sums...true',
            2 * numbers + offsets,
        ),
        'depthwise: gradients of weight and offsets': (
            depthwise,
            'tap_gradients...false',
            2 * numbers + 2 * offsets,
        ),
        'dense: columns, each pass': (dense, 'columns', 2 * (numbers + offsets + columns)),
        'dense: gradient of the input': (
            dense,
            'columns_input_gradient',
            columns + offsets + 2 * numbers,
        ),
        'dense: gradient of offsets': (
            dense,
            'tap_gradients...true',
            numbers + columns + 2 * offsets,
        ),
    }
    table = f'gradients at {as_text(SMALL)}, channels_last, float32'
    for row, (call, kernel, least) in kernels.items():
        yield Measurement(
            table,
            row,
            'DRAM sectors / least',
            lambda _, call=call, kernel=kernel, least=least: dram(call, kernel, least),
        )
        yield Measurement(
            table,
            row,
            'loads of a thread, for an output',
            lambda _, call=call, kernel=kernel: loads(call, [kernel], 1),
        )
        yield Measurement(
            table,
            row,
            'wavefronts for 32 outputs',
            lambda _, call=call, kernel=kernel: wavefronts(call, kernel),
        )
    yield Measurement(
        "depthwise backward: loads / the released kernels' 199",
        as_text(SMALL),
        'channels_last, float32',
        lambda _: loads(
            depthwise, ['depthwise_sums...true', 'tap_gradients...false'], RELEASED_BACKWARD
        ),
        LOADS_GOAL,
    )


def measurements() -> Iterator[Measurement]:
    yield from forward_measurements()
    yield from gradient_measurements()


if __name__ == '__main__':
    run(__doc__, measurements(), pairs=1)
