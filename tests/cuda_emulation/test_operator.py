"""The CUDA kernels, run by the emulator, against the definition and the CPU's kernels."""

import contextlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdk.ops import deform_kernel2d as on_cpu
from mmdk.ops import reference
from mmdk.ops import sample_kernel as sample_kernel_on_cpu
from tests.cuda_emulation.emulator import deform_kernel2d, emulated, sample_kernel
from tests.ops.cases import CASES, DENSE, DEPTHWISE, EVERYTHING, Case, ids
from tests.ops.test_deform_kernel2d import EXACT, LAYOUTS, check, run
from tests.ops.test_random import arguments, cases, check_rounding, options

pytestmark = pytest.mark.slow

MAIN = [DENSE, DEPTHWISE, EVERYTHING]


def depthwise(name, channels, **fields):
    return Case(name, in_channels=channels, out_channels=channels, groups=channels, **fields)


# Channels that make vectors, blocks of them, and more than one block.
WIDE = [
    depthwise('wide_8', 8, bias=True),
    depthwise('wide_32_dcn', 32, image_offset_groups=1, mask_groups=1, size=(5, 6)),
    depthwise('wide_136', 136, batch=1, size=(3, 5)),
    depthwise(
        'wide_1x1_dcn',
        8,
        kernel=(1, 1),
        scope=(1, 1),
        padding=(0, 0),
        kernel_offset_groups=0,
        image_offset_groups=1,
    ),
    # For half types, warps of channels on tensor cores: one, several, and more taps.
    depthwise('mma_32', 32, size=(5, 7), bias=True),
    depthwise('mma_128', 128, batch=1, size=(4, 5), stride=(2, 1), kernel_offset_groups=2),
    depthwise('mma_kernel_2x3', 160, batch=1, size=(3, 4), kernel=(2, 3), scope=(3, 5)),
    depthwise('mma_1x1', 64, size=(3, 3), kernel=(1, 1), scope=(2, 2), padding=(0, 0)),
    depthwise('wide_offset_groups', 64, kernel_offset_groups=4, size=(4, 5)),
    depthwise('wide_rigid_dcn', 16, kernel_offset_groups=0, scope=(3, 3), image_offset_groups=2),
    depthwise('wide_strided', 24, size=(9, 8), stride=(2, 3), dilation=(2, 1), padding=(2, 0)),
    Case('dense_16', in_channels=16, out_channels=8, bias=True),
    Case('dense_dcn_16', in_channels=16, out_channels=8, image_offset_groups=2, mask_groups=2),
    Case('grouped_32', in_channels=32, out_channels=16, groups=4, kernel_offset_groups=2),
    # One kernel for each image, and images that are deformed besides.
    Case('global_mask', batch=3, per_image=True, mask_groups=1, bias=True),
    Case('global_dcn', batch=3, groups=2, per_image=True, image_offset_groups=1, mask_groups=1),
    depthwise('global_depthwise_dcn', 8, per_image=True, image_offset_groups=1),
    depthwise('global_depthwise_mask', 8, per_image=True, mask_groups=2, bias=True),
]
MATRIX = [*CASES, *WIDE]
_, WIDE_32_DCN, *_ = VECTORS = [
    next(case for case in WIDE if case.name == name)
    for name in ('wide_8', 'wide_32_dcn', 'dense_16', 'wide_1x1_dcn')
]
IN_IMAGE = [case for case in MATRIX if case.image_offset_groups and case.batch]


@contextlib.contextmanager
def deterministic(on=True):
    torch.use_deterministic_algorithms(on)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def guarded(tensors):
    """Copies that the emulator watches, with their strides."""
    return {name: tensor.clone() for name, tensor in tensors.items()}


@pytest.mark.parametrize('seed', [1, 2])
@pytest.mark.parametrize('case', MATRIX, ids=ids(MATRIX))
def test_float64(case, seed):
    with emulated(seed):
        check(case, guarded(case.tensors()), EXACT, deform_kernel2d)


@pytest.mark.parametrize('case', IN_IMAGE, ids=ids(IN_IMAGE))
def test_float64_in_a_fixed_order(case):
    with emulated(), deterministic():
        check(case, guarded(case.tensors()), EXACT, deform_kernel2d)


