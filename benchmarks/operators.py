"""Times deform_kernel2d against its peers and prints the ratios.

Every ratio is the median over pairs timed in turn in one process, so that a machine whose speed
drifts, or that has other work to do, slows both alike. Absolute times are not reported.

    python benchmarks/operators.py --threads 2 --out operators.json
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import mmdk
from mmdk.ops import deform_kernel2d

SHAPES = [(1, 128, 200, 336), (1, 256, 100, 168), (1, 512, 50, 84), (1, 1024, 25, 42)]
KERNEL, SCOPE = 3, 4
FORMATS = {'channels_last': torch.channels_last, 'contiguous': torch.contiguous_format}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--threads', type=int, default=2, help='[%(default)s]')
    parser.add_argument('--pairs', type=int, default=7, help='timed pairs a row [%(default)s]')
    parser.add_argument('--only', default='', help='rows whose name contains this')
    parser.add_argument('--out', type=Path, help='JSON file to write')
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = []
    for shape in SHAPES:
        for name, ours, peer in comparisons(shape):
            if args.only not in name:
                continue
            ratios = time_pairs(ours(), peer(), args.pairs)
            rows.append(
                {
                    'comparison': name,
                    'shape': shape,
                    'ratio': statistics.median(ratios),
                    'least': min(ratios),
                    'most': max(ratios),
                }
            )
            print(
                f'{name:<58} {str(shape):<20} {rows[-1]["ratio"]:7.3f}'
                f'  ({rows[-1]["least"]:.3f} to {rows[-1]["most"]:.3f})',
                flush=True,
            )
    if args.out:
        args.out.write_text(json.dumps({'machine': machine(args.threads), 'rows': rows}, indent=1))


def comparisons(shape: tuple) -> Iterator[tuple[str, Callable, Callable]]:
    """(name, maker of our call, maker of the peer's call), made late to spare memory."""
    for name, memory_format in FORMATS.items():
        for kind, groups in (('depthwise', shape[1]), ('dense', 1)):
            for direction in ('forward', 'forward+backward'):
                yield (
                    f'{kind} DK {direction} / plain, {name}',
                    lambda g=groups, d=direction, m=memory_format: dk(shape, g, m, d),
                    lambda g=groups, d=direction, m=memory_format: plain(shape, g, m, d),
                )
    for kind, groups in (('depthwise', shape[1]), ('dense', 1)):
        for direction in ('forward', 'forward+backward'):
            yield (
                f'{kind} DCN {direction} / mmcv, contiguous',
                lambda g=groups, d=direction: dcn(shape, g, d),
                lambda g=groups, d=direction: mmcv_dcn(shape, g, d),
            )


def dk(shape, groups, memory_format, direction) -> Callable:
    x, weight = leaves(shape, groups, SCOPE, memory_format)
    offset = offsets(shape, 0.5)
    return call(
        lambda: deform_kernel2d(x, weight, offset, kernel_size=KERNEL, padding=1),
        (x, weight, offset),
        direction,
    )


def plain(shape, groups, memory_format, direction) -> Callable:
    x, weight = leaves(shape, groups, KERNEL, memory_format)
    return call(lambda: F.conv2d(x, weight, padding=1, groups=groups), (x, weight), direction)


def dcn(shape, groups, direction) -> Callable:
    x, weight = leaves(shape, groups, KERNEL, torch.contiguous_format)
    offset = offsets(shape, 2.0)
    return call(
        lambda: deform_kernel2d(x, weight, image_offset=offset, kernel_size=KERNEL, padding=1),
        (x, weight, offset),
        direction,
    )


def mmcv_dcn(shape, groups, direction) -> Callable:
    from mmcv.ops import deform_conv2d

    x, weight = leaves(shape, groups, KERNEL, torch.contiguous_format)
    offset = offsets(shape, 2.0)
    return call(
        lambda: deform_conv2d(x, offset, weight, 1, 1, 1, groups, 1), (x, weight, offset), direction
    )


def leaves(shape, groups, size, memory_format) -> tuple[Tensor, Tensor]:
    channels = shape[1]
    x = torch.randn(shape).contiguous(memory_format=memory_format).requires_grad_()
    weight = torch.randn(channels, channels // groups, size, size)
    if memory_format == torch.channels_last and size == KERNEL:
        weight = weight.contiguous(memory_format=memory_format)  # as channels_last models have it
    return x, weight.requires_grad_()


def offsets(shape, spread) -> Tensor:
    return (spread * torch.randn(shape[0], KERNEL**2 * 2, *shape[2:])).requires_grad_()


def call(operator: Callable, inputs: tuple, direction: str) -> Callable:
    if direction == 'forward':

        def forward():
            with torch.no_grad():
                operator()

        return forward
    grad = torch.randn_like(operator().detach())
    return lambda: torch.autograd.grad(operator(), inputs, grad)


def time_pairs(ours: Callable, peer: Callable, pairs: int) -> list[float]:
    ours(), peer()
    return [seconds(ours) / seconds(peer) for _ in range(pairs)]


def seconds(function: Callable) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def machine(threads: int) -> dict:
    return {
        'mmdk': mmdk.__version__,
        'torch': torch.__version__,
        'python': platform.python_version(),
        'capability': torch.backends.cpu.get_cpu_capability(),
        'threads': threads,
    }


if __name__ == '__main__':
    main()
