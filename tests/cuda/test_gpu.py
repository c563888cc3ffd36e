"""The operators and layers on a GPU: the same numbers as on the CPU.

`MMDK_TEST_DEVICE=cpu pytest tests/cuda` runs most of it on the CPU, which proves the tests.
"""

import importlib.util

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.cuda import checks
from tests.cuda.gpu import DEVICE, IS_GPU, only_on_a_gpu, skip_without_gpu
from tests.cuda.models import detector_trains, why_no_model
from tests.cuda_emulation.test_operator import IN_IMAGE, LARGE_SCOPES, MATRIX, WIDE
from tests.ops.cases import DENSE, DEPTHWISE, EVERYTHING, Case, ids
from tests.ops.test_deform_kernel2d import LAYOUTS
from tests.ops.test_dispatcher import SOME
from tests.ops.test_gradients import SMALL
from tests.ops.test_random import arguments, cases, options

skip_without_gpu()

MAIN = [DENSE, DEPTHWISE, EVERYTHING]
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
HALVES = [torch.float16, torch.bfloat16]
FORMATS = ['contiguous', 'channels_last']


def each(name, values, of=str):
    return pytest.mark.parametrize(name, values, ids=of)


def each_case(cases):
    return pytest.mark.parametrize('case', cases, ids=ids(cases))


@each('layout', FORMATS)
@each('dtype', DTYPES)
@each_case(MATRIX)
def test_matrix(case, dtype, layout):
    checks.agrees_with_the_cpu(case, DEVICE, dtype, layout)


@each('layout', FORMATS)
@each('dtype', DTYPES)
@each_case(MATRIX)
def test_matrix_in_a_fixed_order(case, dtype, layout):
    """In deterministic mode, in which memory that nobody wrote is NaN."""
    with checks.deterministic():
        checks.agrees_with_the_cpu(case, DEVICE, dtype, layout)


@each('layout', FORMATS)
@each('dtype', [torch.float32, torch.float16])
@each_case(checks.LARGE)
def test_as_large_as_in_a_detector(case, dtype, layout):
    checks.agrees_with_the_cpu(case, DEVICE, dtype, layout)


@each('layout', LAYOUTS)
@each_case([*MAIN, *WIDE[:2]])
def test_layouts(case, layout):
    checks.agrees_with_the_cpu(case, DEVICE, layout=layout)


@each('spread', [0.2, 20.0])
@each_case(MAIN)
def test_offsets_near_and_far(case, spread):
    checks.agrees_with_the_cpu(case, DEVICE, spread=spread)


@each_case(LARGE_SCOPES)
def test_large_scopes_and_kernels(case):
    checks.agrees_with_the_cpu(case, DEVICE, torch.float32)


@settings(max_examples=200, **options)
@arguments
def test_random(case, layout, spread, seed):
    checks.agrees_with_the_cpu(case, DEVICE, layout=layout, spread=spread, seed=seed)


@settings(max_examples=200, **options)
@given(
    case=cases(),
    layout=st.sampled_from(sorted(LAYOUTS)),
    dtype=st.sampled_from(DTYPES[1:]),
    seed=st.integers(0, 2**31),
)
def test_random_dtypes(case, layout, dtype, seed):
    checks.agrees_with_the_cpu(case, DEVICE, dtype, layout, seed=seed)


@each('dtype', HALVES)
@each_case([EVERYTHING, DEPTHWISE, WIDE[1]])
def test_float32_offsets_beside_half_inputs(case, dtype):
    checks.float32_offsets_beside_halves(case, DEVICE, dtype)


@each('dtype', [torch.float32, torch.float16])
@each_case([WIDE[0], WIDE[1], WIDE[6]])
def test_tensors_that_are_not_aligned_for_vectors(case, dtype):
    checks.unaligned_tensors(case, DEVICE, dtype)


@each('bad', [float('nan'), float('inf'), -float('inf'), 1e30])
@each('name', ['kernel_offset', 'image_offset'])
@each('fixed_order', [False, True])
def test_offsets_that_are_not_finite_contribute_zero(name, bad, fixed_order):
    with checks.deterministic(fixed_order):
        checks.offsets_that_are_not_finite(EVERYTHING, DEVICE, name, bad)


@each('frozen', ['input', 'weight', 'kernel_offset', 'image_offset', 'mask'])
@each_case([EVERYTHING, WIDE[1]])
def test_only_wanted_gradients(case, frozen):
    checks.only_wanted_gradients(case, DEVICE, frozen)