@pytest.mark.parametrize('case', MATRIX, ids=ids(MATRIX))
def test_equals_the_cpu(case):
    tensors = case.tensors()
    with emulated():
        output, gradients = run(deform_kernel2d, case, guarded(tensors), torch.float64)
    expected, expected_gradients = run(on_cpu, case, tensors, torch.float64)
    torch.testing.assert_close(output, expected, **EXACT)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected_gradients[name], **EXACT)


# Columns of dense calls are in the dtype of the input, as tensor cores want them, and kernels that
# are sampled beforehand as well; what is summed up is in float32.
OF_LARGEST = {torch.float32: 2e-5, torch.float16: 2**-9, torch.bfloat16: 2**-6}


@pytest.mark.parametrize('dtype', OF_LARGEST, ids=str)
@pytest.mark.parametrize('case', MATRIX, ids=ids(MATRIX))
@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last], ids=str)
def test_dtypes(case, dtype, memory_format):
    tensors = case.tensors(dtype=dtype)
    tensors['input'] = tensors['input'].contiguous(memory_format=memory_format)
    sampled_in_place = case.kernel_offset_groups and not case.per_image
    exact = case.groups == case.in_channels == case.out_channels and sampled_in_place
    with emulated():
        check_rounding(
            case, guarded(tensors), deform_kernel2d, 2e-5 if exact else OF_LARGEST[dtype]
        )


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
def test_float32_offsets_beside_half_inputs(dtype):
    tensors = EVERYTHING.tensors(dtype=dtype)
    exact = EVERYTHING.tensors(dtype=torch.float32)
    for name in ('kernel_offset', 'image_offset', 'mask'):
        tensors[name] = exact[name]
    with emulated():
        check_rounding(EVERYTHING, guarded(tensors), deform_kernel2d, OF_LARGEST[dtype])


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('case', [*MAIN, *VECTORS], ids=ids([*MAIN, *VECTORS]))
def test_layouts(case, layout):
    with emulated():
        tensors = {name: LAYOUTS[layout](t) for name, t in guarded(case.tensors()).items()}
        check(case, tensors, EXACT, deform_kernel2d)
        output = deform_kernel2d(**tensors, **case.geometry)
    expected = torch.channels_last if layout == 'channels_last' else torch.contiguous_format
    assert output.is_contiguous(memory_format=expected)


def test_offsets_in_a_column_of_any_stride():
    """The stride of a dimension of size one means nothing."""
    case = Case('column', size=(7, 1), image_offset_groups=1, mask_groups=1)

    def in_a_column(tensor):
        strided = torch.empty(tensor.numel(), dtype=tensor.dtype)
        return strided.as_strided(tensor.shape, (*tensor.stride()[:3], 7))

    with emulated():
        tensors = guarded(case.tensors())
        for name in ('kernel_offset', 'image_offset', 'mask'):
            tensors[name] = in_a_column(tensors[name]).copy_(tensors[name])
        check(case, tensors, EXACT, deform_kernel2d)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize('case', VECTORS, ids=ids(VECTORS))
def test_tensors_that_are_not_aligned_for_vectors(case, dtype):
    def moved(tensor):
        buffer = torch.empty(tensor.numel() + 1, dtype=tensor.dtype)
        channels_last = tensor.dim() == 4
        order = (0, 2, 3, 1) if channels_last else range(tensor.dim())
        view = buffer[1:].view([tensor.shape[i] for i in order])
        view = view.permute(0, 3, 1, 2) if channels_last else view
        return view.copy_(tensor)

    with emulated():
        tensors = {name: moved(tensor) for name, tensor in case.tensors(dtype=dtype).items()}
        assert tensors['input'].data_ptr() % 16
        check_rounding(case, tensors, deform_kernel2d, OF_LARGEST[dtype])


@pytest.mark.parametrize(
    'device',
    [
        {'processors': 1, 'shared_bytes': 64 * 1024, 'capability': 75},
        {'processors': 200, 'shared_bytes': 227 * 1024, 'capability': 90},
    ],
    ids=['small', 'large'],
)
@pytest.mark.parametrize('case', [*MAIN, *VECTORS], ids=ids([*MAIN, *VECTORS]))
def test_devices(case, device):
    with emulated(**device):
        check(case, guarded(case.tensors()), EXACT, deform_kernel2d)


