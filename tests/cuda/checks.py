"""What the tests in this folder assert, for any device and any operator in the place of ours.

The expected numbers are those of the CPU's operator in float64 on the same, rounded, arguments.
"""

import contextlib
import dataclasses
import functools
import os

import torch
from torch import nn

from mmdk.layers import DeformKernel2d
from mmdk.ops import deform_kernel2d, sample_kernel
from tests.ops.cases import Case
from tests.ops.test_deform_kernel2d import LAYOUTS, run
from tests.ops.test_dispatcher import positional
from tests.ops.test_gradients import smooth_tensors

OFFSETS = ('kernel_offset', 'image_offset', 'mask')


# Without it PyTorch refuses to call cuBLAS in deterministic mode. Read when cuBLAS is first called.
os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')


@contextlib.contextmanager
def deterministic(on=True, poisoned=True):
    """Repeatable results; if poisoned, what is allocated and not written is NaN."""
    options = torch.utils.deterministic
    before = options.fill_uninitialized_memory
    torch.use_deterministic_algorithms(on)
    options.fill_uninitialized_memory = poisoned
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
        options.fill_uninitialized_memory = before


def is_convolution(case):
    """Nothing is deformed but, at most, one kernel for each image: cuDNN computes it."""
    per_position = case.kernel_offset_groups and not case.per_image
    return not (per_position or case.image_offset_groups or case.mask_groups)


def is_depthwise(case):
    return case.groups == case.in_channels == case.out_channels


# Sums of ours, of a few hundred products, in float64; those that cuBLAS and cuDNN form of up to
# some thousands, whose order and way, such as Winograd's, are theirs.
OURS, THEIRS = 1e-11, 1e-10
# Of the largest result, as sums cancel. Kernels sampled beforehand, and columns of dense calls, are
# in the dtype of the input, which tensor cores want; depthwise kernels sampled in place are not.
OF_LARGEST = {torch.float32: 2e-5, torch.float16: 2**-9, torch.bfloat16: 2**-6}


def assert_close(results, expected, case, dtype):
    """Results by name, of a call whose exact results are expected."""
    assert results.keys() == expected.keys()
    own = is_depthwise(case) and not is_convolution(case)
    exact = own and case.kernel_offset_groups and not case.per_image
    for name, result in results.items():
        exactly = expected[name]
        assert result.shape == exactly.shape, name
        assert result.dtype == dtype or name in OFFSETS, name
        if dtype == torch.float64:
            limit = (OURS if own else THEIRS) * (1 + exactly.abs())
        else:
            of_largest = 2e-5 if exact else OF_LARGEST[dtype]
            largest = exactly.abs().max().clamp(min=1) if exactly.numel() else 0
            limit = torch.finfo(result.dtype).eps * exactly.abs() + of_largest * largest
        error = (result.double().cpu() - exactly).abs()
        wrong = ~(error <= limit)  # NaN too
        assert not wrong.any(), (
            f'{name}: {wrong.sum()} of {wrong.numel()} numbers are wrong, the first at '
            f'{wrong.nonzero()[0].tolist()}; largest error {error.max()}, largest number '
            f'{exactly.abs().max()}'
        )


def results_of(operator, case, tensors):
    """The output and every gradient, by name."""
    output, gradients = run(operator, case, tensors, tensors['input'].dtype)
    return {'output': output, **gradients}


def expected_of(case, tensors):
    """Of the CPU in float64, given a gradient as accurate as that of `results_of`."""
    exact = {name: tensor.detach().cpu().double() for name, tensor in tensors.items()}
    output, gradients = run(deform_kernel2d, case, exact, tensors['input'].dtype)
    return {'output': output, **gradients}


def inferred_of(case, tensors):
    """Of tensors without numbers: what PyTorch's compiler takes the results to be."""
    meta = {
        name: torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device='meta')
        for name, t in tensors.items()
    }
    return results_of(deform_kernel2d, case, meta)


def tensors_on(device, case, layout='contiguous', **options):
    tensors = case.tensors(**options)
    return {name: LAYOUTS[layout](tensor.to(device)) for name, tensor in tensors.items()}


