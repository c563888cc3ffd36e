"""The functional operators: argument defaults and documentation over `torch.ops.mmdk`."""

import torch
from torch import Tensor
from torch.nn.modules.utils import _pair

__all__ = ['deform_kernel2d', 'sample_kernel']


def deform_kernel2d(
    input: Tensor,
    weight: Tensor,
    kernel_offset: Tensor | None = None,
    image_offset: Tensor | None = None,
    mask: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    kernel_size: int | tuple[int, int],
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
) -> Tensor:
    r"""Convolution whose kernel is sampled, at every position anew, from a larger scope.

    .. math::
        y[n,o,p] = b[o] + \sum_{c \in group(o)} \sum_k m_k(p)\,
            x[n, c, p \cdot stride - padding + k \cdot dilation + \Delta I_k(p)]\,
            W[o, c, k + (S - K) / 2 + \Delta K_k(p)]

    with taps :math:`k = (i, j)` on a :math:`K_h \times K_w` grid. Both look-ups are bilinear; one
    is zero, with zero gradients, unless its coordinate lies strictly inside (-1, size). At an
    integer coordinate the derivative is the one towards +1. A coordinate that is not finite is
    outside.

    The same sum is local Deformable Kernels (`kernel_offset` per position), global ones (spatial
    size 1), deformable convolution v1 and v2 (S = K, `image_offset`, `mask`), and both together.
    Groups are read off the shapes: dense for a weight of C_in channels, depthwise for one of 1.

    Offset groups, :math:`G_k` and :math:`G_i`, are read off the shapes too. Offset group g owns the
    contiguous input channels :math:`[g C_{in} / G, (g + 1) C_{in} / G)`, as in MMCV's deformable
    convolution. (The paper's released code interleaves them; with one group it is the same.) Inside
    a group, offset channel `tap * 2 + 0` is y and `tap * 2 + 1` is x.

    Args:
        input: (N, C_in, H, W), float32, float64, float16 or bfloat16; contiguous or channels_last.
        weight: The scope, (C_out, C_in/groups, S_h, S_w) with S_h >= K_h and S_w >= K_w; dtype of
            `input`.
        kernel_offset: Delta K, (N, G_k*K_h*K_w*2, H_out, W_out), or (N, G_k*K_h*K_w*2, 1, 1) for
            one kernel per image, in scope cells. float32 is accepted beside half inputs, here and
            for `image_offset` and `mask`. None means zero.
        image_offset: Delta I, (N, G_i*K_h*K_w*2, H_out, W_out), in input pixels. None means zero.
        mask: m, (N, G_i*K_h*K_w, H_out, W_out), a factor. None means one.
        bias: b, (C_out,). None means zero.
        kernel_size: (K_h, K_w), or one int for both.
        stride: Step between outputs, in input pixels.
        padding: Zeros around the input, in input pixels.
        dilation: Distance between taps, in input pixels.

    Returns:
        (N, C_out, H_out, W_out) in the dtype and memory format of `input`, with
        H_out = (H + 2*padding - dilation*(K_h - 1) - 1) // stride + 1. Half types accumulate in
        float32. The result does not depend on the number of threads. Input, weight and mask are
        taken to be finite: a NaN or infinity among them makes outputs NaN or infinite, not
        necessarily only those whose look-ups read it.

    On a GPU dense and grouped calls are matrix products by cuBLAS, of columns of resampled data in
    the dtype of `input`; calls whose kernels are the same at all positions and whose data are not
    deformed are PyTorch's convolution. Its settings (TF32, reduced precision, determinism) hold for
    both. With `image_offset` the gradient of `input` is added up atomically, so in varying order;
    `torch.use_deterministic_algorithms(True)` gives all sums one order. Scopes are limited by the
    GPU's shared memory, to about 15 x 15 on the smallest.

    `torch.func.grad`, `vjp`, `jacrev` and `vmap` work, in any order. `vmap` may map any of the
    tensors; it is one call for all entries since PyTorch 2.5, and a loop with a warning before.

    Raises:
        ValueError: Ranks, shapes, dtypes, devices or geometry do not fit together; the message
            names the argument, what came and what was expected.
        NotImplementedError: A second derivative is asked for, or one in forward mode (`jvp`).

    Source: Gao et al., Deformable Kernels, ICLR 2020, section 3.

    Example:
        >>> import torch
        >>> from mmdk.ops import deform_kernel2d
        >>> x, scope = torch.randn(1, 8, 7, 9), torch.randn(16, 8, 4, 4)
        >>> offset = torch.zeros(1, 3 * 3 * 2, 7, 9)
        >>> deform_kernel2d(x, scope, offset, kernel_size=3, padding=1).shape
        torch.Size([1, 16, 7, 9])
    """
    return torch.ops.mmdk.deform_kernel2d(
        input,
        weight,
        kernel_offset,
        image_offset,
        mask,
        bias,
        _pair(kernel_size),
        _pair(stride),
        _pair(padding),
        _pair(dilation),
    )


def sample_kernel(
    weight: Tensor, kernel_offset: Tensor, kernel_size: int | tuple[int, int]
) -> Tensor:
    r"""Sample one kernel per image from a scope.

    .. math::
        kernel[n, o, c, k] = W[o, c, k + (S - K) / 2 + \Delta K_k[n]]

    with the look-up of :func:`deform_kernel2d`.

    Args:
        weight: The scope, (C_out, C_in/groups, S_h, S_w), in a dtype of :func:`deform_kernel2d`.
        kernel_offset: Delta K, (N, K_h*K_w*2), in scope cells, channel `tap * 2 + {0: y, 1: x}`;
            dtype of `weight`, or float32 beside half types.
        kernel_size: (K_h, K_w), or one int for both; at most the scope's size.

    Returns:
        (N, C_out, C_in/groups, K_h, K_w) in the dtype of `weight`. Under `torch.func.vmap` PyTorch
        loops over the entries, and says so.

    Raises:
        ValueError: Shapes, dtypes or devices do not fit together.
        NotImplementedError: A second derivative is asked for, or one in forward mode (`jvp`).

    Source: Gao et al., Deformable Kernels, ICLR 2020, section 3.2 (global variant).

    Example:
        >>> import torch
        >>> from mmdk.ops import sample_kernel
        >>> scope = torch.arange(16.0).view(1, 1, 4, 4)
        >>> sample_kernel(scope, torch.zeros(1, 8), kernel_size=2)[0, 0, 0]
        tensor([[ 5.,  6.],
                [ 9., 10.]])
    """
    return torch.ops.mmdk.sample_kernel(weight, kernel_offset, _pair(kernel_size))
