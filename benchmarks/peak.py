"""Peak memory of a call, counted by the kernel: the pages that the process holds.

Not by PyTorch's profiler, which sees what goes through PyTorch's allocator only. A kernel's own
std::vector, the buffers of oneDNN and MKL and whatever threads allocate count here as well. What is
reserved but never written does not: it takes no memory. Linux and glibc.
"""

import ctypes
import multiprocessing
import re
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

M_MMAP_THRESHOLD = -3  # malloc.h
SMALL = 64 << 10


def in_fresh_process(function: Callable, *args):
    """function(*args) in a process that has computed nothing yet, so that nothing is cached."""
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['benchmarks.cases'])  # imported once, not once a process
    with ProcessPoolExecutor(1, context, prepare, (torch.get_num_threads(),)) as pool:
        return pool.submit(function, *args).result()


def prepare(threads: int) -> None:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    # Blocks larger than this go back to the system when they are freed. glibc would keep ever
    # larger ones, and a later call would find memory there that counts for nothing.
    ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, SMALL)


def peak_growth(call: Callable) -> tuple[int, object]:
    """By how many bytes the process grew while `call` ran, at most, and what `call` returned."""
    ctypes.CDLL(None).malloc_trim(0)
    Path('/proc/self/clear_refs').write_text('5')  # the peak is counted from here on
    before = resident('VmRSS')
    result = call()
    return resident('VmHWM') - before, result


def resident(field: str) -> int:
    status = Path('/proc/self/status').read_text()
    return int(re.search(rf'{field}:\s*(\d+) kB', status)[1]) << 10
