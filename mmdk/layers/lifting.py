"""Lifting: from a K x K kernel to the scope that samples to it at zero offset."""

import functools

import torch
from torch import Tensor
from torch.nn.modules.utils import _pair

__all__ = ['lift_kernel', 'rest_matrix']


def lift_kernel(weight: Tensor, scope_size: int | tuple[int, int]) -> Tensor:
    r"""Find the smoothest scope whose zero-offset sample is exactly the given kernel.

    With A the bilinear sampling of a scope at zero offset, the scope W solves

    .. math::
        \min_W \; \sum_{\text{neighbours } s, t} (W_s - W_t)^2
        \quad \text{subject to} \quad A W = kernel,

    which is linear in the kernel: one S*S x K*K matrix per shape. A model whose convolutions are
    replaced by deformable kernels with lifted weights first computes what it did before.

    Args:
        weight: Kernels, (..., K_h, K_w), floating point; for a convolution (C_out, C_in/groups,
            K_h, K_w).
        scope_size: (S_h, S_w), or one int for both; at least the kernel's size.

    Returns:
        Scopes, (..., S_h, S_w), in the dtype and on the device of `weight`.

    Raises:
        ValueError: `scope_size` is smaller than the kernel, or `weight` has fewer than two
            dimensions.

    Example:
        >>> import torch
        >>> from mmdk import lift_kernel
        >>> from mmdk.ops import sample_kernel
        >>> kernel = torch.randn(8, 4, 3, 3)
        >>> scope = lift_kernel(kernel, 4)
        >>> scope.shape
        torch.Size([8, 4, 4, 4])
        >>> torch.allclose(sample_kernel(scope, torch.zeros(1, 18), 3)[0], kernel, atol=1e-5)
        True
    """
    scope_size = _pair(scope_size)
    if weight.dim() < 2:
        raise ValueError(f'weight must be (..., K_h, K_w), got shape {tuple(weight.shape)}.')
    kernel_size = tuple(weight.shape[-2:])
    if scope_size[0] < kernel_size[0] or scope_size[1] < kernel_size[1]:
        raise ValueError(
            f'scope_size {scope_size} is smaller than the kernel {kernel_size} of weight; '
            'a kernel is sampled inside its scope: enlarge scope_size.'
        )
    if scope_size == kernel_size:
        return weight.clone()
    matrix = _lifting_matrix(kernel_size, scope_size).to(weight.device)
    lifted = weight.flatten(-2).to(torch.float64) @ matrix.T
    return lifted.unflatten(-1, scope_size).to(weight.dtype)


def rest_matrix(kernel_size: tuple[int, int], scope_size: tuple[int, int]) -> Tensor:
    """The sampling of a scope at zero offset, (K_h*K_w, S_h*S_w), float64."""
    rows, columns = (
        _rest_matrix_1d(kernel, scope)
        for kernel, scope in zip(kernel_size, scope_size, strict=True)
    )
    return torch.kron(rows, columns)


def _rest_matrix_1d(kernel: int, scope: int) -> Tensor:
    distance = torch.arange(scope) - torch.arange(kernel)[:, None] - (scope - kernel) / 2
    return (1 - distance.double().abs()).clamp(min=0)


def _roughness(scope_size: tuple[int, int]) -> Tensor:
    """Differences between all neighbouring cells, (pairs, S_h*S_w), float64."""
    height, width = (torch.eye(size, dtype=torch.float64) for size in scope_size)
    vertical = torch.kron(height.diff(dim=0), width)
    horizontal = torch.kron(height, width.diff(dim=0))
    return torch.cat([vertical, horizontal])


@functools.cache
def _lifting_matrix(kernel_size: tuple[int, int], scope_size: tuple[int, int]) -> Tensor:
    """Solves the equality-constrained least squares by its optimality (KKT) conditions."""
    sampling, roughness = rest_matrix(kernel_size, scope_size), _roughness(scope_size)
    taps, cells = sampling.shape
    conditions = torch.zeros(cells + taps, cells + taps, dtype=torch.float64)
    conditions[:cells, :cells] = roughness.T @ roughness
    conditions[:cells, cells:] = sampling.T
    conditions[cells:, :cells] = sampling
    right_side = torch.zeros(cells + taps, taps, dtype=torch.float64)
    right_side[cells:] = torch.eye(taps, dtype=torch.float64)
    return torch.linalg.solve(conditions, right_side)[:cells]
