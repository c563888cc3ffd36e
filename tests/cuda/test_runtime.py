"""The operators as users of CUDA: streams, graphs, devices, and what they refuse."""

import dataclasses

import pytest
import torch

from mmdk.ops import deform_kernel2d, sample_kernel
from tests.cuda.checks import assert_close, deterministic, expected_of, results_of, tensors_on
from tests.cuda.gpu import DEVICE, only_on_a_gpu, skip_without_gpu
from tests.ops.cases import CASES, DENSE, DEPTHWISE, EVERYTHING, Case, ids
from tests.ops.test_deform_kernel2d import grad_of

skip_without_gpu()
pytestmark = only_on_a_gpu

NAMES = ('dcn', 'depthwise_dcn', 'mask_only', 'global', 'global_depthwise', 'rigid')
SOME = [DENSE, DEPTHWISE, EVERYTHING, *(case for case in CASES if case.name in NAMES)]
each_case = pytest.mark.parametrize('case', SOME, ids=ids(SOME))

CYCLES = 10**9  # half a second or so, in which the host runs far ahead


def leaves_like(tensors):
    """Tensors of the same sizes whose numbers are still to come."""
    return {n: torch.full_like(t, float('nan')).requires_grad_() for n, t in tensors.items()}


def fill(leaves, tensors):
    with torch.no_grad():
        for name, leaf in leaves.items():
            leaf.copy_(tensors[name])


def gradient_for(case, dtype=torch.float32):
    shape = torch.empty(case.batch, case.out_channels, *case.out_size)
    return grad_of(shape, dtype).to(DEVICE)


def forward_and_backward(case, leaves, grad):
    output = deform_kernel2d(**leaves, **case.geometry)
    gradients = torch.autograd.grad(output, list(leaves.values()), grad)
    return {'output': output.detach(), **dict(zip(leaves, gradients, strict=True))}


@each_case
def test_runs_on_the_current_stream(case):
    """The numbers come late, and only on that stream: whoever runs on another sees NaN."""
    tensors = tensors_on(DEVICE, case, dtype=torch.float32)
    results_of(deform_kernel2d, case, tensors)  # loads code
    leaves, grad = leaves_like(tensors), torch.full_like(gradient_for(case), float('nan'))
    late = gradient_for(case)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(CYCLES)
        fill(leaves, tensors)
        grad.copy_(late)
        results = forward_and_backward(case, leaves, grad)
    stream.synchronize()
    assert_close(results, expected_of(case, tensors), case, torch.float32)


@each_case
def test_does_not_wait_for_the_default_stream(case):
    tensors = tensors_on(DEVICE, case, dtype=torch.float32)
    leaves, grad = leaves_like(tensors), gradient_for(case)
    fill(leaves, tensors)
    stream, last = torch.cuda.Stream(), torch.cuda.Event()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        forward_and_backward(case, leaves, grad)  # loads code, and has memory for the next
    torch.cuda.synchronize()
    torch.cuda._sleep(2 * CYCLES)
    last.record()
    with torch.cuda.stream(stream):
        results = forward_and_backward(case, leaves, grad)
    stream.synchronize()
    assert not last.query(), 'it waited for the default stream'
    torch.cuda.synchronize()
    assert_close(results, expected_of(case, tensors), case, torch.float32)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16], ids=str)
@each_case
def test_does_not_synchronise(case, dtype):
    tensors = tensors_on(DEVICE, case, dtype=dtype)
    leaves, grad = leaves_like(tensors), gradient_for(case, dtype)
    fill(leaves, tensors)
    forward_and_backward(case, leaves, grad)  # libraries may, when they start
    torch.cuda.set_sync_debug_mode('error')
    try:
        forward_and_backward(case, leaves, grad)
    finally:
        torch.cuda.set_sync_debug_mode('default')


@pytest.mark.parametrize('fixed_order', [False, True])
@each_case
def test_is_captured_in_a_graph(case, fixed_order):
    """And replayed on other numbers."""
    with deterministic(fixed_order):
        tensors = tensors_on(DEVICE, case, dtype=torch.float32)
        leaves, grad = leaves_like(tensors), gradient_for(case)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                forward_and_backward(case, leaves, grad)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            results = forward_and_backward(case, leaves, grad)
        for seed in (0, 1):
            tensors = tensors_on(DEVICE, case, dtype=torch.float32, seed=seed)
            fill(leaves, tensors)
            graph.replay()
            assert_close(results, expected_of(case, tensors), case, torch.float32)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason='there is one GPU')
@each_case
def test_on_another_than_the_current_device(case):
    tensors = tensors_on('cuda:1', case, dtype=torch.float32)
    with torch.cuda.device(0):
        results = results_of(deform_kernel2d, case, tensors)
        assert torch.cuda.current_device() == 0
    assert {str(result.device) for result in results.values()} == {'cuda:1'}
    assert_close(results, expected_of(case, tensors), case, torch.float32)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason='there is one GPU')
def test_sample_kernel_on_another_than_the_current_device():
    weight, offset = torch.randn(3, 2, 4, 4), torch.randn(2, 18)
    with torch.cuda.device(0):
        kernels = sample_kernel(weight.to('cuda:1'), offset.to('cuda:1'), 3)
    torch.testing.assert_close(kernels.cpu(), sample_kernel(weight, offset, 3))


@pytest.mark.parametrize('name', ['weight', 'kernel_offset', 'image_offset', 'mask', 'bias'])
def test_one_argument_on_the_cpu_is_refused(name):
    tensors = tensors_on(DEVICE, EVERYTHING)
    tensors[name] = tensors[name].cpu()
    with pytest.raises(ValueError, match=f'{name} is on cpu but input is on cuda:0'):
        deform_kernel2d(**tensors, **EVERYTHING.geometry)


def test_the_input_alone_on_the_cpu_is_refused():
    tensors = tensors_on(DEVICE, EVERYTHING)
    tensors['input'] = tensors['input'].cpu()
    with pytest.raises(ValueError, match='weight is on cuda:0 but input is on cpu'):
        deform_kernel2d(**tensors, **EVERYTHING.geometry)


def test_scope_that_no_block_can_hold_is_refused():
    size = 1000  # 8 MB, more than any GPU's shared memory
    case = Case('huge', batch=1, in_channels=1, out_channels=1, scope=(size, size), size=(3, 3))
    message = r'scope of weight, \(1000, 1000\).*smaller scope, or the CPU'
    with pytest.raises(ValueError, match=message):
        deform_kernel2d(**tensors_on(DEVICE, case), **case.geometry)
    # The device is as good as before.
    results = results_of(deform_kernel2d, DENSE, tensors_on(DEVICE, DENSE))
    assert results['output'].isfinite().all()


def test_memory_comes_back():
    """What a call needs besides is freed with it, forward and backward."""
    case = dataclasses.replace(EVERYTHING, size=(40, 50))
    tensors = tensors_on(DEVICE, case, dtype=torch.float32)
    results_of(deform_kernel2d, case, tensors)
    before = torch.cuda.memory_allocated()
    for _ in range(3):
        results_of(deform_kernel2d, case, tensors)
    assert torch.cuda.memory_allocated() == before
