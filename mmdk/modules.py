"""The six modules of the paper's released code, by their names, signatures and state dicts.

Code written for https://github.com/hangg7/deformable-kernels (commit 886c353) runs after its import
line alone is changed, from `deformable_kernels.modules` to `mmdk.modules`; on any device, without
apex, and with gradients for everything. State dicts saved by it load, and modules give what it gave
except where it could not work or did not do what its README promises; each docstring says where.
New code has :mod:`mmdk.layers`, with `nn.Conv2d`'s signature, lifting of ordinary weights, and
types for MMDetection's configs.

What is different in all of them: new weights have the distribution that a plain convolution's would
have after sampling; the convolutions and linear layers that predict offsets are zero (there, a flag
`zero_init` asks the caller to do that); kernel size and geometry may differ by axis; `bias=True` is
not refused; convolutions need not be depthwise.
"""

import torch
from torch import Tensor, nn

from mmdk import layers
from mmdk.layers.arguments import checked_int
from mmdk.layers.kernel_offset_conv2d import clip_to_scope
from mmdk.layers.scope_conv2d import ScopeConv2d
from mmdk.layers.zero_linear import ZeroLinear
from mmdk.ops import deform_kernel2d

__all__ = [
    'CondConv2d',
    'DeformConv2d',
    'DeformKernel2d',
    'DeformKernelConv2d',
    'GlobalDeformKernel2d',
    'LocalDeformKernel2d',
]

Size = int | tuple[int, int]
Bounds = tuple[float, float] | dict[str, float]


class GlobalDeformKernel2d(ScopeConv2d):
    """Global Deformable Kernels: one kernel for each image, its taps kept inside the scope.

    State dict: `weight` (out_planes, in_planes/groups, S_h, S_w), `fc.weight` (K_h*K_w*2,
    in_planes), `fc.bias`. x (N, in_planes, H, W) gives (N, out_planes, H_out, W_out).

    The released code leaves the new weight uninitialised, and keeps both coordinates of a tap below
    the scope's height; here each is kept below the size of its own axis. Scopes of more than two
    dimensions are not supported.

    Args:
        weight_shape: The scope, (S_h, S_w).
        in_planes: C_in.
        out_planes: C_out.
        kernel_size: As the following, nn.Conv2d's.
        stride: Step between outputs, in input pixels.
        padding: Zeros around the input, in input pixels.
        dilation: Distance between taps, in input pixels.
        groups: Convolution groups.
        bias: Whether there is one.

    Raises:
        ValueError: An argument is out of range, or two do not fit together.

    Example:
        >>> import torch
        >>> from mmdk.modules import GlobalDeformKernel2d
        >>> gdk = GlobalDeformKernel2d((2, 2), 8, 8, groups=8)
        >>> gdk(torch.randn(2, 8, 5, 6)).shape
        torch.Size([2, 8, 5, 6])
    """

    kind = 'mmdk.modules.GlobalDeformKernel2d'
    loadable_kinds = (kind,)
    generator_name = 'fc'

    def __init__(
        self,
        weight_shape: tuple[int, int],
        in_planes: int,
        out_planes: int,
        kernel_size: Size = 1,
        stride: Size = 1,
        padding: Size = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = False,
    ):
        super().__init__(
            in_planes,
            out_planes,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            scope_size=weight_shape,
        )
        self.fc = ZeroLinear(self.in_channels, self._taps * 2)

    def forward(self, x: Tensor) -> Tensor:
        offset = self.fc(x.mean((2, 3)))[:, :, None, None]
        return deform_kernel2d(
            x,
            self.weight,
            kernel_offset=clip_to_scope(offset, self.kernel_size, self.scope_size),
            bias=self.bias,
            **self._geometry,
        )


