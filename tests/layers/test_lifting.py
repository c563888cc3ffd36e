import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from mmdk import lift_kernel
from mmdk.layers.lifting import _lifting_matrix, rest_matrix
from mmdk.ops import sample_kernel

SHAPES = [
    ((3, 3), (4, 4)),
    ((3, 3), (5, 5)),
    ((3, 3), (6, 6)),
    ((1, 1), (2, 2)),
    ((5, 5), (6, 6)),
    ((1, 3), (2, 6)),
    ((7, 7), (8, 8)),
    ((2, 3), (2, 4)),
    ((3, 3), (3, 3)),
]


def roughness(scope):
    return scope.diff(dim=-1).square().sum() + scope.diff(dim=-2).square().sum()


@pytest.mark.parametrize('kernel_size, scope_size', SHAPES)
def test_samples_to_exactly_the_kernel(kernel_size, scope_size):
    kernel = torch.randn(6, 3, *kernel_size, dtype=torch.float64)
    scope = lift_kernel(kernel, scope_size)
    assert scope.shape == (6, 3, *scope_size)
    zero = torch.zeros(1, kernel_size[0] * kernel_size[1] * 2, dtype=torch.float64)
    torch.testing.assert_close(
        sample_kernel(scope, zero, kernel_size)[0], kernel, rtol=1e-11, atol=1e-11
    )


@pytest.mark.parametrize('kernel_size, scope_size', SHAPES[:-1])
def test_no_other_scope_with_that_sample_is_smoother(kernel_size, scope_size):
    kernel = torch.randn(kernel_size, dtype=torch.float64)
    scope = lift_kernel(kernel, scope_size)
    invisible = torch.linalg.svd(torch.from_numpy(rest_matrix(kernel_size, scope_size))).Vh[
        kernel.numel() :
    ]
    for change in invisible:
        for sign in (-1e-3, 1e-3):
            assert roughness(scope + sign * change.view(scope_size)) > roughness(scope)


def test_constant_kernels_become_constant_scopes():
    torch.testing.assert_close(
        lift_kernel(torch.full((2, 3, 3), 1.5), 4), torch.full((2, 4, 4), 1.5)
    )


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16])
def test_keeps_the_dtype(dtype):
    assert lift_kernel(torch.randn(2, 2, 3, 3).to(dtype), 4).dtype == dtype


def test_does_not_alias_its_input():
    kernel = torch.zeros(1, 1, 3, 3)
    lift_kernel(kernel, 3).add_(1)
    assert not kernel.any()


def test_is_differentiable():
    kernel = torch.randn(1, 1, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda k: lift_kernel(k, (3, 4)), (kernel,))


@pytest.mark.parametrize(
    'shape, scope_size, message',
    [
        ((2, 2, 3, 3), 2, r'scope_size \(2, 2\) is smaller than the kernel \(3, 3\)'),
        ((2, 2, 3, 3), (4, 2), r'scope_size \(4, 2\) is smaller'),
        ((3,), 4, r'weight must be .* got torch.float32 of shape \(3,\)'),
    ],
)
def test_bad_arguments(shape, scope_size, message):
    with pytest.raises(ValueError, match=message):
        lift_kernel(torch.zeros(shape), scope_size)


def test_integers_are_refused():
    with pytest.raises(ValueError, match='weight must be floating point'):
        lift_kernel(torch.zeros(1, 1, 3, 3, dtype=torch.int8), 4)


@pytest.mark.parametrize('first', ['meta', 'inference', 'fake'])
def test_first_use_in_a_special_mode_harms_no_later_one(first):
    _lifting_matrix.cache_clear()
    modes = {
        'meta': torch.device('meta'),
        'inference': torch.inference_mode(),
        'fake': FakeTensorMode(),
    }
    with modes[first]:
        assert lift_kernel(torch.zeros(1, 1, 3, 3), 4).shape == (1, 1, 4, 4)
    kernel = torch.ones(1, 1, 3, 3, requires_grad=True)
    lift_kernel(kernel, 4).sum().backward()
    assert kernel.grad.isfinite().all()
