"""ResNet with depthwise 3 x 3 convolutions."""

from mmcv.cnn import build_conv_layer
from mmdet.models.backbones.resnet import Bottleneck, ResNet
from mmdet.registry import MODELS
from torch import nn

__all__ = ['ResNetDW']


class BottleneckDW(Bottleneck):
    """1 x 1, depthwise 3 x 3, 1 x 1.

    `planes` is the width inside; the output has twice as many channels, not four times as a
    Bottleneck's.
    """

    expansion = 2

    def __init__(
        self, inplanes: int, planes: int, dilation: int = 1, dcn: dict | None = None, **kwargs
    ):
        replaced = dcn is not None and not dcn.get('fallback_on_stride', False)
        if dcn is not None:
            dcn = dict(dcn, groups=planes)
        super().__init__(inplanes, planes, dilation=dilation, dcn=dcn, **kwargs)
        if not replaced:
            self.conv2 = build_conv_layer(
                self.conv_cfg,
                planes,
                planes,
                kernel_size=3,
                stride=self.conv2_stride,
                padding=dilation,
                dilation=dilation,
                groups=planes,
                bias=False,
            )


@MODELS.register_module()
class ResNetDW(ResNet):
    """ResNet-50-DW and ResNet-101-DW: 3 x 3 convolutions depthwise, bottlenecks twice as wide.

    A block of a ResNet with bottleneck width w has 17 w^2 multiply-adds a pixel, one of these
    2 * 8 w^2 + 18 w, about as many; the features have the channels of a ResNet's. This is how this
    project reads the backbone on which the paper tries depthwise deformable kernels; the paper
    leaves open details, and no weights of it are published here.

    `dcn=dict(type='DK')` with `stage_with_dcn`, or `conv_cfg=dict(type='DK', where='depthwise')`
    everywhere, makes the depthwise convolutions deformable.

    Args:
        depth: 50 or 101.
        base_channels: As a ResNet's, 64: the first stage has 4 * base_channels channels.
        stem_channels: Of the stem. None: base_channels.
        zero_init_residual: Whether blocks start as identities.
        pretrained: Deprecated by MMDetection in favour of `init_cfg`.
        init_cfg: How to initialise; None: Kaiming.
        **kwargs: Further arguments of :class:`mmdet.models.ResNet`, by name.

    Raises:
        KeyError: Another depth.

    Source: after Gao et al., Deformable Kernels, ICLR 2020, section 4.

    Example:
        >>> import torch
        >>> from mmdk.detection.backbones import ResNetDW
        >>> backbone = ResNetDW(50, base_channels=8, dcn=dict(type='DK'),
        ...                     stage_with_dcn=(False, True, True, True))
        >>> [tuple(feature.shape) for feature in backbone(torch.randn(2, 3, 64, 64))]
        [(2, 32, 16, 16), (2, 64, 8, 8), (2, 128, 4, 4), (2, 256, 2, 2)]
        >>> backbone.layer4[0].conv2.groups
        128
    """

    arch_settings = {50: (BottleneckDW, (3, 4, 6, 3)), 101: (BottleneckDW, (3, 4, 23, 3))}

    def __init__(
        self,
        depth: int,
        base_channels: int = 64,
        stem_channels: int | None = None,
        zero_init_residual: bool = True,
        pretrained: str | None = None,
        init_cfg: dict | list[dict] | None = None,
        **kwargs,
    ):
        if depth not in self.arch_settings:
            raise KeyError(f'depth must be one of {tuple(self.arch_settings)}, got {depth!r}.')
        # The parent knows only its own blocks when it looks for what to set to zero.
        self.starts_as_identity = zero_init_residual and not (init_cfg or pretrained)
        super().__init__(
            depth,
            base_channels=2 * base_channels,
            stem_channels=stem_channels or base_channels,
            zero_init_residual=zero_init_residual,
            pretrained=pretrained,
            init_cfg=init_cfg,
            **kwargs,
        )

    def make_res_layer(self, **kwargs) -> nn.Module:
        if self.starts_as_identity:
            kwargs['init_cfg'] = dict(type='Constant', val=0, override=dict(name='norm3'))
        return super().make_res_layer(**kwargs)
