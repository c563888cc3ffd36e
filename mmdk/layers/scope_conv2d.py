"""What all layers with a scope share."""

import torch
from torch import Tensor

from mmdk.layers.arguments import checked_pair
from mmdk.layers.conv_base import ConvBase
from mmdk.layers.lifting import fixed_noise, lift_kernel

__all__ = ['ScopeConv2d']


class ScopeConv2d(ConvBase):
    """A convolution with a scope as its weight. A subclass adds `forward`.

    The initial weight is nn.Conv2d's, lifted: the kernel sampled at zero offset has exactly the
    distribution that nn.Conv2d's would have. A K x K weight in a state dict is lifted too, and the
    missing `conv_offset` beside it is zero: a plain model's checkpoint loads and the layer first
    computes what the plain one did.

    Along an axis where the kernel has one tap, the smoothest scope is constant: moving the tap
    would change nothing, no gradient would reach the offsets, all cells would get the same one, and
    so it would stay. There each kernel gets a small slope, which is zero where the tap rests.

    Args:
        in_channels: See :class:`.ConvBase` for this and all up to `groups`.
        bias: Whether there is one.
        padding_mode: 'zeros', 'reflect', 'replicate' or 'circular'.
        device: Of the parameters.
        dtype: Of the parameters.
        scope_size: (S_h, S_w), or one int for both; at least the kernel's. None: K + 1.

    Raises:
        ValueError: An argument is out of range, or two do not fit together.
    """

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
    ):
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode
        )
        if scope_size is None:
            scope_size = tuple(size + 1 for size in self.kernel_size)
        self.scope_size = checked_pair('scope_size', scope_size, least=1)
        self._check_scope()
        shape = (self.out_channels, self.in_channels // self.groups, *self.scope_size)
        self._add_parameters(shape, (self.out_channels,) if bias else None, device, dtype)

    def extra_repr(self) -> str:
        return f'{super().extra_repr()}, scope_size={self.scope_size}'

    def _lift(self, kernel: Tensor) -> Tensor:
        scope = lift_kernel(kernel, self.scope_size)
        single = [axis for axis in (0, 1) if self.kernel_size[axis] == 1]
        if not single:
            return scope
        slopes = fixed_noise((2, *kernel.shape[:2]), kernel)[..., None, None]
        return scope + sum(slopes[axis] * self._from_middle(axis, kernel) for axis in single)

    def _from_middle(self, axis: int, like: Tensor) -> Tensor:
        """How far each cell is from the scope's middle along an axis, (S_h, 1) or (1, S_w)."""
        size = self.scope_size[axis]
        cells = torch.arange(size, device=like.device, dtype=like.dtype) - (size - 1) / 2
        return cells[:, None] if axis == 0 else cells[None, :]

    def _check_scope(self) -> None:
        if any(s < k for s, k in zip(self.scope_size, self.kernel_size, strict=True)):
            raise ValueError(
                f'scope_size {self.scope_size} is smaller than kernel_size {self.kernel_size}; '
                'a kernel is sampled inside its scope: enlarge scope_size.'
            )

    def _size_mismatch(self, state_dict: dict, prefix: str) -> str | None:
        shape = tuple(state_dict[f'{prefix}weight'].shape)
        is_scope = f'{prefix}conv_offset.weight' in state_dict and len(shape) == 4
        if is_scope and shape[2:] != self.scope_size:
            return (
                f'size mismatch for {prefix}weight: a scope of {shape[2:]} is in the checkpoint, '
                f'and scope_size here is {self.scope_size}. Build the layer with '
                f'scope_size={shape[2:]}.'
            )
        return super()._size_mismatch(state_dict, prefix)
