"""What all layers with a scope share."""

import math

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from torch import Tensor, nn

from mmdk.layers.arguments import checked_int, checked_pair
from mmdk.layers.lifting import lift_kernel

__all__ = ['ScopeConv2d']

PADDING_MODES = ('zeros', 'reflect', 'replicate', 'circular')


class ScopeConv2d(nn.Module):
    """nn.Conv2d's arguments and attributes, with a scope as its weight. A subclass adds `forward`.

    The initial weight is nn.Conv2d's, lifted: the kernel sampled at zero offset has exactly the
    distribution that nn.Conv2d's would have. A K x K weight in a state dict is lifted too, and the
    missing `conv_offset` beside it is zero: a plain model's checkpoint loads and the layer first
    computes what the plain one did.

    Like MMCV's deformable convolutions it is no nn.Conv2d: stock models would initialise one as if
    its scope were a kernel.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        kernel_size: (K_h, K_w), or one int for both.
        stride: Step between outputs, in input pixels.
        padding: Pixels around the input; or 'valid' (none); or 'same', for stride 1 and an even
            dilation * (K - 1).
        dilation: Distance between taps, in input pixels.
        groups: Convolution groups; divides C_in and C_out.
        bias: Whether there is one.
        padding_mode: 'zeros', 'reflect', 'replicate' or 'circular'.
        device: Of the parameters.
        dtype: Of the parameters.
        scope_size: (S_h, S_w), or one int for both; at least the kernel's. None: K + 1.

    Raises:
        ValueError: An argument is out of range, or two do not fit together.
    """

    # Read by mmcv.cnn.ConvModule.
    transposed = False
    output_padding = (0, 0)

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
        super().__init__()
        self.in_channels = checked_int('in_channels', in_channels)
        self.out_channels = checked_int('out_channels', out_channels)
        self.groups = checked_int('groups', groups)
        self.kernel_size = checked_pair('kernel_size', kernel_size, least=1)
        self.stride = checked_pair('stride', stride, least=1)
        self.dilation = checked_pair('dilation', dilation, least=1)
        self.padding = self._resolve_padding(padding)
        if padding_mode not in PADDING_MODES:
            raise ValueError(f'padding_mode must be one of {PADDING_MODES}, got {padding_mode!r}.')
        self.padding_mode = padding_mode
        if scope_size is None:
            scope_size = tuple(size + 1 for size in self.kernel_size)
        self.scope_size = checked_pair('scope_size', scope_size, least=1)
        self._check_channels()
        self._check_scope()
        self.weight = nn.Parameter(
            torch.empty(
                (self.out_channels, self.in_channels // self.groups, *self.scope_size),
                device=device,
                dtype=dtype,
            )
        )
        self.register_parameter(
            'bias',
            nn.Parameter(torch.empty(self.out_channels, device=device, dtype=dtype))
            if bias
            else None,
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise weight and bias as nn.Conv2d would, the weight lifted."""
        kernel = self.weight.new_empty(*self.weight.shape[:2], *self.kernel_size)
        nn.init.kaiming_uniform_(kernel, a=math.sqrt(5))
        with torch.no_grad():
            self.weight.copy_(lift_kernel(kernel, self.scope_size))
        if self.bias is not None:
            bound = 1 / math.sqrt(kernel[0].numel())
            nn.init.uniform_(self.bias, -bound, bound)

    def init_weights(self) -> None:
        """Draw anew, as MMEngine asks of a layer that initialises itself.

        Because it is there, ConvModule does not initialise the scope as if it were a kernel.
        """
        self.reset_parameters()

    def extra_repr(self) -> str:
        parts = [
            f'{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}',
            f'scope_size={self.scope_size}, stride={self.stride}, padding={self.padding}',
            f'dilation={self.dilation}, groups={self.groups}, bias={self.bias is not None}',
            f'padding_mode={self.padding_mode!r}',
        ]
        return ', '.join(parts)

    def _pad(self, x: Tensor) -> Tensor:
        """Apply padding that the operator does not do itself."""
        if self.padding_mode == 'zeros':
            return x
        vertical, horizontal = self.padding
        padding = (horizontal, horizontal, vertical, vertical)
        return F.pad(x, padding, mode=self.padding_mode)

    @property
    def _operator_padding(self) -> tuple[int, int]:
        """What is left for the operator to pad, with zeros."""
        return self.padding if self.padding_mode == 'zeros' else (0, 0)

    def _resolve_padding(self, padding: int | tuple[int, int] | str) -> tuple[int, int]:
        if not isinstance(padding, str):
            return checked_pair('padding', padding, least=0)
        if padding == 'valid':
            return (0, 0)
        if padding != 'same':
            raise ValueError(f"padding must be 'same', 'valid', an int or a pair, got {padding!r}.")
        reach = [d * (k - 1) for k, d in zip(self.kernel_size, self.dilation, strict=True)]
        if self.stride != (1, 1) or any(r % 2 for r in reach):
            raise ValueError(
                "padding='same' needs stride 1 and an even dilation * (kernel_size - 1), got "
                f'stride {self.stride}, kernel_size {self.kernel_size}, dilation {self.dilation}; '
                'give the padding in pixels.'
            )
        return tuple(r // 2 for r in reach)

    def _check_channels(self) -> None:
        for name in ('in_channels', 'out_channels'):
            if getattr(self, name) % self.groups:
                raise ValueError(
                    f'groups={self.groups} does not divide {name}={getattr(self, name)}.'
                )

    def _check_scope(self) -> None:
        if any(s < k for s, k in zip(self.scope_size, self.kernel_size, strict=True)):
            raise ValueError(
                f'scope_size {self.scope_size} is smaller than kernel_size {self.kernel_size}; '
                'a kernel is sampled inside its scope: enlarge scope_size.'
            )

    def _load_from_state_dict(
        self,
        state_dict,
        prefix,
        local_metadata,
        strict,
        missing_keys,
        unexpected_keys,
        error_msgs,
    ):
        if self._is_plain(state_dict, prefix):
            foreign = _offset_keys(state_dict, prefix)
            if foreign:
                self._refuse(foreign, state_dict, prefix, error_msgs)
                return
            self._lift_in(state_dict, prefix, local_metadata)
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )

    def _is_plain(self, state_dict: dict, prefix: str) -> bool:
        """Whether the entries under `prefix` are a plain convolution's."""
        weight = state_dict.get(f'{prefix}weight')
        if getattr(weight, 'shape', None) != (*self.weight.shape[:2], *self.kernel_size):
            return False
        # A scope of the kernel's size is told from a kernel by the offsets beside it.
        return self.scope_size != self.kernel_size or not _offset_keys(state_dict, prefix)

    def _refuse(
        self, foreign: list[str], state_dict: dict, prefix: str, error_msgs: list[str]
    ) -> None:
        """Report offsets that belong to a plain kernel, and load none of them."""
        error_msgs.append(
            f'{prefix}weight is a plain {self.kernel_size} kernel, yet {foreign[0]} is in the '
            'checkpoint: these are offsets of another kind of layer (deformable convolution?), '
            'which mean something else here. Nothing was loaded into this layer. To lift the '
            "kernel and start with zero offsets, drop them: init_cfg's or load_checkpoint's "
            r"revise_keys=[(r'\bconv_offset\b', 'ignored_offset')]."
        )
        for key in foreign:
            del state_dict[key]

    def _lift_in(self, state_dict: dict, prefix: str, local_metadata: dict) -> None:
        """Replace a plain convolution's entries by those of the layer that computes the same."""
        weight = state_dict[f'{prefix}weight']
        if not local_metadata.get('assign_to_params_buffers', False):
            # A half-precision kernel would lose digits if its scope were rounded to half again.
            weight = weight.to(torch.promote_types(weight.dtype, self.weight.dtype))
        state_dict[f'{prefix}weight'] = lift_kernel(weight, self.scope_size)
        for name, parameter in self.named_parameters():
            if name.startswith('conv_offset.'):
                state_dict[prefix + name] = weight.new_zeros(parameter.shape)
        print_log(
            f'{prefix}weight: lifted from kernel {self.kernel_size} to scope {self.scope_size}',
            logger='current',
        )


def _offset_keys(state_dict: dict, prefix: str) -> list[str]:
    return [key for key in state_dict if key.startswith(f'{prefix}conv_offset.')]
