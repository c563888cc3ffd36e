"""What all layers that move their taps in the scope share: offset groups and clipping."""

import torch
from torch import Tensor

from mmdk.layers.arguments import checked_int
from mmdk.layers.scope_conv2d import ScopeConv2d

__all__ = ['KernelOffsetConv2d', 'clip_to_scope']


class KernelOffsetConv2d(ScopeConv2d):
    r"""A scope and the kernel offsets into it. A subclass adds `conv_offset` and what reads it.

    Args:
        *args: See :class:`.ScopeConv2d`.
        offset_groups: G, groups of input channels with kernel offsets of their own; divides C_in.
            Group g owns channels [g*C_in/G, (g+1)*C_in/G).
        offset_clip: Largest \|kernel offset\| in scope cells; 'scope' keeps every coordinate
            between the first and the last cell; None does not clip.
        **kwargs: See :class:`.ScopeConv2d`.

    Raises:
        ValueError: An argument is out of range, or two do not fit together.
    """

    offset_options = ('offset_groups',)

    def __init__(
        self,
        *args,
        offset_groups: int = 1,
        offset_clip: float | str | None = None,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        self.offset_groups = checked_int('offset_groups', offset_groups)
        self._check_divides('offset_groups', self.offset_groups)
        self.offset_clip = offset_clip
        self._check_clip()

    def kernel_offset(self, x: Tensor) -> Tensor:
        """The clipped kernel offsets for an input, (N, G*K_h*K_w*2, ...), scope cells, y first.

        Channel `tap * 2 + {0: y, 1: x}` inside an offset group. Tap k = (i, j) looks up the scope
        at k + (S - K) / 2 + offset.
        """
        raise NotImplementedError

    @property
    def _kernel_offset_channels(self) -> int:
        return self.offset_groups * self._taps * 2

    def _clip(self, offset: Tensor) -> Tensor:
        if self.offset_clip is None:
            return offset
        if self.offset_clip == 'scope':
            return clip_to_scope(offset, self.kernel_size, self.scope_size)
        return offset.clamp(-self.offset_clip, self.offset_clip)

    def extra_repr(self) -> str:
        return (
            f'{super().extra_repr()}, offset_groups={self.offset_groups}, '
            f'offset_clip={self.offset_clip!r}'
        )

    def _check_clip(self) -> None:
        clip = self.offset_clip
        is_number = isinstance(clip, (int, float)) and not isinstance(clip, bool) and clip > 0
        if clip is not None and clip != 'scope' and not is_number:
            raise ValueError(
                "offset_clip must be None, 'scope' or a positive number of scope cells, got "
                f'{clip!r}.'
            )


def clip_to_scope(
    offset: Tensor, kernel_size: tuple[int, int], scope_size: tuple[int, int]
) -> Tensor:
    """Keep the coordinate of each tap between the first and the last cell of the scope.

    Args:
        offset: Kernel offsets, (N, G*K_h*K_w*2, H, W), scope cells, y before x.
        kernel_size: (K_h, K_w).
        scope_size: (S_h, S_w).

    Example:
        >>> import torch
        >>> clip_to_scope(torch.full((1, 2, 1, 1), 9.0), (1, 1), (2, 4)).flatten().tolist()
        [0.5, 1.5]
    """
    y, x = offset.unflatten(1, (-1, *kernel_size, 2)).unbind(4)
    rest_y, rest_x = (
        torch.arange(kernel, device=offset.device, dtype=offset.dtype) + (scope - kernel) / 2
        for kernel, scope in zip(kernel_size, scope_size, strict=True)
    )
    rest_y, rest_x = rest_y[:, None, None, None], rest_x[:, None, None]
    y = y.clamp(-rest_y, scope_size[0] - 1 - rest_y)
    x = x.clamp(-rest_x, scope_size[1] - 1 - rest_x)
    return torch.stack([y, x], 4).flatten(1, 4)
