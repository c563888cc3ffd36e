"""The convolution that predicts offsets."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ['OffsetGenerator']


class OffsetGenerator(nn.Module):
    """A convolution with bias that starts at zero: (N, C_in, H, W) -> (N, C_out, H_out, W_out).

    It must still be zero when a stock model has initialised itself, for a swapped-in layer to begin
    as the convolution it replaces. Models initialise what is called `Conv2d`, what has `Conv2d`
    among its direct bases, and what is an instance of `nn.Conv2d`; so this is none of them. Dense
    heads of MMDetection set `conv_offset.weight` and `.bias` to zero, which is harmless.

    Args:
        in_channels: C_in.
        out_channels: Offset channels to predict.
        kernel_size: (K_h, K_w).
        stride: (vertical, horizontal), in input pixels, as are the next two.
        padding: (vertical, horizontal).
        dilation: (vertical, horizontal).
        device: Of the parameters.
        dtype: Of the parameters.

    Example:
        >>> import torch
        >>> generator = OffsetGenerator(4, 18, (3, 3), (1, 1), (1, 1), (1, 1))
        >>> generator(torch.randn(2, 4, 5, 6)).abs().sum().item()
        0.0
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, int],
        stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int] = (0, 0),
        dilation: tuple[int, int] = (1, 1),
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        self.stride, self.padding, self.dilation = stride, padding, dilation
        shape = (out_channels, in_channels, *kernel_size)
        self.weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(out_channels, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Back to zero."""
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation)

    def extra_repr(self) -> str:
        out_channels, in_channels, *kernel_size = self.weight.shape
        return f'{in_channels}, {out_channels}, kernel_size={tuple(kernel_size)}'
