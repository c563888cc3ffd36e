"""Conditionally parameterised convolution: a mixture of kernels for each image."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mmdk.layers.arguments import checked_int
from mmdk.layers.conv_base import ConvBase
from mmdk.layers.lifting import fixed_noise
from mmdk.layers.zero_linear import ZeroLinear

__all__ = ['CondConv2d', 'mixture_conv2d']

WEIGHT_AT_REST = 0.5


class CondConv2d(ConvBase):
    r"""Convolution with a kernel for every image, mixed from experts by what the image shows.

    .. math::
        r[n] = \mathrm{sigmoid}(\mathrm{routing}(\mathrm{mean}_p\, x[n])), \qquad
        y[n] = x[n] * \sum_e r_e[n]\, W_e + \sum_e r_e[n]\, b_e

    x (N, C_in, H, W) gives y (N, C_out, H_out, W_out); W (E, C_out, C_in/groups, K_h, K_w) and
    b (E, C_out) are the experts. The kernels of all images are applied in one grouped convolution.
    `routing`, a linear layer, starts at zero, where every expert has weight 1/2.

    Experts start at :math:`2 / E` times a plain convolution's kernel and bias, plus what
    differs between them and adds up to zero: at rest the layer is exactly that plain
    convolution. Without the difference all experts would have equal gradients, and stay equal,
    for ever. A new layer's experts differ as independent draws do; those of a plain kernel that is
    loaded differ by a tenth of the kernel's root mean square, always the same way.

    In MMDetection configs this is type `'CondConv'`; see :func:`mmdk.layers.registry.build_layer`
    for the options that exist there only.

    Args:
        in_channels: See :class:`.ConvBase` for this and all up to `dtype`: nn.Conv2d's.
        num_experts: E.

    Raises:
        ValueError: An argument is out of range, or two do not fit together.

    Source: Yang et al., CondConv: Conditionally Parameterized Convolutions for Efficient
    Inference, NeurIPS 2019, arXiv 1904.04971.

    Example:
        >>> import torch
        >>> from mmdk.layers import CondConv2d
        >>> layer = CondConv2d(8, 16, 3, padding=1, num_experts=4)
        >>> layer(torch.randn(2, 8, 7, 9)).shape
        torch.Size([2, 16, 7, 9])
        >>> layer.weight.shape
        torch.Size([4, 16, 8, 3, 3])
    """

    kind = 'CondConv'
    loadable_kinds = ('CondConv',)
    generator_name = 'routing'

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = 'zeros',
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        num_experts: int = 8,
    ):
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode
        )
        self.num_experts = checked_int('num_experts', num_experts)
        self._add_parameters(
            (self.num_experts, *self._plain_shape),
            (self.num_experts, self.out_channels) if bias else None,
            device,
            dtype,
        )
        self.routing = ZeroLinear(self.in_channels, self.num_experts, device, dtype)

    def reset_parameters(self) -> None:
        """Initialise the mixture as nn.Conv2d's kernel, and experts as independent draws."""
        super().reset_parameters()
        fan_in = self.weight[0, 0].numel()
        bound = 1 / math.sqrt(fan_in * self.num_experts) / WEIGHT_AT_REST
        spread = torch.empty_like(self.weight).uniform_(-bound, bound)
        with torch.no_grad():
            self.weight.add_(spread - spread.mean(0))

    def forward(self, x: Tensor) -> Tensor:
        weights = self.expert_weights(x)
        return mixture_conv2d(
            self._pad(x),
            weights,
            self.weight,
            self.bias,
            self.stride,
            self._operator_padding,
            self.dilation,
            self.groups,
        )

    def expert_weights(self, x: Tensor) -> Tensor:
        """How much every expert counts for an input: (N, E), between 0 and 1."""
        return self.routing(x.mean((2, 3))).sigmoid()

    def extra_repr(self) -> str:
        return f'{super().extra_repr()}, num_experts={self.num_experts}'

    def _apply(self, fn, recurse=True):
        """Let `to()` see experts as kernels: memory formats are for four dimensions."""

        def apply(tensor: Tensor) -> Tensor:
            if tensor.dim() != 5:
                return fn(tensor)
            return fn(tensor.flatten(0, 1)).unflatten(0, tensor.shape[:2])

        return super()._apply(apply, recurse)

    def _lift(self, kernel: Tensor) -> Tensor:
        spread = fixed_noise((self.num_experts, *kernel.shape), kernel)
        return self._share(kernel + spread - spread.mean(0))

    def _lift_bias(self, bias: Tensor) -> Tensor:
        return self._share(bias).repeat(self.num_experts, 1)

    def _share(self, plain: Tensor) -> Tensor:
        """What every expert has to be for the mixture at rest to be `plain`."""
        return plain / (self.num_experts * WEIGHT_AT_REST)

    def _size_mismatch(self, state_dict: dict, prefix: str) -> str | None:
        shape = tuple(state_dict[f'{prefix}weight'].shape)
        if shape[1:] == self._plain_shape and shape[0] != self.num_experts:
            return (
                f'size mismatch for {prefix}weight: {shape[0]} experts are in the checkpoint, and '
                f'num_experts here is {self.num_experts}. Build the layer with '
                f'num_experts={shape[0]}.'
            )
        return super()._size_mismatch(state_dict, prefix)


def mixture_conv2d(
    x: Tensor,
    expert_weights: Tensor,
    experts: Tensor,
    biases: Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
) -> Tensor:
    """Convolve every image with a kernel of its own, a weighted sum of experts.

    Args:
        x: (N, C_in, H, W).
        expert_weights: (N, E).
        experts: (E, C_out, C_in/groups, K_h, K_w).
        biases: (E, C_out), or None.
        stride: Step between outputs, in input pixels.
        padding: Zeros around the input, in input pixels.
        dilation: Distance between taps, in input pixels.
        groups: Convolution groups.

    Returns:
        (N, C_out, H_out, W_out).

    Example:
        >>> import torch
        >>> weights, experts = torch.rand(2, 3), torch.randn(3, 8, 4, 3, 3)
        >>> x = torch.randn(2, 4, 6, 7)
        >>> mixture_conv2d(x, weights, experts, None, (1, 1), (1, 1), (1, 1), 1).shape
        torch.Size([2, 8, 6, 7])
    """
    batch = x.shape[0]
    kernels = (expert_weights @ experts.flatten(1)).unflatten(1, experts.shape[1:])
    if batch == 0:
        # There is no convolution in no groups; this one has the shape, and gradients of zero.
        y = F.conv2d(x, kernels.sum(0), None, stride, padding, dilation, groups)
    else:
        y = F.conv2d(
            x.flatten(0, 1)[None],
            kernels.flatten(0, 1),
            None,
            stride,
            padding,
            dilation,
            batch * groups,
        ).unflatten(1, (batch, experts.shape[1]))[0]
    if biases is None:
        return y
    return y + (expert_weights @ biases)[:, :, None, None]