class LocalDeformKernel2d(nn.Module):
    """Local Deformable Kernels: a kernel of its own at every position.

    State dict: `rotation_conv.weight` (rotation_groups*K_h*K_w*2, in_planes, K_h, K_w),
    `rotation_conv.bias`, `inner_conv.weight` (out_planes, in_planes/groups, S_h, S_w).
    x (N, in_planes, H, W) gives (N, out_planes, H_out, W_out).

    Channel c has the offsets of group `c % rotation_groups`, as in the released code, and unlike in
    :class:`mmdk.layers.DeformKernel2d`, where a group owns neighbouring channels.

    The released code has no working gradient, and fails for a `rotation_clip` that is a pair; its
    'scope' keeps both coordinates of a tap below the scope's height, here each is kept below the
    size of its own axis.

    Args:
        weight_shape: The scope, (S_h, S_w).
        in_planes: C_in.
        out_planes: C_out.
        kernel_size: As the following, nn.Conv2d's.
        stride: Step between outputs, in input pixels.
        padding: Zeros around the input, in input pixels.
        dilation: Distance between taps, in input pixels.
        groups: Convolution groups.
        rotation_groups: Groups of channels with offsets of their own; more than one needs
            groups = in_planes = out_planes.
        bias: Whether there is one.
        rotation_clip: None; 'scope', for coordinates between the first and the last cell; or the
            least and the largest offset in scope cells, as (low, high) or dict(min=, max=).

    Raises:
        ValueError: An argument is out of range, or two do not fit together.

    Example:
        >>> import torch
        >>> from mmdk.modules import DeformKernel2d
        >>> dk = DeformKernel2d((4, 4), 8, 8, 3, 1, 1, groups=8)
        >>> dk(torch.randn(2, 8, 5, 6)).shape
        torch.Size([2, 8, 5, 6])
    """

    def __init__(
        self,
        weight_shape: tuple[int, int],
        in_planes: int,
        out_planes: int,
        kernel_size: Size = 1,
        stride: Size = 1,
        padding: Size = 0,
        dilation: Size = 1,
        groups: int = 1,
        rotation_groups: int = 1,
        bias: bool = False,
        rotation_clip: str | Bounds | None = None,
    ):
        super().__init__()
        geometry = (kernel_size, stride, padding, dilation)
        self.inner_conv = _InnerConv(
            weight_shape, in_planes, out_planes, *geometry, groups, bias, rotation_groups
        )
        self.rotation_conv = self.inner_conv.generator(self.inner_conv.rotation_groups)
        self.rotation_clip = rotation_clip
        if rotation_clip is not None and rotation_clip != 'scope':
            self.rotation_clip = _bounds('rotation_clip', rotation_clip, "None, 'scope', ")

    def forward(self, x: Tensor) -> Tensor:
        rotation = self.rotation_conv(x)
        if self.rotation_clip == 'scope':
            scope = self.inner_conv
            rotation = clip_to_scope(rotation, scope.kernel_size, scope.scope_size)
        elif self.rotation_clip is not None:
            rotation = rotation.clamp(*self.rotation_clip)
        return self.inner_conv(x, rotation)

    def extra_repr(self) -> str:
        return f'rotation_clip={self.rotation_clip!r}'


DeformKernel2d = LocalDeformKernel2d


