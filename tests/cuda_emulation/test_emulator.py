"""The emulator: kernels that are correct run as they should, planted errors are named."""

import re
import subprocess
import sys

import pytest
import torch

from tests.cuda_emulation.emulator import HERE, ROOT, counters, counting, emulated

pytestmark = pytest.mark.slow

ops = torch.ops.mmdk_emulation
SEEDS = range(12)


def random(*shape, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator).to(dtype)


def in_all_schedules(operator, *tensors):
    """The result, the same bits whoever goes first."""
    results = []
    for seed in SEEDS:
        with emulated(seed):
            results.append(operator(*(tensor.clone() for tensor in tensors)))
    assert all(torch.equal(result, results[0]) for result in results)
    return results[0]


def test_sum_blocks():
    data = random(5 * 128)
    torch.testing.assert_close(in_all_schedules(ops.sum_blocks, data), data.view(5, 128).sum(1))


def test_vote():
    data = random(96)
    votes, firsts = (in_all_schedules(lambda t, i=i: ops.vote(t)[i], data) for i in (0, 1))
    bits = (data.view(3, 32) < 0) * 2 ** torch.arange(32)
    assert torch.equal(votes, bits.sum(1).to(torch.int32))
    assert torch.equal(firsts, data[::16].repeat_interleave(16))


def test_atomics():
    values = torch.randint(7, (1000,), generator=torch.Generator().manual_seed(0)).int()
    counts = in_all_schedules(lambda t: ops.count_values(t, 7), values)
    assert torch.equal(counts, values.bincount(minlength=7).int())


def test_order_within_warps():
    data = random(96)
    rotated = in_all_schedules(ops.rotate_in_warps, data)
    assert torch.equal(rotated, data.view(3, 32).roll(-3, 1).flatten())


def test_asynchronous_copies():
    data = random(5, 64)
    assert torch.equal(in_all_schedules(ops.reverse_parts, data), data.flip(1))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
def test_mma(dtype):
    a, b = random(16, 16, dtype=dtype), random(16, 24, dtype=dtype)[:, 8:16].contiguous()
    product = in_all_schedules(ops.multiply, a, b)
    torch.testing.assert_close(product.double(), a.double() @ b.double(), rtol=1e-5, atol=1e-5)


SOURCE = HERE.joinpath('planted.cu').read_text().splitlines()


def lines_of(name):
    """The lines of a kernel at which its error may be reported."""
    first = next(i for i, line in enumerate(SOURCE) if f' {name}(' in line)
    last = SOURCE.index('}', first)
    return [i + 1 for i in range(first, last) if '// error' in SOURCE[i]]


