"""Global Deformable Kernels: one kernel for each image."""

import torch
from torch import Tensor

from mmdk.layers.kernel_offset_conv2d import KernelOffsetConv2d
from mmdk.layers.offset_generator import OffsetGenerator
from mmdk.ops import deform_kernel2d

__all__ = ['GlobalDeformKernel2d']


class GlobalDeformKernel2d(KernelOffsetConv2d):
    r"""Convolution that learns, for every image, where to sample its kernel from a scope.

    .. math::
        y[n,o,p] = b[o] + \sum_{c \in group(o)} \sum_k
            x[n, c, p \cdot stride - padding + k \cdot dilation]\,
            W[o, c, k + (S - K) / 2 + \Delta K_k[n]],
        \qquad \Delta K = \mathrm{clip}(\mathrm{conv\_offset}(\mathrm{mean}_p\, x))

    x (N, C_in, H, W) gives y (N, C_out, H_out, W_out); W (C_out, C_in/groups, S_h, S_w) is the
    scope. `conv_offset`, a 1 x 1 convolution of the channels' means over the image (without the
    padding) with G*K_h*K_w*2 output channels, starts at zero, where the layer is a convolution with
    a fixed kernel.

    In MMDetection configs this is type `'GlobalDK'`, by default for convolutions of every size; see
    :func:`mmdk.layers.registry.build_layer` for the options that exist there only.

    Args:
        in_channels: See :class:`.ConvBase` for this and all up to `dtype`: nn.Conv2d's.
        scope_size: (S_h, S_w), or one int for both. None: K + 1, as in the paper.
        offset_groups: G, groups of input channels with offsets of their own; divides C_in. Group g
            owns channels [g*C_in/G, (g+1)*C_in/G).
        offset_clip: Largest \|offset\| in scope cells; 'scope' keeps every coordinate between the
            first and the last cell; None does not clip.

    Raises:
        ValueError: An argument is out of range, or two do not fit together.

    Source: Gao et al., Deformable Kernels, ICLR 2020, section 3.2 (global variant).

    Example:
        >>> import torch
        >>> from mmdk.layers import GlobalDeformKernel2d
        >>> layer = GlobalDeformKernel2d(8, 16, 1)
        >>> layer(torch.randn(2, 8, 7, 9)).shape
        torch.Size([2, 16, 7, 9])
        >>> layer.kernel_offset(torch.randn(2, 8, 7, 9)).shape
        torch.Size([2, 2, 1, 1])
    """

    kind = 'GlobalDK'
    loadable_kinds = ('GlobalDK',)

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
        scope_size: int | tuple[int, int] | None = None,
        offset_groups: int = 1,
        offset_clip: float | str | None = None,
    ):
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            padding_mode,
            device,
            dtype,
            scope_size=scope_size,
            offset_groups=offset_groups,
            offset_clip=offset_clip,
        )
        self.conv_offset = OffsetGenerator(
            self.in_channels, self._kernel_offset_channels, (1, 1), device=device, dtype=dtype
        )

    def forward(self, x: Tensor) -> Tensor:
        return deform_kernel2d(
            self._pad(x),
            self.weight,
            kernel_offset=self.kernel_offset(x),
            bias=self.bias,
            **self._geometry,
        )

    def kernel_offset(self, x: Tensor) -> Tensor:
        """The clipped offsets for an input: (N, G*K_h*K_w*2, 1, 1), scope cells, y first.

        Channel `tap * 2 + {0: y, 1: x}` inside an offset group. Tap k = (i, j) looks up the scope
        at k + (S - K) / 2 + offset.
        """
        return self._clip(self.conv_offset(x.mean((2, 3), keepdim=True)))
