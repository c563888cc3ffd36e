"""Lifting: from a K x K kernel to the scope that samples to it at zero offset."""

import functools

import numpy as np
import torch
from torch import Tensor

from mmdk.layers.arguments import checked_pair

__all__ = ['fixed_noise', 'lift_kernel', 'rest_matrix']

# Of what breaks symmetries in lifted weights, as a share of the kernel's root mean square.
NOISE = 0.1


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
        ValueError: `scope_size` is smaller than the kernel, or `weight` is not floating point or
            has fewer than two dimensions.

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
    scope_size = checked_pair('scope_size', scope_size, least=1)
    if weight.dim() < 2 or not weight.is_floating_point():
        raise ValueError(
            'weight must be floating point, (..., K_h, K_w), got '
            f'{weight.dtype} of shape {tuple(weight.shape)}.'
        )
    kernel_size = tuple(weight.shape[-2:])
    if scope_size[0] < kernel_size[0] or scope_size[1] < kernel_size[1]:
        raise ValueError(
            f'scope_size {scope_size} is smaller than the kernel {kernel_size} of weight; '
            'a kernel is sampled inside its scope: enlarge scope_size.'
        )
    if scope_size == kernel_size:
        return weight.clone()
    matrix = torch.tensor(_lifting_matrix(kernel_size, scope_size), device=weight.device)
    lifted = weight.flatten(-2).to(torch.float64) @ matrix.T
    return lifted.unflatten(-1, scope_size).to(weight.dtype)


def fixed_noise(shape: tuple[int, ...], kernel: Tensor) -> Tensor:
    """Small numbers that tell apart what training would otherwise keep alike.

    Args:
        shape: Of the result.
        kernel: What they are added to, floating point.

    Returns:
        A tenth of the kernel's root mean square times normal numbers, in its dtype and on its
        device. They depend on nothing else: a checkpoint always gives the same layer.

    Example:
        >>> import torch
        >>> kernel = torch.ones(4, 4, 1, 1)
        >>> torch.equal(fixed_noise((4, 4), kernel), fixed_noise((4, 4), kernel))
        True
    """
    generator = torch.Generator('cpu').manual_seed(0)
    noise = torch.randn(shape, generator=generator, dtype=torch.float64, device='cpu')
    scale = NOISE * kernel.double().square().mean().sqrt()
    return (noise.to(kernel.device) * scale).to(kernel.dtype)


def rest_matrix(kernel_size: tuple[int, int], scope_size: tuple[int, int]) -> np.ndarray:
    """The sampling of a scope at zero offset, (K_h*K_w, S_h*S_w), float64."""
    rows, columns = (
        _rest_matrix_1d(kernel, scope)
        for kernel, scope in zip(kernel_size, scope_size, strict=True)
    )
    return np.kron(rows, columns)


def _rest_matrix_1d(kernel: int, scope: int) -> np.ndarray:
    distance = np.arange(scope) - np.arange(kernel)[:, None] - (scope - kernel) / 2
    return np.clip(1 - np.abs(distance), 0, None)


def _roughness(scope_size: tuple[int, int]) -> np.ndarray:
    """Differences between all neighbouring cells, (pairs, S_h*S_w), float64."""
    height, width = (np.eye(size) for size in scope_size)
    vertical = np.kron(np.diff(height, axis=0), width)
    horizontal = np.kron(height, np.diff(width, axis=0))
    return np.concatenate([vertical, horizontal])


# In NumPy, so that what is cached does not depend on the mode or default device of the first call.
@functools.cache
def _lifting_matrix(kernel_size: tuple[int, int], scope_size: tuple[int, int]) -> np.ndarray:
    """Solves the equality-constrained least squares by its optimality (KKT) conditions."""
    sampling, roughness = rest_matrix(kernel_size, scope_size), _roughness(scope_size)
    taps, cells = sampling.shape
    conditions = np.block(
        [[roughness.T @ roughness, sampling.T], [sampling, np.zeros((taps, taps))]]
    )
    right_side = np.concatenate([np.zeros((cells, taps)), np.eye(taps)])
    return np.linalg.solve(conditions, right_side)[:cells]