ANY = r'\(\d+, 0, 0\)'
RACE = 'race in {} memory: a {}, not ordered after a {} by thread number {} of block number 0'
PLANTED = {
    'missing_barrier': (RACE.format('shared', '(read|write)', '(read|write)', r'\d+'), ANY),
    'warps_without_barrier': (RACE.format('shared', '(read|write)', '(read|write)', r'\d+'), ANY),
    'halves_of_a_warp': (
        RACE.format('shared', '(read|write)', '(read|write)', '(0|16)'),
        r'\((0|16), 0, 0\)',
    ),
    'global_race': (RACE.format('global', '(read|write)', '(read|write)', r'\d+'), ANY),
    'race_of_readers': (RACE.format('global', '(read|write)', '(read|write)', r'\d+'), ANY),
    'read_and_atomic_addition': (
        'race in global memory: (a read, not ordered after an atomic addition|an atomic addition, '
        'not ordered after a read)',
        ANY,
    ),
    'write_of_two_blocks': (
        'race in global memory: a write, not ordered after a write by thread number 3 of block '
        'number [01]',
        r'\(3, 0, 0\)',
    ),
    'read_and_write_of_two_blocks': ('race in global memory: a (read|write), not ordered', ANY),
    'read_past_end': (
        "global memory out of bounds: read of 4 bytes at 256 of the nearest tensor's 256 bytes",
        r'\(63, 0, 0\)',
    ),
    'write_past_end': (
        "global memory out of bounds: write of 4 bytes at 256 of the nearest tensor's 256 bytes",
        r'\(63, 0, 0\)',
    ),
    'read_before_start': (
        "global memory out of bounds: read of 4 bytes at -4 of the nearest tensor's 256 bytes",
        r'\(0, 0, 0\)',
    ),
    'write_before_start': (
        "global memory out of bounds: write of 4 bytes at -4 of the nearest tensor's 256 bytes",
        r'\(0, 0, 0\)',
    ),
    'atomic_addition_past_end': ('global memory out of bounds: write of 4 bytes at 256', ANY),
    'shared_past_end': ('shared memory out of bounds: write of 4 bytes at 256 of 256', ANY),
    'shared_before_start': ('shared memory out of bounds: read of 4 bytes at -4 of 256', ANY),
    'uninitialised_shared': (
        'read of uninitialised shared memory: 4 bytes at 68',
        r'\(17, 0, 0\)',
    ),
    'barrier_after_return': (r'divergent barrier: thread \(5, 0, 0\) has returned', ANY),
    'two_barriers': (
        r'divergent barrier: thread \((3[2-9]|[456]\d), 0, 0\) waits at another, at '
        r'planted.cu:\d+',
        r'\(([012]?\d|3[01]), 0, 0\)',
    ),
    'lane_that_does_not_come': (
        'deadlock: lanes of the warp do not come, of the lanes 0xffffffff only 0x7fffffff have',
        ANY,
    ),
    'different_lanes': (
        'deadlock: lanes of the warp do not come, of the lanes 0xffffffff only 0xffffff00 have',
        ANY,
    ),
    'misaligned_vector': (
        'misaligned access of 16 bytes, at an address that is 8 beyond a multiple of it',
        ANY,
    ),
    'misaligned_shared_vector': ('misaligned access of 8 bytes', ANY),
    'lane_outside_the_mask': ('a lane reads from lane 16, which is none of 0xffff', ANY),
    'mask_without_the_lane': (
        'a lane meets its warp for lanes without itself, 0xfffffffe',
        r'\((0|32), 0, 0\)',
    ),
    'lanes_that_are_none': ('a warp of 16 threads is to meet for the lanes 0xffffffff', ANY),
    'copy_that_has_not_landed': (
        'read of shared memory before an asynchronous copy to it has landed: 4 bytes at',
        ANY,
    ),
    'copy_of_another_thread': (
        'race in shared memory|before an asynchronous copy|read of uninitialised shared memory',
        ANY,
    ),
}


@pytest.mark.parametrize('name', PLANTED)
def test_planted_error_is_named(name):
    what, thread = PLANTED[name]
    for seed in range(3):
        with emulated(seed):
            data = torch.zeros(64)
            with pytest.raises(RuntimeError) as error:
                getattr(ops, name)(data)
            # What has failed leaves nothing behind.
            ops.nothing(data)
            assert ops.sum_blocks(torch.ones(128)).item() == 128
        lines = '|'.join(map(str, lines_of(name)))
        kernel = rf'in [\w:]*(\(anonymous namespace\)::)?{name}'
        pattern = (
            rf'emulation: ({what}).*; {kernel}, block \([01], 0, 0\), thread {thread}, '
            rf'at planted\.cu:({lines})\b'
        )
        assert re.match(pattern, str(error.value)), f'{error.value}\n{pattern}'


def test_races_are_not_looked_for_unless_wanted():
    with emulated():
        data = torch.zeros(64)
        ops.watch_for_races(False)
        try:
            ops.missing_barrier(data)
        finally:
            ops.watch_for_races(True)
        with pytest.raises(RuntimeError, match='race in shared memory'):
            ops.missing_barrier(data)


@pytest.mark.parametrize(
    'blocks, threads, shared_bytes, expected',
    [
        (0, 64, 0, 'with 0 blocks of 64 threads, expected at least one block of 1 to 1024'),
        (1, 0, 0, 'with 1 blocks of 0 threads'),
        (1, 1025, 0, 'with 1 blocks of 1025 threads'),
        (1, 64, 48 * 1024 + 16, 'with 49168 bytes of shared memory, expected at most 49152'),
    ],
)
def test_launches_that_cannot_be(blocks, threads, shared_bytes, expected):
    with emulated():
        with pytest.raises(RuntimeError, match=f'nothing is launched {expected}'):
            ops.launch_as_it_is(blocks, threads, shared_bytes)
        ops.launch_as_it_is(1, 1024, 48 * 1024)


@pytest.mark.parametrize('shared_bytes', [64 * 1024, 99 * 1024])
def test_more_shared_memory_than_the_device_has(shared_bytes):
    """launch() asks the driver for what exceeds 48 KiB, 32 words for each step of the stride."""
    fits = shared_bytes // 128
    with emulated(shared_bytes=shared_bytes):
        ops.read_shared(1, fits)
        with pytest.raises(
            RuntimeError, match=f'read_shared<1> is launched with .* {shared_bytes}:'
        ):
            ops.read_shared(1, fits + 1)


