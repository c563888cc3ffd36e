"""The operators as citizens of PyTorch: schema, shape inference, compilation, export."""

import dataclasses

import pytest
import torch

from mmdk.layers import DeformKernel2d
from mmdk.ops import deform_kernel2d, sample_kernel
from tests.ops.cases import CASES, DENSE, DEPTHWISE, EVERYTHING, Case, ids

NAMES = ('input', 'weight', 'kernel_offset', 'image_offset', 'mask', 'bias')


def positional(case, tensors):
    geometry = [list(value) for value in case.geometry.values()]
    return [*(tensors.get(name) for name in NAMES), *geometry]


SOME = [DENSE, DEPTHWISE, EVERYTHING, *(c for c in CASES if c.name in ('global', 'dcn', 'batch_0'))]

needs_opcheck = pytest.mark.skipif(
    not hasattr(torch.library, 'opcheck'), reason='this PyTorch has no torch.library.opcheck'
)


@needs_opcheck
@pytest.mark.parametrize('case', SOME, ids=ids(SOME))
def test_opcheck(case):
    tensors = {name: t.requires_grad_() for name, t in case.tensors().items()}
    torch.library.opcheck(torch.ops.mmdk.deform_kernel2d.default, positional(case, tensors))


@needs_opcheck
@pytest.mark.parametrize('wanted', [(True,) * 6, (False, True) * 3])
@pytest.mark.parametrize('case', [DENSE, EVERYTHING], ids=ids([DENSE, EVERYTHING]))
def test_opcheck_backward(case, wanted):
    tensors = case.tensors()
    grad = torch.randn(case.batch, case.out_channels, *case.out_size, dtype=torch.float64)
    torch.library.opcheck(
        torch.ops.mmdk.deform_kernel2d_backward.default,
        [grad, *positional(case, tensors), list(wanted)],
    )


@needs_opcheck
def test_opcheck_sample_kernel():
    weight = torch.randn(3, 2, 4, 4, requires_grad=True)
    offset = torch.randn(2, 18, requires_grad=True)
    torch.library.opcheck(torch.ops.mmdk.sample_kernel.default, (weight, offset, [3, 3]))
    grad = torch.randn(2, 3, 2, 3, 3)
    for wanted in ([True, True], [False, True]):
        torch.library.opcheck(
            torch.ops.mmdk.sample_kernel_backward.default,
            (grad, weight.detach(), offset.detach(), [3, 3], wanted),
        )


@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize('case', CASES, ids=ids(CASES))
def test_inferred_shapes_are_the_real_ones(case, memory_format):
    tensors = case.tensors()
    tensors['input'] = tensors['input'].contiguous(memory_format=memory_format)
    real = deform_kernel2d(**tensors, **case.geometry)
    meta = deform_kernel2d(**{k: v.to('meta') for k, v in tensors.items()}, **case.geometry)
    assert (meta.shape, meta.stride(), meta.dtype) == (real.shape, real.stride(), real.dtype)


def test_compiles_whole_with_dynamic_shapes():
    # Graph capture and autograd are what the operator takes part in; code generation is not.
    @torch.compile(fullgraph=True, dynamic=True, backend='aot_eager')
    def compiled(x, weight, offset):
        return deform_kernel2d(x * 2, weight, offset, kernel_size=3, padding=1).relu()

    for size in ((7, 9), (8, 5)):
        x = torch.randn(2, 6, *size, dtype=torch.float64, requires_grad=True)
        weight = torch.randn(4, 6, 4, 4, dtype=torch.float64, requires_grad=True)
        offset = torch.randn(2, 18, *size, dtype=torch.float64, requires_grad=True)
        leaves = (x, weight, offset)
        eager = deform_kernel2d(x * 2, weight, offset, kernel_size=3, padding=1).relu()
        expected = torch.autograd.grad(eager.square().sum(), leaves)
        output = compiled(*leaves)
        gradients = torch.autograd.grad(output.square().sum(), leaves)
        torch.testing.assert_close(output, eager)
        for ours, theirs in zip(gradients, expected, strict=True):
            torch.testing.assert_close(ours, theirs)