class DeformKernelConv2d(nn.Module):
    """Local Deformable Kernels with deformable convolution: kernel and image offsets learnt.

    State dict: `offset_conv.weight` (K_h*K_w*2, in_planes, K_h, K_w) and `offset_conv.bias` for the
    image, `rotation_conv.weight` and `rotation_conv.bias` of the same shapes for the kernel,
    `inner_conv.weight` (out_planes, in_planes/groups, S_h, S_w). x (N, in_planes, H, W) gives
    (N, out_planes, H_out, W_out). What `offset_conv` predicts counts in steps of the dilation, not
    in pixels.

    The released code's README promises kernel and image offsets separately learnt; the code has
    no kernel offsets. Here they are learnt, by `rotation_conv`. A state dict of the released code
    has none: they are then zero, and the output is the released code's. It has no working gradient.

    Args:
        weight_shape: The scope, (S_h, S_w).
        in_planes: C_in.
        out_planes: C_out.
        kernel_size: As the following, nn.Conv2d's.
        stride: Step between outputs, in input pixels.
        padding: Zeros around the input, in input pixels.
        dilation: Distance between taps, in input pixels.
        groups: Convolution groups.
        bias: Whether there is one.
        offset_clip: None; or the least and the largest image offset, in steps of the dilation, as
            (low, high) or dict(min=, max=).

    Raises:
        ValueError: An argument is out of range, or two do not fit together.

    Example:
        >>> import torch
        >>> from mmdk.modules import DeformKernelConv2d
        >>> dkc = DeformKernelConv2d((4, 4), 8, 8, 3, 1, 1, groups=8)
        >>> dkc(torch.randn(2, 8, 5, 6)).shape
        torch.Size([2, 8, 5, 6])
    """

    def __init__(
        self,
        weight_shape: tuple[int, int],
        in_planes: int,
        out_planes: int,
        kernel_size: Size = 1,
        stride: Size = 1,
        padding: Size = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = False,
        offset_clip: Bounds | None = None,
    ):
        super().__init__()
        geometry = (kernel_size, stride, padding, dilation)
        self.inner_conv = _InnerConv(weight_shape, in_planes, out_planes, *geometry, groups, bias)
        self.offset_conv = self.inner_conv.generator()
        self.rotation_conv = self.inner_conv.generator()
        self.offset_clip = offset_clip
        if offset_clip is not None:
            self.offset_clip = _bounds('offset_clip', offset_clip, 'None, ')

    def forward(self, x: Tensor) -> Tensor:
        return self.inner_conv(x, self._rotation(x), self._image_offset(x))

    def _rotation(self, x: Tensor) -> Tensor | None:
        return self.rotation_conv(x)

    def _image_offset(self, x: Tensor) -> Tensor:
        steps = self.offset_conv(x)
        if self.offset_clip is not None:
            steps = steps.clamp(*self.offset_clip)
        vertical, horizontal = self.inner_conv.dilation
        y, x = steps.unflatten(1, (-1, 2)).unbind(2)
        return torch.stack([y * vertical, x * horizontal], 2).flatten(1, 2)

    def extra_repr(self) -> str:
        return f'offset_clip={self.offset_clip!r}'

    def _load_from_state_dict(self, state_dict, prefix, *args):
        if f'{prefix}inner_conv.weight' in state_dict:
            for name, parameter in self.named_parameters():
                if name.startswith('rotation_conv.'):
                    state_dict.setdefault(prefix + name, torch.zeros_like(parameter, device='cpu'))
        super()._load_from_state_dict(state_dict, prefix, *args)


class DeformConv2d(DeformKernelConv2d):
    """Deformable convolution, v1: image offsets alone.

    State dict: `offset_conv.weight`, `offset_conv.bias` and `inner_conv.weight`, as those of
    :class:`DeformKernelConv2d` but for the kernel in the place of the scope.

    The released code has no working gradient.

    Args:
        in_planes: C_in.
        out_planes: C_out.
        kernel_size: As the following, nn.Conv2d's.
        stride: Step between outputs, in input pixels.
        padding: Zeros around the input, in input pixels.
        dilation: Distance between taps, in input pixels.
        groups: Convolution groups.
        bias: Whether there is one.
        offset_clip: See :class:`DeformKernelConv2d`.

    Raises:
        ValueError: An argument is out of range, or two do not fit together.

    Example:
        >>> import torch
        >>> from mmdk.modules import DeformConv2d
        >>> dcn = DeformConv2d(8, 8, 3, 1, 1, groups=8)
        >>> dcn(torch.randn(2, 8, 5, 6)).shape
        torch.Size([2, 8, 5, 6])
    """

    def __init__(
        self,
        in_planes: int,
        out_planes: int,
        kernel_size: Size = 1,
        stride: Size = 1,
        padding: Size = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = False,
        offset_clip: Bounds | None = None,
    ):
        geometry = (kernel_size, stride, padding, dilation)
        super().__init__(kernel_size, in_planes, out_planes, *geometry, groups, bias, offset_clip)
        del self.rotation_conv

    def _rotation(self, x: Tensor) -> None:
        return None


