"""Two small depthwise networks for images of 32 x 32 pixels, after well-known ones."""

from collections.abc import Callable
from typing import NamedTuple

from mmdet.models.backbones import MobileNetV2
from torch import Tensor, nn

__all__ = ['NETWORKS']


class BlockDW(nn.Module):
    """ResNet-18's block with each 3 x 3 convolution depthwise and followed by a 1 x 1."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.residual = nn.Sequential(
            *_separable(in_channels, out_channels, stride),
            nn.ReLU(inplace=True),
            *_separable(out_channels, out_channels, 1),
        )
        self.shortcut = nn.Identity()
        if stride > 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        return (self.residual(x) + self.shortcut(x)).relu()


def _separable(in_channels: int, out_channels: int, stride: int) -> list[nn.Module]:
    return [
        nn.Conv2d(in_channels, in_channels, 3, stride, 1, groups=in_channels, bias=False),
        nn.Conv2d(in_channels, out_channels, 1, bias=False),
        nn.BatchNorm2d(out_channels),
    ]


class ResNet18DW(nn.Module):
    """ResNet-18's four stages of two blocks, a quarter as wide, without its early pooling.

    x (N, 1, H, W) gives (N, 128 * width, H/8, W/8).
    """

    def __init__(self, width: float = 1.0):
        super().__init__()
        in_channels = int(16 * width)
        self.stem = nn.Sequential(
            nn.Conv2d(1, in_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(in_channels),
            nn.ReLU(inplace=True),
        )
        for stage in (1, 2, 3, 4):
            out_channels = int(8 * width) * 2**stage
            first = BlockDW(in_channels, out_channels, 1 if stage == 1 else 2)
            blocks = nn.Sequential(first, BlockDW(out_channels, out_channels, 1))
            self.add_module(f'layer{stage}', blocks)
            in_channels = out_channels
        self.channels = out_channels

    def forward(self, x: Tensor) -> Tensor:
        return self.layer4(self.layer3(self.layer2(self.layer1(self.stem(x)))))


class SmallMobileNetV2(MobileNetV2):
    """MobileNetV2 a quarter as wide, which halves the resolution three times instead of five.

    x (N, 1, H, W) gives (N, 80 * width, H/8, W/8).
    """

    # (expansion, channels before narrowing, blocks, stride) of layer1 to layer7.
    arch_settings = [
        (1, 16, 1, 1),
        (6, 24, 2, 1),
        (6, 32, 3, 2),
        (6, 64, 4, 1),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ]

    def __init__(self, width: float = 1.0):
        super().__init__(widen_factor=0.25 * width, out_indices=(6,))
        # The 1 x 1 convolution to 1280 channels, which would be more than all the rest.
        self.layers.remove('conv2')
        del self.conv2
        self.channels = self.layer7[-1].linear_conv.conv.out_channels

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.expand(-1, 3, -1, -1))[0]


class Network(NamedTuple):
    """One that is compared.

    Attributes:
        make: Called with its width.
        wider: The width at which it costs about as many FLOPs as with DK.
        stages: Names of the depthwise convolutions in its four stages.
    """

    make: Callable[[float], nn.Module]
    wider: float
    stages: dict[int, str]


NETWORKS = {
    'R18-DW': Network(
        ResNet18DW, 1.75, {s: rf'layer{s}\.\d\.residual\.[04]' for s in (1, 2, 3, 4)}
    ),
    'MobileNetV2': Network(
        SmallMobileNetV2,
        2.0,
        {
            stage: rf'layer[{layers}]\.\d\.depthwise_conv\.conv'
            for stage, layers in {1: '12', 2: '3', 3: '45', 4: '67'}.items()
        },
    ),
}