@pytest.mark.parametrize('name', ['raw_write', 'stack_overflow'])
def test_access_outside_all_memory_ends_the_process(name):
    code = (
        'import torch; from tests.cuda_emulation import emulator; emulator.load()\n'
        f'with emulator.emulated(): torch.ops.mmdk_emulation.{name}(torch.zeros(64))'
    )
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode < 0
    lines = '|'.join(map(str, lines_of(name)))
    pattern = (
        rf'emulation: access outside all memory; in .*{name}, block \(0, 0, 0\), '
        rf'thread {ANY}, at planted\.cu:({lines})\n'
    )
    assert re.search(pattern, result.stderr), f'{result.stderr}\n{pattern}'


def counted(operator, *arguments, l2_bytes=4 << 20):
    with emulated(), counting(l2_bytes):
        operator(*(a.clone() if isinstance(a, torch.Tensor) else a for a in arguments))
    (result,) = counters().values()
    return result


@pytest.mark.parametrize(
    'width, stride, sectors', [(1, 1, 4), (1, 2, 8), (1, 8, 32), (4, 4, 16), (4, 8, 32)]
)
def test_sectors(width, stride, sectors):
    count = counted(ops.read_all, torch.zeros(32 * stride), width, stride, 1, 1)
    assert (count['launches'], count['blocks'], count['threads']) == (1, 1, 32)
    assert count['global_loads'] == 1
    assert count['sectors_loaded'] == count['l2_loads'] == count['dram_loads'] == sectors


@pytest.mark.parametrize('l2_bytes, dram_loads', [(4 << 20, 16), (256, 48)])
def test_caches(l2_bytes, dram_loads):
    """Three blocks read the same 16 sectors, each twice."""
    count = counted(ops.read_all, torch.zeros(128), 1, 1, 2, 3, l2_bytes=l2_bytes)
    assert count['global_loads'] == 4 * 2 * 3
    assert count['sectors_loaded'] == 16 * 2 * 3
    assert count['l2_loads'] == 16 * 3
    assert count['dram_loads'] == dram_loads


@pytest.mark.parametrize(
    'width, stride, wavefronts',
    [(1, 1, 1), (1, 2, 2), (1, 3, 1), (1, 32, 32), (4, 4, 4), (4, 8, 8)],
)
def test_bank_conflicts(width, stride, wavefronts):
    count = counted(ops.read_shared, width, stride)
    assert (count['shared_loads'], count['shared_stores']) == (1, stride)
    assert count['shared_wavefronts'] == stride + wavefronts
    assert count['barriers'] == 1


def test_barriers_and_exchanges():
    """Two blocks of four warps: five exchanges each, and two of the first warp."""
    count = counted(ops.sum_blocks, torch.zeros(256))
    assert count['threads'] == 256
    assert count['barriers'] == 2
    assert count['exchanges'] == 2 * (4 * 5 + 2)
    assert (count['global_loads'], count['global_stores']) == (2 * 4, 2)
    assert (count['shared_loads'], count['shared_stores']) == (2, 2 * 4)
    assert (count['dram_loads'], count['dram_stores']) == (32, 1)


def test_atomics_are_made_in_l2():
    """Four warps, the last of which is not full; all counts are in one sector."""
    count = counted(lambda values: ops.count_values(values, 8), torch.zeros(100).int())
    assert count['global_atomics'] == 4
    assert count['sectors_stored'] == count['l2_stores'] == 4
    assert count['dram_stores'] == 1


def test_mma_is_counted():
    count = counted(ops.multiply, torch.zeros(16, 16).half(), torch.zeros(16, 8).half())
    assert (count['mmas'], count['exchanges']) == (1, 0)


def test_asynchronous_copies_are_counted():
    count = counted(ops.reverse_parts, torch.zeros(3, 64))
    assert count['global_loads'] == count['shared_stores'] == count['shared_loads'] == 3 * 2
    assert count['shared_wavefronts'] == 2 * 3 * 2
    assert count['dram_loads'] == count['dram_stores'] == 3 * 64 * 4 // 32


def test_failed_launch_is_not_counted():
    with emulated(), counting():
        with pytest.raises(RuntimeError, match='out of bounds'):
            ops.read_past_end(torch.zeros(64))
        ops.nothing(torch.zeros(64))
    assert sum(count['global_loads'] for count in counters().values()) == 0