def agrees_with_the_cpu(
    case, device, dtype=torch.float64, layout='contiguous', operator=deform_kernel2d, **options
):
    tensors = tensors_on(device, case, layout, dtype=dtype, **options)
    results = results_of(operator, case, tensors)
    assert_close(results, expected_of(case, tensors), case, dtype)
    for name, inferred in inferred_of(case, tensors).items():
        assert results[name].device == tensors['input'].device, name
        assert results[name].stride() == inferred.stride() or not inferred.numel(), name


def float32_offsets_beside_halves(case, device, dtype):
    tensors = tensors_on(device, case, dtype=dtype)
    exact = tensors_on(device, case, dtype=torch.float32)
    tensors |= {name: exact[name] for name in OFFSETS if name in exact}
    results = results_of(deform_kernel2d, case, tensors)
    assert_close(results, expected_of(case, tensors), case, dtype)
    for name in exact.keys() & set(OFFSETS):
        assert results[name].dtype == torch.float32, name


def unaligned_tensors(case, device, dtype):
    """Channels innermost, and not at a multiple of 16 bytes, which vectors are loaded from."""

    def moved(tensor):
        buffer = torch.empty(tensor.numel() + 1, dtype=dtype, device=device)
        if tensor.dim() != 4:
            return buffer[1:].view(tensor.shape).copy_(tensor)
        n, c, h, w = tensor.shape
        return buffer[1:].view(n, h, w, c).permute(0, 3, 1, 2).copy_(tensor)

    tensors = {name: moved(tensor) for name, tensor in case.tensors(dtype=dtype).items()}
    assert tensors['input'].data_ptr() % 16
    results = results_of(deform_kernel2d, case, tensors)
    assert_close(results, expected_of(case, tensors), case, dtype)


def offsets_that_are_not_finite(case, device, name, bad):
    """They look nowhere, like those that are far outside: conversion to int is for neither."""
    tensors = tensors_on(device, case)
    far = tensors | {name: tensors[name].clone()}
    tensors[name][:, ::3] = bad
    far[name][:, ::3] = 1e6
    results = results_of(deform_kernel2d, case, tensors)
    assert_close(results, expected_of(case, far), case, torch.float64)


def only_wanted_gradients(case, device, frozen):
    tensors = tensors_on(device, case)
    expected = expected_of(case, tensors)
    leaves = {name: t.requires_grad_(name != frozen) for name, t in tensors.items()}
    output = deform_kernel2d(**leaves, **case.geometry)
    generator = torch.Generator().manual_seed(1)
    output.backward(torch.randn(output.shape, generator=generator, dtype=torch.float64).to(device))
    assert leaves[frozen].grad is None
    wanted = {name: leaf.grad for name, leaf in leaves.items() if name != frozen}
    expected = {name: expected[name] for name in wanted}
    assert_close(wanted, expected, case, torch.float64)


def same_bits(case, device, dtype, names=None, operator=deform_kernel2d, times=5):
    """Results of those names, or all, do not depend on how threads and blocks took turns."""
    tensors = tensors_on(device, case, dtype=dtype)
    first, *others = (results_of(operator, case, tensors) for _ in range(times))
    for result in others:
        for name in names or result:
            assert torch.equal(result[name], first[name]), name


def autocast_casts(case, device, dtype, offset_dtype):
    """Input, weight and bias to the lower precision; offsets stay as they come."""
    tensors = tensors_on(device, case, dtype=torch.float32)
    tensors |= {name: tensors[name].to(offset_dtype) for name in OFFSETS if name in tensors}
    with torch.autocast(torch.device(device).type, dtype):
        output = deform_kernel2d(**tensors, **case.geometry)
    assert output.dtype == dtype
    cast = {n: t if n in OFFSETS else t.to(dtype) for n, t in tensors.items()}
    assert torch.equal(output, deform_kernel2d(**cast, **case.geometry))


