"""What all layers share: nn.Conv2d's arguments, and the loading of its weights."""

import math

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from torch import Tensor, nn

from mmdk.layers.arguments import checked_int, checked_pair
from mmdk.layers.offset_generator import OffsetGenerator

__all__ = ['ConvBase']

PADDING_MODES = ('zeros', 'reflect', 'replicate', 'circular')


class ConvBase(nn.Module):
    """nn.Conv2d's arguments and attributes; a plain convolution's state dict loads.

    A subclass calls `_add_parameters`, says by `_lift` and `_lift_bias` what its parameters are for
    those of the plain convolution that it replaces, and adds `forward`. Its generator, of offsets
    or the like, is zero when it replaces a plain convolution.

    A state dict of another type of layer is refused, even where all shapes fit: the type is
    written into the metadata that PyTorch keeps beside a state dict's entries.

    Like MMCV's deformable convolutions it is no nn.Conv2d: stock models would initialise one as if
    its weight were a kernel.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        kernel_size: (K_h, K_w), or one int for both.
        stride: Step between outputs, in input pixels.
        padding: Pixels around the input; or 'valid' (none); or 'same', for stride 1 and an even
            dilation * (K - 1).
        dilation: Distance between taps, in input pixels.
        groups: Convolution groups; divides C_in and C_out.
        padding_mode: 'zeros', 'reflect', 'replicate' or 'circular'.

    Attributes:
        kind: The layer's type in MMEngine's registry.
        loadable_kinds: The types whose state dicts it loads.
        generator_name: The part that predicts offsets, or what else is zero at rest.
        offset_options: The arguments that decide how many channels `conv_offset` has.

    Raises:
        ValueError: An argument is out of range, or two do not fit together.
    """

    kind: str
    loadable_kinds: tuple[str, ...]
    generator_name = 'conv_offset'
    offset_options: tuple[str, ...] = ()

    # Read by mmcv.cnn.ConvModule.
    transposed = False
    output_padding = (0, 0)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int],
        padding: int | tuple[int, int] | str,
        dilation: int | tuple[int, int],
        groups: int,
        padding_mode: str,
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
        self._check_channels()

    def reset_parameters(self) -> None:
        """Initialise weight and bias as those of an nn.Conv2d, lifted."""
        kernel = self.weight.new_empty(self._plain_shape)
        nn.init.kaiming_uniform_(kernel, a=math.sqrt(5))
        with torch.no_grad():
            self.weight.copy_(self._lift(kernel))
            if self.bias is not None:
                bound = 1 / math.sqrt(kernel[0].numel())
                bias = self.bias.new_empty(self.out_channels).uniform_(-bound, bound)
                self.bias.copy_(self._lift_bias(bias))

    def init_weights(self) -> None:
        """Draw anew, as MMEngine asks of a layer that initialises itself.

        Because it is there, ConvModule does not initialise the weight as if it were a kernel.
        """
        self.reset_parameters()
        if self._generator is not None:
            self._generator.reset_parameters()

    def extra_repr(self) -> str:
        return (
            f'{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, '
            f'stride={self.stride}, padding={self.padding}, dilation={self.dilation}, '
            f'groups={self.groups}, bias={self.bias is not None}, '
            f'padding_mode={self.padding_mode!r}'
        )

    @property
    def _generator(self) -> nn.Module | None:
        return self._modules.get(self.generator_name)

    @property
    def _plain_shape(self) -> tuple[int, ...]:
        """The shape of the plain convolution's weight."""
        return (self.out_channels, self.in_channels // self.groups, *self.kernel_size)

    def _add_parameters(
        self,
        weight_shape: tuple[int, ...],
        bias_shape: tuple[int, ...] | None,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        """Create and initialise weight and bias."""
        self.weight = nn.Parameter(torch.empty(weight_shape, device=device, dtype=dtype))
        bias = None
        if bias_shape is not None:
            bias = nn.Parameter(torch.empty(bias_shape, device=device, dtype=dtype))
        self.register_parameter('bias', bias)
        self.reset_parameters()

    def _lift(self, kernel: Tensor) -> Tensor:
        """The weight with which the layer, at rest, computes what this plain kernel does."""
        raise NotImplementedError

    def _lift_bias(self, bias: Tensor) -> Tensor:
        """The bias with which the layer, at rest, adds this plain one, (C_out,)."""
        return bias

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

    @property
    def _taps(self) -> int:
        return self.kernel_size[0] * self.kernel_size[1]

    @property
    def _geometry(self) -> dict[str, tuple[int, int]]:
        """How the operator steps over the input, once `_pad` has been applied."""
        return dict(
            kernel_size=self.kernel_size,
            stride=self.stride,
            padding=self._operator_padding,
            dilation=self.dilation,
        )

    def _local_generator(
        self, channels: int, device: torch.device | str | None, dtype: torch.dtype | None
    ) -> OffsetGenerator:
        """Predicts `channels` numbers at every output, from what the kernel sees there."""
        return OffsetGenerator(
            self.in_channels, channels, **self._geometry, device=device, dtype=dtype
        )

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
            self._check_divides('groups', self.groups, name)

    def _check_divides(self, name: str, groups: int, of: str = 'in_channels') -> None:
        if getattr(self, of) % groups:
            number = getattr(self, of)
            raise ValueError(f'{name}={groups} does not divide {of}={number}; give one that does.')

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        super()._save_to_state_dict(destination, prefix, keep_vars)
        metadata = getattr(destination, '_metadata', {}).get(prefix[:-1])
        if metadata is not None:
            metadata['kind'] = self.kind

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
        reason = self._refusal(state_dict, prefix, local_metadata)
        if reason is not None:
            error_msgs.append(f'{reason} Nothing was loaded into this layer.')
            for key in [key for key in state_dict if key.startswith(prefix)]:
                del state_dict[key]
            return
        if self._is_plain(state_dict, prefix):
            self._lift_in(state_dict, prefix, local_metadata)
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )

    def _is_plain(self, state_dict: dict, prefix: str) -> bool:
        """Whether the entries under `prefix` are a plain convolution's."""
        weight = state_dict.get(f'{prefix}weight')
        if not isinstance(weight, Tensor) or weight.shape != self._plain_shape:
            return False
        return not self._generator_keys(state_dict, prefix)

    def _generator_keys(self, state_dict: dict, prefix: str) -> list[str]:
        """The entries under `prefix` of this layer's generator, or of another kind of layer's."""
        starts = (f'{prefix}{self.generator_name}.', f'{prefix}conv_offset.')
        return [key for key in state_dict if key.startswith(starts)]

    def _refusal(self, state_dict: dict, prefix: str, local_metadata: dict) -> str | None:
        """Why the entries under `prefix` cannot be loaded, and what to do; None if they can."""
        weight = state_dict.get(f'{prefix}weight')
        # What is no tensor, PyTorch refuses.
        if not isinstance(weight, Tensor) or self._is_plain(state_dict, prefix):
            return None
        foreign = self._generator_keys(state_dict, prefix)
        if weight.shape == self._plain_shape != self.weight.shape:
            return (
                f'{prefix}weight is a plain {self.kernel_size} kernel, yet {foreign[0]} is in the '
                'checkpoint: these are offsets of another kind of layer (deformable '
                'convolution?), which mean something else here. To start from the kernel alone, '
                'drop them: mmengine.runner.load_checkpoint takes '
                r"revise_keys=[(r'\bconv_offset\b', 'ignored_offset')]."
            )
        kind = _saved_kind(local_metadata)
        if kind is not None and kind not in self.loadable_kinds:
            return (
                f'{prefix}weight was saved by a layer of type {kind!r}, whose parameters mean '
                f'something else than those of type {self.kind!r} here. Build this layer as '
                f'{kind!r}, or leave the entries under {prefix!r} out of the checkpoint.'
            )
        return self._size_mismatch(state_dict, prefix)

    def _size_mismatch(self, state_dict: dict, prefix: str) -> str | None:
        """What is wrong with sizes that an option of the layer decides, and the cure."""
        shape = tuple(state_dict[f'{prefix}weight'].shape)
        offset = state_dict.get(f'{prefix}conv_offset.weight')
        if offset is None and len(shape) == 4 and shape != tuple(self.weight.shape):
            if shape[:2] != self._plain_shape[:2]:
                return None
            return (
                f'size mismatch for {prefix}weight: a plain {shape[2:]} kernel is in the '
                f'checkpoint, and kernel_size here is {self.kernel_size}. Build the layer with '
                f'kernel_size={shape[2:]}.'
            )
        if offset is not None and self.offset_options:
            expected = tuple(self.conv_offset.weight.shape)
            if tuple(offset.shape) != expected:
                options = ', '.join(f'{name}={getattr(self, name)}' for name in self.offset_options)
                return (
                    f'size mismatch for {prefix}conv_offset.weight: {tuple(offset.shape)} is in '
                    f'the checkpoint, {expected} is expected with {options}. Build the layer with '
                    'the type and options of the one that was saved.'
                )
        return None

    def _lift_in(self, state_dict: dict, prefix: str, local_metadata: dict) -> None:
        """Replace a plain convolution's entries by those of the layer that computes the same."""
        weight = state_dict[f'{prefix}weight']
        bias = state_dict.get(f'{prefix}bias')
        if not local_metadata.get('assign_to_params_buffers', False):
            # A half-precision kernel would lose digits if it were rounded to half again.
            weight = weight.to(torch.promote_types(weight.dtype, self.weight.dtype))
        state_dict[f'{prefix}weight'] = self._lift(weight)
        if bias is not None:
            state_dict[f'{prefix}bias'] = self._lift_bias(bias)
        if self._generator is not None:
            for name, parameter in self._generator.named_parameters(self.generator_name):
                state_dict[prefix + name] = weight.new_zeros(parameter.shape)
        print_log(
            f'{prefix}weight: a plain kernel {self.kernel_size}, lifted to type {self.kind!r} with '
            f'weight {tuple(self.weight.shape)}',
            logger='current',
        )


def _saved_kind(local_metadata: dict) -> str | None:
    """The type of the layer that saved a state, as far as its metadata tell."""
    kind = local_metadata.get('kind')
    if kind is None and local_metadata.get('version') == 2:
        # MMCV's deformable convolutions have a state of version 2, plain convolutions of version 1.
        return 'DCN'
    return kind
