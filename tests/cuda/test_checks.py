"""The GPU's tests, run on the CPU: what they ask holds there, and a wrong operator fails them."""

import os
import subprocess
import sys

import pytest
import torch

from mmdk.ops import deform_kernel2d
from tests.cuda import checks, sanitized
from tests.ops.cases import CASES, DENSE, DEPTHWISE, EVERYTHING, ids

MAIN = [DENSE, DEPTHWISE, EVERYTHING]
HERE = os.path.dirname(__file__)


def run(*arguments, device='cpu'):
    environment = {**os.environ, 'MMDK_TEST_DEVICE': device}
    command = [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', HERE, '-rs']
    command += ['--ignore', __file__, *arguments]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    return result.returncode, result.stdout + result.stderr


@pytest.mark.slow
def test_what_is_asked_holds_on_the_cpu():
    """But for what takes long: the matrix is asked below, random cases in tests/ops."""
    status, output = run('-k', 'not matrix and not random and not as_large')
    assert status == 0, output[-5000:]
    assert 'passed' in output


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_without_a_gpu_all_is_skipped_and_says_why():
    status, output = run(device='cuda')
    assert status in (0, 5), output  # nothing failed, or nothing was left to run
    assert 'no GPU to test on: ' in output and 'passed' not in output


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize('case', CASES, ids=ids(CASES))
def test_the_cpu_agrees_with_itself(case, dtype):
    checks.agrees_with_the_cpu(case, 'cpu', dtype, 'channels_last')


def off_by(relative):
    def operator(input, **arguments):
        return deform_kernel2d(input, **arguments) * (1 + relative)

    return operator


@pytest.mark.parametrize(
    'dtype, relative',
    [(torch.float64, 1e-9), (torch.float32, 1e-3), (torch.float16, 2e-2), (torch.bfloat16, 1e-1)],
    ids=str,
)
@pytest.mark.parametrize('case', MAIN, ids=ids(MAIN))
def test_wrong_numbers_are_noticed(case, dtype, relative):
    with pytest.raises(AssertionError, match='output: .* numbers are wrong'):
        checks.agrees_with_the_cpu(case, 'cpu', dtype, operator=off_by(relative))


class WrongGradient(torch.autograd.Function):
    @staticmethod
    def forward(context, tensor):
        return tensor.clone()

    @staticmethod
    def backward(context, grad):
        grad = grad.clone()
        grad.flatten()[-1] = float('nan')
        return grad


@pytest.mark.parametrize('name', ['input', 'weight', 'kernel_offset', 'image_offset', 'mask'])
def test_one_gradient_that_was_not_written_is_noticed(name):
    def operator(**arguments):
        arguments[name] = WrongGradient.apply(arguments[name])
        return deform_kernel2d(**arguments)

    with pytest.raises(AssertionError, match=f'{name}: 1 of'):
        checks.agrees_with_the_cpu(EVERYTHING, 'cpu', operator=operator)


def test_another_memory_format_is_noticed():
    def operator(**arguments):
        return deform_kernel2d(**arguments).contiguous()

    with pytest.raises(AssertionError, match='output'):
        checks.agrees_with_the_cpu(DENSE, 'cpu', layout='channels_last', operator=operator)


def test_other_bits_are_noticed():
    def operator(**arguments):
        return deform_kernel2d(**arguments) * (1 + 1e-3 * torch.rand(()))

    with pytest.raises(AssertionError, match='output'):
        checks.same_bits(DENSE, 'cpu', torch.float32, operator=operator)


@pytest.mark.parametrize('layout', ['contiguous', 'channels_last'])
@pytest.mark.parametrize('groups', [1, 2])
def test_positions_of_a_small_image(groups, layout):
    for check in (checks.positions_beyond_int32, checks.outputs_beyond_int32):
        check('cpu', groups, layout, (1, 2, 2**5 + 1, 2**8))


def test_calls_for_the_sanitizer(capsys):
    sanitized.main('cpu')
    assert 'sample_kernel' in capsys.readouterr().out