LARGE_SCOPES = [
    depthwise('scope_9', 6, scope=(9, 9), batch=1, size=(4, 3)),
    depthwise('scope_20', 3, scope=(20, 20), batch=1, size=(3, 3)),
    Case('dense_scope_13', scope=(13, 11), in_channels=3, batch=1, size=(3, 3)),
    # More taps than a block plans at a time.
    depthwise('kernel_17', 3, kernel=(17, 17), scope=(18, 18), padding=(8, 8), size=(4, 9)),
    depthwise(
        'kernel_17_dcn',
        2,
        kernel=(17, 17),
        scope=(18, 18),
        padding=(8, 8),
        size=(4, 5),
        batch=1,
        image_offset_groups=1,
    ),
    Case(
        'dense_kernel_17',
        in_channels=2,
        kernel=(17, 17),
        scope=(17, 18),
        padding=(8, 8),
        batch=1,
    ),
]


@pytest.mark.parametrize('case', LARGE_SCOPES, ids=ids(LARGE_SCOPES))
def test_large_scopes_and_kernels(case):
    with emulated():
        check_rounding(case, guarded(case.tensors(dtype=torch.float32)), deform_kernel2d)


# As many outputs at a time as a small cache holds the columns of, or as can be sorted in it.
IN_PARTS = [
    *MAIN,
    Case('dense_in_parts', size=(17, 13), bias=True, stride=(1, 2)),
    Case('global_in_parts', batch=3, size=(17, 9), per_image=True, image_offset_groups=2),
    Case('images_in_parts', batch=9, size=(6, 5), groups=2, image_offset_groups=1),
    depthwise('dcn_in_parts', 6, size=(17, 13), image_offset_groups=3, mask_groups=3),
    depthwise('global_dcn_in_parts', 6, batch=3, per_image=True, image_offset_groups=2),
]


@pytest.mark.parametrize('fixed_order', [False, True])
@pytest.mark.parametrize('case', IN_PARTS, ids=ids(IN_PARTS))
def test_in_parts(case, fixed_order):
    with emulated(cache_bytes=1024), deterministic(fixed_order):
        check(case, guarded(case.tensors()), EXACT, deform_kernel2d)


def strides(tensor):
    """Those that mean something: not of dimensions of size one."""
    return [stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if size > 1]


def test_gradients_have_the_strides_that_shape_inference_says():
    for case in MATRIX:
        if case.batch == 0:
            continue  # clones of empty tensors forget their memory format
        tensors = case.tensors(dtype=torch.float32)
        tensors['input'] = tensors['input'].contiguous(memory_format=torch.channels_last)
        with emulated():
            output, gradients = run(deform_kernel2d, case, guarded(tensors), torch.float32)
        meta = {name: tensor.to('meta') for name, tensor in tensors.items()}
        expected = on_cpu(**meta, **case.geometry)
        assert strides(output) == strides(expected), case.name
        for name, gradient in gradients.items():
            assert strides(gradient) == strides(meta[name]), (case.name, name)


def test_scope_that_no_block_can_hold():
    case = depthwise('too_large', 1, scope=(200, 200), size=(3, 3), batch=1)
    message = r'scope of weight, \(200, 200\).*shared memory.*smaller scope, or the CPU'
    with emulated(), pytest.raises(ValueError, match=message):
        deform_kernel2d(**case.tensors(), **case.geometry)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize('case', MATRIX, ids=ids(MATRIX))
def test_same_bits_in_every_schedule(case, dtype):
    """However threads and blocks take turns; image offsets' input gradients when asked for."""
    tensors = case.tensors(dtype=dtype)
    results = []
    for seed in (1, 2, 3):
        with emulated(seed), deterministic():
            output, gradients = run(deform_kernel2d, case, guarded(tensors), dtype)
            results.append({'output': output, **gradients})
    for result in results[1:]:
        for name, value in result.items():
            assert torch.equal(value, results[0][name]), name


def test_schedules_differ():
    """Otherwise the test before would prove nothing: atomic additions show the order."""
    case = depthwise('many', 4, image_offset_groups=1, size=(9, 9), batch=1)
    gradients = []
    for seed in range(4):
        with emulated(seed):
            tensors = guarded(case.tensors(dtype=torch.float32))
            gradients.append(run(deform_kernel2d, case, tensors, torch.float32)[1]['input'])
    assert not all(torch.equal(gradient, gradients[0]) for gradient in gradients)