@pytest.mark.skipif(
    not hasattr(torch._dynamo.config, 'compiled_autograd'),
    reason='this PyTorch does not compile the backward pass with the forward',
)
def test_backward_compiles_too():
    """Compiled autograd traces the operator's node as well."""
    layer = torch.nn.Sequential(DeformKernel2d(4, 6, 3), torch.nn.ReLU())
    x = torch.randn(1, 4, 5, 6)
    expected = torch.autograd.grad(layer(x).square().sum(), list(layer.parameters()))

    @torch.compile(backend='aot_eager')
    def step():
        layer(x).square().sum().backward()

    with torch._dynamo.config.patch(compiled_autograd=True):
        step()
    for parameter, gradient in zip(layer.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_changing_a_saved_argument_in_place_is_noticed():
    tensors = DENSE.tensors()
    weight = tensors['weight'].requires_grad_()
    output = deform_kernel2d(**tensors, **DENSE.geometry).sum()
    tensors['input'].zero_()
    with pytest.raises(RuntimeError, match='modified by an inplace operation'):
        torch.autograd.grad(output, weight)


def test_second_derivative_is_refused():
    tensors = {name: t.requires_grad_() for name, t in DENSE.tensors().items()}
    output = deform_kernel2d(**tensors, **DENSE.geometry)
    (gradient,) = torch.autograd.grad(output.sum(), tensors['input'], create_graph=True)
    with pytest.raises(NotImplementedError, match='second derivatives .* create_graph'):
        gradient.sum().backward()


def test_second_derivative_of_sample_kernel_is_refused():
    weight = torch.randn(1, 1, 4, 4, requires_grad=True)
    kernels = sample_kernel(weight, torch.zeros(1, 18), 3)
    (gradient,) = torch.autograd.grad(kernels.square().sum(), weight, create_graph=True)
    with pytest.raises(NotImplementedError, match='second derivatives'):
        gradient.sum().backward()


# Where nothing is to be computed, an operator might be tempted to return its argument.
NOTHING = Case(
    'nothing', in_channels=1, out_channels=1, kernel=(1, 1), scope=(1, 1), padding=(0, 0)
)
FUNCTIONAL = [*SOME, NOTHING, dataclasses.replace(NOTHING, kernel_offset_groups=0, bias=True)]


def assert_functional(operator, arguments):
    """Arguments stay as they are, and no two tensors share memory."""
    inputs = [argument for argument in arguments if isinstance(argument, torch.Tensor)]
    before = [(tensor.clone(), tensor._version) for tensor in inputs]
    results = operator(*arguments)
    results = list(results) if isinstance(results, tuple) else [results]
    for tensor, (copy, version) in zip(inputs, before, strict=True):
        assert torch.equal(tensor, copy) and tensor._version == version
    for i, result in enumerate(results):
        for other in [*inputs, *results[i + 1 :]]:
            assert not torch._C._is_alias_of(result, other)
    return results


@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize('wanted', [(True,) * 6, (False, True) * 3])
@pytest.mark.parametrize('case', FUNCTIONAL, ids=ids(FUNCTIONAL))
def test_functional_and_without_aliases(case, wanted, memory_format):
    tensors = case.tensors()
    tensors['input'] = tensors['input'].contiguous(memory_format=memory_format)
    tensors['weight'].fill_(1)
    if case.kernel_offset_groups:
        tensors['kernel_offset'].zero_()
    arguments = positional(case, tensors)
    (output,) = assert_functional(torch.ops.mmdk.deform_kernel2d, arguments)
    grad = torch.ones_like(output)
    assert_functional(torch.ops.mmdk.deform_kernel2d_backward, [grad, *arguments, list(wanted)])


@pytest.mark.parametrize('wanted', [[True, True], [False, True]])
@pytest.mark.parametrize('size', [1, 3])
def test_sample_kernel_is_functional_and_without_aliases(size, wanted):
    weight = torch.ones(1, 1, size, size)
    offset = torch.zeros(1, size * size * 2)
    arguments = [weight, offset, [size, size]]
    (kernels,) = assert_functional(torch.ops.mmdk.sample_kernel, arguments)
    assert torch.equal(kernels[0], weight)
    grad = torch.ones_like(kernels)
    assert_functional(torch.ops.mmdk.sample_kernel_backward, [grad, *arguments, wanted])


@pytest.mark.parametrize('case', [DENSE, DEPTHWISE, EVERYTHING], ids=lambda case: case.name)
def test_deterministic_mode_changes_nothing(case):
    """It is accepted, and gives the bits that are given anyway, for any number of threads."""

    def results():
        leaves = {name: t.requires_grad_() for name, t in case.tensors(dtype=torch.float32).items()}
        output = deform_kernel2d(**leaves, **case.geometry)
        return [output, *torch.autograd.grad(output.square().sum(), list(leaves.values()))]

    threads = torch.get_num_threads()
    runs = []
    try:
        for deterministic in (False, True):
            for count in (1, 2, 8):
                torch.set_num_threads(count)
                torch.use_deterministic_algorithms(deterministic)
                runs.append(results())
    finally:
        torch.set_num_threads(threads)
    for run in runs[1:]:
        assert all(map(torch.equal, run, runs[0]))
