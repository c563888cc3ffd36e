"""The compiled operator against the definition in float64: values and every gradient."""

import pytest
import torch

from mmdk.ops import deform_kernel2d, reference
from tests.ops.cases import CASES, DENSE, DEPTHWISE, EVERYTHING, Case, ids

MAIN = [DENSE, DEPTHWISE, EVERYTHING]

# Sums of a few hundred float64 products.
EXACT = {'rtol': 1e-11, 'atol': 1e-11}


def grad_of(output, dtype):
    """A fixed gradient of an output, rounded to `dtype`."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(output.shape, generator=generator, dtype=torch.float64).to(dtype)


def run(operator, case, tensors, dtype):
    """Output, and gradients by argument name, the output's gradient having `dtype`'s accuracy."""
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in tensors.items()}
    output = operator(**leaves, **case.geometry)
    grad_output = grad_of(output, dtype)
    gradients = torch.autograd.grad(output, list(leaves.values()), grad_output.to(output))
    return output.detach(), dict(zip(leaves, gradients, strict=True))


def check(case, tensors, tolerance, operator=deform_kernel2d):
    dtype = tensors['input'].dtype
    output, gradients = run(operator, case, tensors, dtype)
    exact = {name: tensor.double() for name, tensor in tensors.items()}
    expected, expected_gradients = run(reference.deform_kernel2d, case, exact, dtype)
    torch.testing.assert_close(output.double(), expected, **tolerance)
    for name, gradient in gradients.items():
        assert gradient.dtype == tensors[name].dtype, name
        assert gradient.shape == tensors[name].shape, name
        torch.testing.assert_close(
            gradient.double(),
            expected_gradients[name],
            **tolerance,
            msg=lambda message, name=name: f'{name}: {message}',
        )


@pytest.mark.parametrize('case', CASES, ids=ids(CASES))
def test_float64(case):
    check(case, case.tensors(), EXACT)


@pytest.mark.parametrize('spread', [0.2, 20.0])
@pytest.mark.parametrize('case', MAIN, ids=ids(MAIN))
def test_offsets_near_and_far(case, spread):
    check(case, case.tensors(spread), EXACT)


LAYOUTS = {
    'contiguous': lambda x: x,
    'channels_last': lambda x: (
        x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x
    ),
    'sliced': lambda x: torch.stack([x, x + 1], -1)[..., 0],
    'expanded': lambda x: x[..., :1].expand_as(x),
    'transposed': lambda x: (
        x.transpose(-1, -2).contiguous().transpose(-1, -2) if x.dim() == 4 else x
    ),
}


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('case', MAIN, ids=ids(MAIN))
def test_layouts(case, layout):
    tensors = {name: LAYOUTS[layout](tensor) for name, tensor in case.tensors().items()}
    check(case, tensors, EXACT)
    output, gradients = run(deform_kernel2d, case, tensors, tensors['input'].dtype)
    expected = torch.channels_last if layout == 'channels_last' else torch.contiguous_format
    assert output.is_contiguous(memory_format=expected)
    assert gradients['input'].is_contiguous(memory_format=expected)


# Accumulation in float32, then one rounding of the result.
TOLERANCE = {
    torch.float32: {'rtol': 1e-5, 'atol': 2e-5},
    torch.float16: {'rtol': 2**-11, 'atol': 2e-5},
    torch.bfloat16: {'rtol': 2**-8, 'atol': 2e-5},
}


@pytest.mark.parametrize('dtype', TOLERANCE, ids=str)
@pytest.mark.parametrize('case', MAIN, ids=ids(MAIN))
def test_dtypes(case, dtype):
    tensors = case.tensors(dtype=dtype)
    check(case, tensors, TOLERANCE[dtype])
    assert deform_kernel2d(**tensors, **case.geometry).dtype == dtype


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
def test_float32_offsets_beside_half_inputs(dtype):
    tensors = EVERYTHING.tensors(dtype=dtype)
    exact = EVERYTHING.tensors(dtype=torch.float32)
    for name in ('kernel_offset', 'image_offset', 'mask'):
        tensors[name] = exact[name]
    check(EVERYTHING, tensors, TOLERANCE[dtype])


def test_half_accumulates_in_float32():
    """4096 products of 1/64: in half precision the sum would stop growing early."""
    x = torch.full((1, 4096, 1, 1), 1 / 64, dtype=torch.float16)
    weight = torch.ones(1, 4096, 1, 1, dtype=torch.float16)
    assert deform_kernel2d(x, weight, kernel_size=1).item() == 64.0


@pytest.mark.parametrize(
    'frozen', ['input', 'weight', 'kernel_offset', 'image_offset', 'mask', 'bias']
)
def test_only_wanted_gradients(frozen):
    """Any one gradient may be missing without changing the others."""
    tensors = EVERYTHING.tensors()
    _, all_gradients = run(deform_kernel2d, EVERYTHING, tensors, torch.float64)
    leaves = {name: t.detach().requires_grad_(name != frozen) for name, t in tensors.items()}
    output = deform_kernel2d(**leaves, **EVERYTHING.geometry)
    output.backward(grad_of(output, torch.float64))
    assert leaves[frozen].grad is None
    for name, leaf in leaves.items():
        if name != frozen:
            torch.testing.assert_close(leaf.grad, all_gradients[name], **EXACT)


THREADED = [
    *MAIN,
    # One task each, long sums: the matrix products must not be shared out to threads either.
    Case('one_tile', batch=1, in_channels=256, out_channels=18, size=(6, 6)),
    Case('one_band', batch=1, in_channels=1024, out_channels=8, size=(3, 3)),
    Case(
        'one_band_dcn',
        batch=1,
        in_channels=512,
        out_channels=8,
        size=(3, 3),
        image_offset_groups=1,
        mask_groups=1,
    ),
    Case('one_output_channel', in_channels=2, out_channels=1, size=(150, 150), bias=True),
    # Bands as low as their reach allows, several of each parity.
    Case(
        'narrow_bands', size=(33, 4), kernel=(5, 1), scope=(6, 1), padding=(6, 0), dilation=(3, 1)
    ),
]


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize('case', THREADED, ids=ids(THREADED))
def test_same_bits_for_any_number_of_threads(case, dtype):
    tensors = case.tensors(dtype=dtype)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 8):
            torch.set_num_threads(count)
            results.append(run(deform_kernel2d, case, tensors, dtype))
    finally:
        torch.set_num_threads(threads)
    for output, gradients in results[1:]:
        assert torch.equal(output, results[0][0])
        for name, gradient in gradients.items():
            assert torch.equal(gradient, results[0][1][name]), name


def test_an_images_result_does_not_depend_on_the_batch_it_is_in():
    case = EVERYTHING
    tensors = case.tensors()
    whole = deform_kernel2d(**tensors, **case.geometry)
    per_image = [
        deform_kernel2d(
            **{k: v if k in ('weight', 'bias') else v[n : n + 1] for k, v in tensors.items()},
            **case.geometry,
        )
        for n in range(case.batch)
    ]
    assert torch.equal(whole, torch.cat(per_image))


def test_pixels_that_float32_cannot_number():
    x = torch.zeros(1, 1, 1, 2**24 + 4)
    x[..., -4:] = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert torch.equal(deform_kernel2d(x, torch.ones(1, 1, 1, 1), kernel_size=1), x)
