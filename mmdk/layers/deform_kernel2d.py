"""Local Deformable Kernels: a kernel of its own at every position."""

import torch
from torch import Tensor

from mmdk.layers.kernel_offset_conv2d import KernelOffsetConv2d
from mmdk.ops import deform_kernel2d

__all__ = ['DeformKernel2d']


class DeformKernel2d(KernelOffsetConv2d):
    r"""Convolution that learns, at every position, where to sample its kernel from a scope.

    .. math::
        y[n,o,p] = b[o] + \sum_{c \in group(o)} \sum_k
            x[n, c, p \cdot stride - padding + k \cdot dilation]\,
            W[o, c, k + (S - K) / 2 + \Delta K_k(p)],
        \qquad \Delta K = \mathrm{clip}(\mathrm{conv\_offset}(x))

    x (N, C_in, H, W) gives y (N, C_out, H_out, W_out); W (C_out, C_in/groups, S_h, S_w) is the
    scope. `conv_offset`, a convolution of the same geometry with G*K_h*K_w*2 output channels,
    starts at zero, where the layer is a convolution with a fixed kernel. The paper trains it with a
    lower learning rate: in an MMEngine config
    `paramwise_cfg=dict(custom_keys={'conv_offset': dict(lr_mult=0.1)})`.

    In MMDetection configs this is type `'DK'`; see :func:`mmdk.layers.registry.build_layer` for
    the options that exist there only.

    Args:
        in_channels: See :class:`.ConvBase` for this and all up to `dtype`: nn.Conv2d's.
        scope_size: (S_h, S_w), or one int for both. None: K + 1, as in the paper.
        offset_groups: G, groups of input channels with offsets of their own; divides C_in. Group g
            owns channels [g*C_in/G, (g+1)*C_in/G).
        offset_clip: Largest \|offset\| in scope cells; 'scope' keeps every coordinate between the
            first and the last cell; None does not clip.

    Raises:
        ValueError: An argument is out of range, or two do not fit together.

    Source: Gao et al., Deformable Kernels, ICLR 2020, section 3.2 (local variant).

    Example:
        >>> import torch
        >>> from mmdk.layers import DeformKernel2d
        >>> layer = DeformKernel2d(8, 16, 3, padding=1)
        >>> layer(torch.randn(2, 8, 7, 9)).shape
        torch.Size([2, 16, 7, 9])
        >>> layer.weight.shape
        torch.Size([16, 8, 4, 4])
    """

    kind = 'DK'
    loadable_kinds = ('DK',)

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
        self.conv_offset = self._local_generator(self._kernel_offset_channels, device, dtype)

    def forward(self, x: Tensor) -> Tensor:
        x = self._pad(x)
        return deform_kernel2d(
            x,
            self.weight,
            kernel_offset=self._clip(self.conv_offset(x)),
            bias=self.bias,
            **self._geometry,
        )

    def kernel_offset(self, x: Tensor) -> Tensor:
        """The clipped offsets for an input: (N, G*K_h*K_w*2, H_out, W_out), scope cells, y first.

        Channel `tap * 2 + {0: y, 1: x}` inside an offset group. Tap k = (i, j) looks up the scope
        at k + (S - K) / 2 + offset.
        """
        return self._clip(self.conv_offset(self._pad(x)))