@settings(max_examples=60, **options)
@arguments
def test_random(case, layout, spread, seed):
    with emulated(seed):
        tensors = {
            name: LAYOUTS[layout](tensor)
            for name, tensor in guarded(case.tensors(spread, seed=seed)).items()
        }
        check(case, tensors, EXACT, deform_kernel2d)


@settings(max_examples=60, **options)
@given(
    case=cases(),
    layout=st.sampled_from(sorted(LAYOUTS)),
    dtype=st.sampled_from(list(OF_LARGEST)),
    seed=st.integers(0, 2**31),
)
def test_random_dtypes(case, layout, dtype, seed):
    with emulated(seed):
        tensors = {
            name: LAYOUTS[layout](tensor)
            for name, tensor in guarded(case.tensors(dtype=dtype, seed=seed)).items()
        }
        check_rounding(case, tensors, deform_kernel2d, OF_LARGEST[dtype])


@pytest.mark.parametrize('frozen', ['input', 'weight', 'kernel_offset', 'image_offset', 'mask'])
@pytest.mark.parametrize('case', [EVERYTHING, WIDE_32_DCN], ids=ids([EVERYTHING, WIDE_32_DCN]))
def test_only_wanted_gradients(case, frozen):
    with emulated():
        tensors = guarded(case.tensors())
        _, expected = run(deform_kernel2d, case, tensors, torch.float64)
        leaves = {name: t.detach().requires_grad_(name != frozen) for name, t in tensors.items()}
        output = deform_kernel2d(**leaves, **case.geometry)
        generator = torch.Generator().manual_seed(1)
        output.backward(torch.randn(output.shape, generator=generator, dtype=torch.float64))
    for name, leaf in leaves.items():
        if name != frozen:
            torch.testing.assert_close(leaf.grad, expected[name], **EXACT)


@pytest.mark.parametrize('bad', [float('nan'), float('inf'), -float('inf')])
@pytest.mark.parametrize('name', ['kernel_offset', 'image_offset'])
@pytest.mark.parametrize('fixed_order', [False, True])
def test_offsets_that_are_not_finite_contribute_zero(name, bad, fixed_order):
    tensors = EVERYTHING.tensors()
    far = {**tensors, name: tensors[name].clone()}
    tensors[name][:, ::3] = bad
    far[name][:, ::3] = 1e6
    with emulated(), deterministic(fixed_order):
        results = [
            run(deform_kernel2d, EVERYTHING, guarded(t), torch.float64) for t in (tensors, far)
        ]
    torch.testing.assert_close(results[0][0], results[1][0], rtol=0, atol=0)
    for key, gradient in results[0][1].items():
        assert gradient.isfinite().all(), key
        torch.testing.assert_close(gradient, results[1][1][key], **EXACT)


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize('scope, kernel', [((4, 4), (3, 3)), ((5, 2), (2, 2)), ((3, 3), (3, 3))])
def test_sample_kernel(scope, kernel, dtype):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(5, 7, *scope, generator=generator, dtype=torch.float64).to(dtype)
    offset = 1.5 * torch.randn(3, kernel[0] * kernel[1] * 2, generator=generator)
    grad = torch.randn(3, 5, 7, *kernel, generator=generator, dtype=torch.float64).to(dtype)

    def gradients(operator, exact=False):
        leaves = [weight.clone(), offset.to(dtype, copy=True)]
        leaves = [(t.double() if exact else t).requires_grad_() for t in leaves]
        kernels = operator(*leaves, kernel)
        return [kernels, *torch.autograd.grad(kernels, leaves, grad.to(kernels.dtype, copy=True))]

    with emulated():
        ours = gradients(sample_kernel)
    tolerance = EXACT if dtype == torch.float64 else {'rtol': torch.finfo(dtype).eps, 'atol': 2e-5}
    for result, expected in zip(ours, gradients(reference.sample_kernel, True), strict=True):
        assert result.dtype == dtype
        torch.testing.assert_close(result.double(), expected, **tolerance)
    for result, expected in zip(ours, gradients(sample_kernel_on_cpu), strict=True):
        torch.testing.assert_close(result, expected, **tolerance)


def test_empty_batch_of_sample_kernel():
    with emulated():
        weight, offset = torch.randn(2, 3, 4, 4, requires_grad=True), torch.zeros(0, 18)
        kernels = sample_kernel(weight, offset, 3)
        kernels.sum().backward()
    assert kernels.shape == (0, 2, 3, 3, 3)
    assert torch.equal(weight.grad, torch.zeros_like(weight))