class CondConv2d(layers.CondConv2d):
    """Soft conditional computation: :class:`mmdk.layers.CondConv2d` with another signature.

    The released code's cannot be constructed, so there are no state dicts of it, and the names in
    this one's are those of the layer.

    Args:
        num_experts: E.
        in_channels: C_in.
        out_channels: C_out.
        kernel_size: As the following, nn.Conv2d's.
        stride: Step between outputs, in input pixels.
        padding: Zeros around the input, in input pixels.
        dilation: Distance between taps, in input pixels.
        groups: Convolution groups.
        bias: Whether there is one.
        padding_mode: 'zeros', 'reflect', 'replicate' or 'circular'.

    Raises:
        ValueError: An argument is out of range, or two do not fit together.

    Example:
        >>> import torch
        >>> from mmdk.modules import CondConv2d
        >>> CondConv2d(4, 8, 16, 3, 1, 1)(torch.randn(2, 8, 5, 6)).shape
        torch.Size([2, 16, 5, 6])
    """

    def __init__(
        self,
        num_experts: int,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = 'zeros',
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
            num_experts=num_experts,
        )


class _InnerConv(ScopeConv2d):
    """The scope, under the name it has in the released code; offsets are given."""

    kind = 'mmdk.modules.inner_conv'
    loadable_kinds = (kind,)

    def __init__(
        self,
        weight_shape: Size,
        in_planes: int,
        out_planes: int,
        kernel_size: Size,
        stride: Size,
        padding: Size,
        dilation: Size,
        groups: int,
        bias: bool,
        rotation_groups: int = 1,
    ):
        geometry = (kernel_size, stride, padding, dilation)
        super().__init__(in_planes, out_planes, *geometry, groups, bias, scope_size=weight_shape)
        self.rotation_groups = checked_int('rotation_groups', rotation_groups)
        self._check_divides('rotation_groups', self.rotation_groups)
        is_depthwise = self.groups == self.in_channels == self.out_channels
        if self.rotation_groups > 1 and not is_depthwise:
            raise ValueError(
                f'rotation_groups={rotation_groups} needs groups = in_planes = out_planes, got '
                f'{groups}, {in_planes} and {out_planes}; mmdk.layers.DeformKernel2d has '
                'offset_groups for any convolution.'
            )

    def generator(self, groups: int = 1) -> nn.Module:
        """Predicts an offset for every tap of every group, at every output."""
        return self._local_generator(groups * self._taps * 2, None, None)

    def forward(
        self, x: Tensor, rotation: Tensor | None, image_offset: Tensor | None = None
    ) -> Tensor:
        # The operator's groups own neighbouring channels; the released code's are interleaved.
        groups, members = self.rotation_groups, self.in_channels // self.rotation_groups
        weight, bias = self.weight, self.bias
        if groups > 1:
            x = _transposed(x, 1, members, groups)
            weight = _transposed(weight, 0, members, groups)
            bias = None if bias is None else _transposed(bias, 0, members, groups)
        y = deform_kernel2d(x, weight, rotation, image_offset, None, bias, **self._geometry)
        return y if groups == 1 else _transposed(y, 1, groups, members)


def _transposed(values: Tensor, dim: int, rows: int, columns: int) -> Tensor:
    """Channels along `dim`, a matrix of `rows` x `columns`, in the order of its transpose."""
    return values.unflatten(dim, (rows, columns)).transpose(dim, dim + 1).flatten(dim, dim + 1)


def _bounds(name: str, value: object, others: str) -> tuple[float, float]:
    """(low, high) from a pair, or from what Tensor.clamp takes by name."""
    if isinstance(value, dict) and value.keys() == {'min', 'max'}:
        value = (value['min'], value['max'])
    is_pair = isinstance(value, (tuple, list)) and len(value) == 2
    if not is_pair or not all(isinstance(bound, (int, float)) for bound in value):
        raise ValueError(f'{name} must be {others}(low, high) or dict(min=, max=), got {value!r}.')
    if value[0] > value[1]:
        raise ValueError(f'{name} must have low <= high, got {value!r}.')
    return tuple(value)
