"""Deformable Kernels and deformable convolution at once."""

import torch
from torch import Tensor

from mmdk.layers.arguments import checked_bool, checked_int
from mmdk.layers.kernel_offset_conv2d import KernelOffsetConv2d
from mmdk.ops import deform_kernel2d

__all__ = ['DeformKernelConv2d']


class DeformKernelConv2d(KernelOffsetConv2d):
    r"""Convolution that learns where to sample its kernel and where to sample the image.

    .. math::
        y[n,o,p] = b[o] + \sum_{c \in group(o)} \sum_k m_k(p)\,
            x[n, c, p \cdot stride - padding + k \cdot dilation + \Delta I_k(p)]\,
            W[o, c, k + (S - K) / 2 + \Delta K_k(p)]

    x (N, C_in, H, W) gives y (N, C_out, H_out, W_out); W (C_out, C_in/groups, S_h, S_w) is the
    scope. One generator `conv_offset`, a convolution of the same geometry that starts at zero,
    predicts everything else. Its output channels are, in this order:

    1. G*K_h*K_w*2 kernel offsets, then clipped to be :math:`\Delta K`, in scope cells;
    2. I*K_h*K_w*2 image offsets :math:`\Delta I`, in input pixels;
    3. with `modulated`, I*K_h*K_w logits z of the mask :math:`m = 2\,\mathrm{sigmoid}(z)`.

    Offset channel `tap * 2 + {0: y, 1: x}` inside an offset group. The mask is between 0 and 2 and
    starts at 1 (deformable convolution v2 starts at 1/2), so that with `conv_offset` at zero the
    layer is a convolution with a fixed kernel.

    In MMDetection configs this is type `'DKDCN'`; see :func:`mmdk.layers.registry.build_layer` for
    the options that exist there only.

    Args:
        in_channels: See :class:`.ConvBase` for this and all up to `dtype`: nn.Conv2d's.
        scope_size: (S_h, S_w), or one int for both. None: K + 1, as in the paper.
        offset_groups: G, groups of input channels with kernel offsets of their own; divides C_in.
            Group g owns channels [g*C_in/G, (g+1)*C_in/G).
        image_offset_groups: I, the same for image offsets and mask: MMCV's `deform_groups`.
        modulated: Whether there is a mask.
        offset_clip: Largest \|kernel offset\| in scope cells; 'scope' keeps every coordinate
            between the first and the last cell; None does not clip. Image offsets are not clipped.

    Raises:
        ValueError: An argument is out of range, or two do not fit together.

    Source: Gao et al., Deformable Kernels, ICLR 2020, section 3.3; Zhu et al., Deformable ConvNets
    v2, CVPR 2019, for the mask.

    Example:
        >>> import torch
        >>> from mmdk.layers import DeformKernelConv2d
        >>> layer = DeformKernelConv2d(8, 16, 3, padding=1, modulated=True)
        >>> layer(torch.randn(2, 8, 7, 9)).shape
        torch.Size([2, 16, 7, 9])
        >>> layer.conv_offset
        OffsetGenerator(8, 45, kernel_size=(3, 3))
    """

    kind = 'DKDCN'
    loadable_kinds = ('DKDCN',)
    offset_options = ('offset_groups', 'image_offset_groups', 'modulated')

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
        image_offset_groups: int = 1,
        modulated: bool = False,
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
        self.image_offset_groups = checked_int('image_offset_groups', image_offset_groups)
        self._check_divides('image_offset_groups', self.image_offset_groups)
        self.modulated = checked_bool('modulated', modulated)
        taps = self.image_offset_groups * self._taps
        self._channels = [self._kernel_offset_channels, taps * 2, taps if self.modulated else 0]
        self.conv_offset = self._local_generator(sum(self._channels), device, dtype)

    def forward(self, x: Tensor) -> Tensor:
        x = self._pad(x)
        kernel_offset, image_offset, mask = self._predict(x)
        return deform_kernel2d(
            x,
            self.weight,
            kernel_offset=kernel_offset,
            image_offset=image_offset,
            mask=mask,
            bias=self.bias,
            **self._geometry,
        )

    def kernel_offset(self, x: Tensor) -> Tensor:
        """The clipped kernel offsets for an input: (N, G*K_h*K_w*2, H_out, W_out), scope cells."""
        return self._predict(self._pad(x))[0]

    def image_offset(self, x: Tensor) -> Tensor:
        """The image offsets for an input: (N, I*K_h*K_w*2, H_out, W_out), input pixels, y first."""
        return self._predict(self._pad(x))[1]

    def _predict(self, padded: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        kernel_offset, image_offset, logits = self.conv_offset(padded).split(self._channels, 1)
        mask = 2 * logits.sigmoid() if self.modulated else None
        return self._clip(kernel_offset), image_offset, mask

    def extra_repr(self) -> str:
        return (
            f'{super().extra_repr()}, image_offset_groups={self.image_offset_groups}, '
            f'modulated={self.modulated}'
        )
