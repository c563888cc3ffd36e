"""One call of an operator, of ours or of a peer, on tensors made for it."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from mmdk.ops import deform_kernel2d, reference

# Feature maps of four stages of a backbone: halving the size doubles the channels.
SHAPES = [(1, 128, 200, 336), (1, 256, 100, 168), (1, 512, 50, 84), (1, 1024, 25, 42)]
FORMATS = {'channels_last': torch.channels_last, 'contiguous': torch.contiguous_format}
DIRECTIONS = ('forward', 'forward+backward')

SCOPE_CELLS = 0.5  # standard deviation of kernel offsets
PIXELS = 2.0  # of image offsets


def as_text(shape: tuple[int, ...]) -> str:
    return 'x'.join(map(str, shape))


@dataclass(frozen=True)
class Case:
    """Everything that decides what a call costs.

    Attributes:
        shape: Of the input.
        depthwise: groups = C; if not, `groups` says.
        groups: Convolution groups.
        kernel: K.
        scope: S.
        stride: Step between outputs.
        dilation: Distance between taps.
        kernel_offset: 'local', 'global' (one kernel per image), or None.
        image_offset: Whether there are image offsets.
        mask: Whether there is a mask.
        offset_groups: Offset groups.
        spread: How offsets vary. 'normal': independent normal numbers, for which no two look-ups
            of neighbours have anything in common; 'smooth': as many, drawn at an eighth of the
            resolution and interpolated; 'zero'.
        memory_format: Of input and weight, as it is in a model that was brought to this format.
        dtype: Of all tensors.
        device: Where all tensors are.
    """

    shape: tuple[int, int, int, int] = (1, 256, 100, 168)
    depthwise: bool = False
    groups: int = 1
    kernel: int = 3
    scope: int = 4
    stride: int = 1
    dilation: int = 1
    kernel_offset: str | None = 'local'
    image_offset: bool = False
    mask: bool = False
    offset_groups: int = 1
    spread: str = 'normal'
    memory_format: torch.memory_format = torch.channels_last
    dtype: torch.dtype = torch.float32
    device: str = 'cpu'

    @property
    def conv_groups(self) -> int:
        return self.shape[1] if self.depthwise else self.groups

    @property
    def padding(self) -> int:
        return self.dilation * (self.kernel - 1) // 2

    @property
    def weight_size(self) -> int:
        return self.scope if self.kernel_offset else self.kernel

    @property
    def out_size(self) -> tuple[int, int]:
        reach = self.dilation * (self.kernel - 1) + 1
        return tuple(
            (size + 2 * self.padding - reach) // self.stride + 1 for size in self.shape[2:]
        )


@dataclass(frozen=True)
class Call:
    """An operator and the tensors its gradients are asked for."""

    operator: Callable[[], Tensor]
    leaves: tuple[Tensor, ...]

    def direction(self, name: str) -> Callable[[], tuple[Tensor, ...]]:
        """A call that returns all it computes: the output, and behind it the gradients."""
        if name == 'forward':
            return self._forward
        grad = torch.randn_like(self._forward()[0])

        def forward_and_backward():
            output = self.operator()
            return output, *torch.autograd.grad(output, self.leaves, grad)

        return forward_and_backward

    @torch.no_grad()
    def _forward(self) -> tuple[Tensor]:
        return (self.operator(),)


def ours(case: Case, operator: Callable = deform_kernel2d) -> Call:
    """deform_kernel2d, or `operator` in its place."""
    x, weight = image(case), weights(case, case.weight_size)
    offsets = {
        'kernel_offset': kernel_offset(case),
        'image_offset': image_offset(case),
        'mask': mask(case),
    }
    offsets = {name: value for name, value in offsets.items() if value is not None}
    geometry = dict(
        kernel_size=case.kernel, stride=case.stride, padding=case.padding, dilation=case.dilation
    )
    return Call(lambda: operator(x, weight, **offsets, **geometry), (x, weight, *offsets.values()))


def composition(case: Case) -> Call:
    """The same in plain PyTorch."""
    return ours(case, reference.deform_kernel2d)


def plain(case: Case) -> Call:
    """F.conv2d with a kernel of the same size."""
    x, weight = image(case), weights(case, case.kernel)
    geometry = (case.stride, case.padding, case.dilation, case.conv_groups)
    return Call(lambda: F.conv2d(x, weight, None, *geometry), (x, weight))


def mmcv_peer(case: Case) -> Call:
    """MMCV's deform_conv2d, or with a mask its modulated_deform_conv2d; contiguous, as they are."""
    # Here, since not every MMCV has operators.
    from mmcv.ops import deform_conv2d, modulated_deform_conv2d

    case = replace(case, memory_format=torch.contiguous_format)
    x, weight, offset = image(case), weights(case, case.kernel), image_offset(case)
    geometry = (case.stride, case.padding, case.dilation, case.conv_groups, case.offset_groups)
    if not case.mask:
        return Call(lambda: deform_conv2d(x, offset, weight, *geometry), (x, weight, offset))
    factor = mask(case)
    return Call(
        lambda: modulated_deform_conv2d(x, offset, factor, weight, None, *geometry),
        (x, weight, offset, factor),
    )


def torchvision_peer(case: Case) -> Call:
    """torchvision's deform_conv2d, with a mask or without; contiguous, as it is."""
    # Here, since not every PyTorch has a torchvision beside it.
    from torchvision.ops import deform_conv2d

    case = replace(case, memory_format=torch.contiguous_format)
    x, weight, offset, factor = (
        image(case),
        weights(case, case.kernel),
        image_offset(case),
        mask(case),
    )
    geometry = (case.stride, case.padding, case.dilation)
    leaves = (x, weight, offset) if factor is None else (x, weight, offset, factor)
    return Call(lambda: deform_conv2d(x, offset, weight, None, *geometry, factor), leaves)


def image(case: Case) -> Tensor:
    return leaf(torch.randn(case.shape), case)


def weights(case: Case, size: int) -> Tensor:
    channels = case.shape[1]
    return leaf(torch.randn(channels, channels // case.conv_groups, size, size), case)


def leaf(values: Tensor, case: Case) -> Tensor:
    values = values.to(case.device, case.dtype)
    return values.contiguous(memory_format=case.memory_format).requires_grad_()


def kernel_offset(case: Case) -> Tensor | None:
    if case.kernel_offset is None:
        return None
    size = (1, 1) if case.kernel_offset == 'global' else case.out_size
    return offsets(case, size, SCOPE_CELLS)


def image_offset(case: Case) -> Tensor | None:
    return offsets(case, case.out_size, PIXELS) if case.image_offset else None


def mask(case: Case) -> Tensor | None:
    if not case.mask:
        return None
    channels = case.offset_groups * case.kernel**2
    values = torch.rand(case.shape[0], channels, *case.out_size)
    return values.to(case.device, case.dtype).requires_grad_()


def offsets(case: Case, size: tuple[int, int], deviation: float) -> Tensor:
    """Contiguous whatever the input's format."""
    shape = (case.shape[0], case.offset_groups * case.kernel**2 * 2, *size)
    values = deviation * SPREADS[case.spread](shape)
    return values.to(case.device, case.dtype).requires_grad_()


def smooth(shape: tuple[int, ...]) -> Tensor:
    coarse = torch.randn(*shape[:2], *(-(-size // 8) + 1 for size in shape[2:]))
    values = F.interpolate(coarse, shape[2:], mode='bilinear', align_corners=True)
    return values / values.std()


SPREADS = {'normal': torch.randn, 'smooth': smooth, 'zero': torch.zeros}