def test_half_accumulates_in_float32():
    """4096 products of 1/64: in half precision the sum would stop growing early."""
    x = torch.full((1, 4096, 1, 2), 1 / 64, dtype=torch.float16, device=DEVICE)
    weight = torch.ones(1, 4096, 1, 1, dtype=torch.float16, device=DEVICE)
    offset = torch.zeros(1, 2, 1, 2, dtype=torch.float16, device=DEVICE)
    assert checks.deform_kernel2d(x, weight, offset, kernel_size=1).tolist() == [[[[64.0, 64.0]]]]


# Enough for blocks to take turns in many ways.
REPEATED = [
    Case('dense', in_channels=64, out_channels=32, size=(50, 60)),
    Case('depthwise', in_channels=64, out_channels=64, groups=64, size=(50, 60), bias=True),
    Case('dcn', in_channels=64, out_channels=32, size=(50, 60), image_offset_groups=2),
    Case(
        'depthwise_dcn',
        in_channels=64,
        out_channels=64,
        groups=64,
        size=(50, 60),
        image_offset_groups=1,
        mask_groups=1,
    ),
]


@each('dtype', [torch.float32, torch.float16])
@each_case(REPEATED)
def test_same_bits_every_time(case, dtype):
    """But for the input's gradient with image offsets, which is summed up as it comes."""
    names = {'output', *case.tensors()} - ({'input'} if case.image_offset_groups else set())
    checks.same_bits(case, DEVICE, dtype, names)


@each('dtype', [torch.float32, torch.float16])
@each_case([*REPEATED, *IN_IMAGE])
def test_same_bits_in_deterministic_mode(case, dtype):
    with checks.deterministic():
        checks.same_bits(case, DEVICE, dtype)


@each('offset_dtype', [torch.float32, 'same'])
@each('dtype', HALVES)
def test_autocast(dtype, offset_dtype):
    chosen = dtype if offset_dtype == 'same' else offset_dtype
    checks.autocast_casts(EVERYTHING, DEVICE, dtype, chosen)


BACKENDS = ['aot_eager'] + ['inductor'] * bool(IS_GPU and importlib.util.find_spec('triton'))


@each('backend', BACKENDS)
@each_case(MAIN)
def test_compiles_whole(case, backend):
    checks.compiles(case, DEVICE, backend)


@pytest.mark.skipif(not hasattr(torch.library, 'opcheck'), reason='this PyTorch has no opcheck')
@each_case(SOME)
def test_opcheck(case):
    checks.passes_opcheck(case, DEVICE)


@each_case(SMALL)
def test_gradients_are_derivatives(case):
    checks.gradients_are_derivatives(case, DEVICE)


@each('dtype', DTYPES)
@pytest.mark.parametrize('scope, kernel', [((4, 4), (3, 3)), ((5, 2), (2, 2)), ((3, 3), (3, 3))])
def test_sample_kernel(scope, kernel, dtype):
    checks.sample_kernel_agrees_with_the_cpu(scope, kernel, DEVICE, dtype)


@each('dtype', HALVES)
def test_sample_kernel_with_float32_offsets(dtype):
    checks.sample_kernel_agrees_with_the_cpu((4, 4), (3, 3), DEVICE, dtype, torch.float32)


LARGE = (1, 2, 2**15 + 1, 2**15)  # 2**31 + 2**16 numbers, 4 GiB
# Inputs, gradients and, dense, copies of both and sums in float32.
GIBIBYTES = {2: 20, 1: 40}


@only_on_a_gpu
@each('check', [checks.positions_beyond_int32, checks.outputs_beyond_int32], lambda c: c.__name__)
@each('layout', FORMATS)
@each('groups', [1, 2])
def test_more_numbers_than_int32_counts(check, groups, layout):
    torch.cuda.empty_cache()
    free, needed = torch.cuda.mem_get_info(DEVICE)[0] / 2**30, GIBIBYTES[groups]
    if free < needed:
        pytest.skip(f'{free:.0f} GiB of GPU memory are free, needed: {needed}')
    check(DEVICE, groups, layout, LARGE)
    torch.cuda.empty_cache()


@pytest.mark.parametrize(
    'options',
    [{}, {'groups': 8}, {'groups': 2, 'offset_groups': 4}, {'offset_clip': 'scope'}],
    ids=str,
)
def test_layer(options):
    checks.layer_follows_its_device(DEVICE, **options)


@pytest.mark.skipif(not hasattr(torch.amp, 'GradScaler'), reason='this PyTorch has no such scaler')
@each('channels_last', [False, True])
@each('dtype', HALVES)
def test_mixed_precision(dtype, channels_last):
    checks.network_trains_in_mixed_precision(DEVICE, dtype, channels_last)


# MMEngine has mixed precision on a GPU alone.
@each('mixed_precision', [False, True] if IS_GPU else [False])
def test_detector(mixed_precision):
    reason = why_no_model(DEVICE)
    if reason:
        pytest.skip(reason)
    detector_trains(DEVICE, mixed_precision)
