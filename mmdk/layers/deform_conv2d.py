"""Deformable convolution, v1 and v2, through the operator of the deformable kernels."""

import math

import torch
from torch import Tensor, nn

from mmdk.layers.arguments import checked_bool, checked_int
from mmdk.layers.conv_base import ConvBase
from mmdk.ops import deform_kernel2d

__all__ = ['DeformConv2d']

MASK_AT_REST = 0.5


class DeformConv2d(ConvBase):
    r"""Deformable convolution with exactly the parameters and outputs of MMCV's.

    .. math::
        y[n,o,p] = b[o] + \sum_{c \in group(o)} \sum_k m_k(p)\,
            x[n, c, p \cdot stride - padding + k \cdot dilation + \Delta I_k(p)]\, W[o, c, k]

    x (N, C_in, H, W) gives y (N, C_out, H_out, W_out). `conv_offset`, a convolution of the same
    geometry that starts at zero, predicts I*K_h*K_w*2 image offsets :math:`\Delta I`, in input
    pixels, channel `tap * 2 + {0: y, 1: x}` inside an offset group; and with `modulated` after them
    I*K_h*K_w logits z of the mask :math:`m = \mathrm{sigmoid}(z)`.

    Without `modulated` it is MMCV's `DeformConv2dPack` ('DCN'; pass `bias=False`: it has none),
    with it `ModulatedDeformConv2dPack` ('DCNv2'): state dicts load either way, and initial weights
    have MMCV's distribution. As in MMCV the mask starts at 1/2, so a new modulated layer gives half
    of what its kernel would. A plain convolution's weight is therefore doubled when it is loaded,
    and the layer first gives that convolution's output; MMCV would load it as it is and give half.

    Checkpoints from before MMCV 1.0 have the offsets of `conv2` beside it, as `conv2_offset`, where
    today's loaders let no layer see them; `mmengine.runner.load_checkpoint` renames them by
    ``revise_keys=[(r'(conv\d)_offset\.', r'\1.conv_offset.')]``.

    In MMDetection configs this is type `'FastDCN'`; see :func:`mmdk.layers.registry.build_layer`
    for the options that exist there only.

    Args:
        in_channels: See :class:`.ConvBase` for this and all up to `dtype`: nn.Conv2d's.
        deform_groups: I, groups of input channels with offsets of their own; divides C_in. Group g
            owns channels [g*C_in/I, (g+1)*C_in/I).
        modulated: Whether there is a mask (v2).

    Raises:
        ValueError: An argument is out of range, or two do not fit together.

    Source: Dai et al., Deformable Convolutional Networks, ICCV 2017; Zhu et al., Deformable
    ConvNets v2, CVPR 2019.

    Example:
        >>> import torch
        >>> from mmdk.layers import DeformConv2d
        >>> layer = DeformConv2d(8, 16, 3, padding=1, modulated=True)
        >>> layer(torch.randn(2, 8, 7, 9)).shape
        torch.Size([2, 16, 7, 9])
        >>> layer.conv_offset
        OffsetGenerator(8, 27, kernel_size=(3, 3))
    """

    kind = 'FastDCN'
    loadable_kinds = ('FastDCN', 'DCN')
    offset_options = ('deform_groups', 'modulated')

    # As MMCV's layers, which otherwise take a state for one of before version 2.
    _version = 2

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
        deform_groups: int = 1,
        modulated: bool = False,
    ):
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode
        )
        self.deform_groups = checked_int('deform_groups', deform_groups)
        self._check_divides('deform_groups', self.deform_groups)
        self.modulated = checked_bool('modulated', modulated)
        self._add_parameters(
            self._plain_shape, (self.out_channels,) if bias else None, device, dtype
        )
        taps = self.deform_groups * self._taps
        self._channels = [taps * 2, taps if self.modulated else 0]
        self.conv_offset = self._local_generator(sum(self._channels), device, dtype)

    def reset_parameters(self) -> None:
        """Initialise weight and bias as MMCV does."""
        if self.modulated:
            bound = 1 / math.sqrt(self.in_channels * self._taps)
            nn.init.uniform_(self.weight, -bound, bound)
        else:
            nn.init.kaiming_uniform_(self.weight, nonlinearity='relu')
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self._pad(x)
        image_offset, logits = self.conv_offset(x).split(self._channels, 1)
        return deform_kernel2d(
            x,
            self.weight,
            image_offset=image_offset,
            mask=logits.sigmoid() if self.modulated else None,
            bias=self.bias,
            **self._geometry,
        )

    def image_offset(self, x: Tensor) -> Tensor:
        """The image offsets for an input: (N, I*K_h*K_w*2, H_out, W_out), input pixels, y first."""
        return self.conv_offset(self._pad(x)).split(self._channels, 1)[0]

    def extra_repr(self) -> str:
        return (
            f'{super().extra_repr()}, deform_groups={self.deform_groups}, '
            f'modulated={self.modulated}'
        )

    def _lift(self, kernel: Tensor) -> Tensor:
        return kernel / MASK_AT_REST if self.modulated else kernel