def compiles(case, device, backend):
    """Whole, with a backward pass, and once for all sizes."""
    torch.compiler.reset()

    @torch.compile(fullgraph=True, dynamic=True, backend=backend)
    def compiled(**arguments):
        return deform_kernel2d(**{n: t * 2 for n, t in arguments.items()}, **case.geometry).relu()

    def eager(**arguments):
        return deform_kernel2d(**{n: t * 2 for n, t in arguments.items()}, **case.geometry).relu()

    for size in (case.size, (case.size[0] + 2, case.size[1] + 3)):
        tensors = tensors_on(device, dataclasses.replace(case, size=size))
        leaves = {name: tensor.requires_grad_() for name, tensor in tensors.items()}
        results = []
        for function in (compiled, eager):
            output = function(**leaves)
            gradients = torch.autograd.grad(output.square().sum(), list(leaves.values()))
            results.append([output, *gradients])
        for ours, theirs in zip(*results, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def passes_opcheck(case, device):
    tensors = {name: t.requires_grad_() for name, t in tensors_on(device, case).items()}
    arguments = positional(case, tensors)
    torch.library.opcheck(torch.ops.mmdk.deform_kernel2d.default, arguments)
    detached = [a.detach() if isinstance(a, torch.Tensor) else a for a in arguments]
    shape = (case.batch, case.out_channels, *case.out_size)
    grad = torch.randn(shape, dtype=torch.float64, device=device)
    torch.library.opcheck(
        torch.ops.mmdk.deform_kernel2d_backward.default, [grad, *detached, [True] * 6]
    )


def gradients_are_derivatives(case, device):
    leaves = {name: t.to(device).requires_grad_() for name, t in smooth_tensors(case).items()}
    for name in leaves:
        others = {key: value.detach() for key, value in leaves.items() if key != name}

        def of_one(tensor, name=name, others=others):
            return deform_kernel2d(**{name: tensor}, **others, **case.geometry)

        # Atomic additions of image offsets' gradients come in any order.
        assert torch.autograd.gradcheck(of_one, (leaves[name],), nondet_tol=1e-12), name


def sample_kernel_agrees_with_the_cpu(scope, kernel, device, dtype, offset_dtype=None):
    generator = torch.Generator().manual_seed(0)

    def normal(*shape, dtype=dtype):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    weight = normal(5, 7, *scope)
    offset = 1.5 * normal(3, kernel[0] * kernel[1] * 2, dtype=offset_dtype or dtype)
    grad = normal(3, 5, 7, *kernel)

    def results(*arguments):
        weight, offset, grad = arguments
        leaves = weight.requires_grad_(), offset.requires_grad_()
        kernels = sample_kernel(*leaves, kernel)
        return [kernels, *torch.autograd.grad(kernels, leaves, grad)]

    ours = results(*(t.to(device, copy=True) for t in (weight, offset, grad)))
    expected = results(*(t.double() for t in (weight, offset, grad)))
    accuracy = {torch.float64: (1e-11, 1e-11)}.get(dtype, (torch.finfo(dtype).eps, 2e-5))
    for result, exactly in zip(ours, expected, strict=True):
        rtol, atol = accuracy
        torch.testing.assert_close(result.double().cpu(), exactly.detach(), rtol=rtol, atol=atol)


def positions_beyond_int32(device, groups, layout, shape):
    """A few rows of an image, the last of which lies beyond 2**31 numbers."""
    _, _, height, width = shape
    stride = ((height - 1) // 8, width // 64)
    x = torch.zeros(shape, dtype=torch.float16, device=device)
    x = LAYOUTS[layout](x)
    x[:, :, -1] = (torch.arange(width) % 1000).to(x)
    weight = torch.tensor([[2.0, 0.5], [-1.0, 4.0]], dtype=torch.float16, device=device)
    weight = weight.diag()[:, None] if groups == 2 else weight
    offset = torch.zeros(1, 2, 9, 64, dtype=torch.float16, device=device)
    call = functools.partial(deform_kernel2d, kernel_size=1, stride=stride)
    leaf = x.requires_grad_()
    output = call(leaf, weight[..., None, None], offset)
    seen = x.detach()[:, :, :: stride[0], :: stride[1]]
    matrix = weight[:, 0].diag() if groups == 2 else weight
    expected = torch.einsum('oc,nchw->nohw', matrix.double(), seen.double())
    torch.testing.assert_close(output.double(), expected, rtol=2**-10, atol=0)
    output.sum().backward()
    last = leaf.grad[0, :, -1]
    assert torch.equal(last[:, :: stride[1]], matrix.sum(0)[:, None].expand(2, 64))
    last[:, :: stride[1]] = 0
    assert not last.any()


def outputs_beyond_int32(device, groups, layout, shape):
    """One output for each position of such an image."""
    _, _, height, width = shape
    x = torch.zeros(shape, dtype=torch.float16, device=device)
    x = LAYOUTS[layout](x)
    rows = [0, height // 2, height - 1]
    x[:, :, rows] = (torch.arange(width) % 1000).to(x)
    weight = torch.full((2, 1), 2.0) if groups == 2 else torch.tensor([[2.0, 0], [0, 2.0]])
    weight = weight.to(x)[..., None, None]
    bias = torch.tensor([0.0, 1.0]).to(x)
    offset = torch.zeros(1, 2, height, width, dtype=torch.float16, device=device)
    output = deform_kernel2d(x, weight, offset, bias=bias, kernel_size=1)
    for row in [*rows, height - 2]:
        assert torch.equal(output[:, :, row], 2 * x[:, :, row] + bias[:, None]), row


def layer_follows_its_device(device, **options):
    """A layer and its input, moved: the same function, and it trains there."""
    layer = DeformKernel2d(8, 8, 3, padding=1, **options).double()
    nn.init.normal_(layer.conv_offset.weight, std=0.2)
    x = torch.randn(2, 8, 9, 7, dtype=torch.float64)
    expected = layer(x).detach()
    layer = layer.to(device)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    output = layer(x.to(device))
    torch.testing.assert_close(output.cpu(), expected, rtol=1e-10, atol=1e-10)
    before = {name: parameter.clone() for name, parameter in layer.named_parameters()}
    output.square().mean().backward()
    optimizer.step()
    for name, parameter in layer.named_parameters():
        assert parameter.isfinite().all() and not torch.equal(parameter, before[name]), name


def network_trains_in_mixed_precision(device, dtype, channels_last):
    """A line's direction, told from its picture."""
    lines = torch.zeros(16, 1, 8, 8)
    for i in range(8):
        lines[i, 0, i] = lines[8 + i, 0, :, i] = 1
    layout = LAYOUTS['channels_last' if channels_last else 'contiguous']
    lines, directions = layout(lines.to(device)), (torch.arange(16) // 8).to(device)
    model = nn.Sequential(
        DeformKernel2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        DeformKernel2d(8, 8, 3, padding=1, groups=8, offset_clip='scope'),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 2),
    ).to(device)
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    # Larger ones only cost the first steps.
    scaler = torch.amp.GradScaler(device, init_scale=256)
    losses, dtypes = [], set()
    model[0].register_forward_hook(lambda module, args, output: dtypes.add(output.dtype))
    for _ in range(40):
        with torch.autocast(torch.device(device).type, dtype):
            loss = nn.functional.cross_entropy(model(lines), directions)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    assert dtypes == {dtype}
    assert losses[-1] < 0.4 * losses[0]


# As many pixels and channels as a detector has: many blocks, several tiles of columns.
LARGE = [
    Case(
        f'depthwise_{channels}',
        batch=1,
        in_channels=channels,
        out_channels=channels,
        groups=channels,
        size=size,
        bias=True,
    )
    for channels, size in ((128, (200, 336)), (256, (100, 168)), (512, (50, 84)), (1024, (25, 42)))
] + [
    Case('dense_128', batch=2, in_channels=128, out_channels=64, size=(100, 168)),
    Case('grouped_256', in_channels=256, out_channels=256, groups=32, size=(50, 84)),
    Case(
        'dense_dcn_128',
        in_channels=128,
        out_channels=64,
        size=(50, 84),
        image_offset_groups=1,
        mask_groups=1,
    ),
    Case(
        'depthwise_dcn_256',
        in_channels=256,
        out_channels=256,
        groups=256,
        size=(50, 84),
        image_offset_groups=2,
    ),
]
