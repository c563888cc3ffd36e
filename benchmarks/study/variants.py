"""What is compared: the layers, and how the networks use them."""

from dataclasses import asdict, dataclass, replace

from torch import nn

from mmdk.layers.conv_base import ConvBase
from mmdk.replacement import Where, replace_conv2d

__all__ = ['ABLATIONS', 'COMPARED', 'VARIANTS', 'Variant', 'offset_learning', 'swap']


@dataclass(frozen=True)
class Variant:
    """How a network's 3 x 3 convolutions are replaced.

    Attributes:
        wider: Whether the network has more channels, so many that it costs about the FLOPs of DK.
        layer: Type and options of the layer; None: the plain convolution stays.
        stages: Which of the four stages, the first being 1.
        head: Whether a detector's head, too; a classifier's has no such convolutions.
        offset_lr: Factor of the learning rate of what predicts offsets.
        lifted: Whether new layers start from the plain network's initial weights, lifted, so that
            all variants of a seed first compute the same; else each draws its own.
    """

    wider: bool = False
    layer: dict | None = None
    stages: tuple[int, ...] = (2, 3, 4)
    head: bool = True
    offset_lr: float = 0.1
    lifted: bool = True

    def settings(self) -> dict:
        """As JSON has it."""
        return {**asdict(self), 'stages': list(self.stages)}


DK = Variant(layer=dict(type='DK'))

COMPARED = {
    'plain': Variant(),
    # The FLOPs of DK, most of which predict its offsets, spent on channels instead.
    'plain, wider': Variant(wider=True),
    'DCN': Variant(layer=dict(type='FastDCN')),
    'DCNv2': Variant(layer=dict(type='FastDCN', modulated=True)),
    'CondConv': Variant(layer=dict(type='CondConv', num_experts=4)),
    'GlobalDK': Variant(layer=dict(type='GlobalDK')),
    'DK': DK,
    'DK+DCN': Variant(layer=dict(type='DKDCN')),
}

CLIPPED = dict(type='DK', offset_clip='scope')
ABLATIONS = {
    'DK, scope 3': replace(DK, layer=dict(type='DK', scope_size=3)),
    'DK, scope 5': replace(DK, layer=dict(type='DK', scope_size=5)),
    'DK, scope 6': replace(DK, layer=dict(type='DK', scope_size=6)),
    'DK, stage 4': replace(DK, stages=(4,)),
    'DK, stages 3 and 4': replace(DK, stages=(3, 4)),
    'DK, all stages': replace(DK, stages=(1, 2, 3, 4)),
    'DK, not in the head': replace(DK, head=False),
    'DK, offsets learn as fast': replace(DK, offset_lr=1.0),
    'DK, offsets learn 100 times slower': replace(DK, offset_lr=0.01),
    'DK, offsets held at zero': replace(DK, offset_lr=0.0),
    'DK, weights of its own': replace(DK, lifted=False),
    'DK, taps kept in the scope': replace(DK, layer=CLIPPED),
    'DK, taps kept in the scope, offsets learn as fast': replace(DK, layer=CLIPPED, offset_lr=1.0),
    'DK, scope 5, taps kept in it': replace(DK, layer=CLIPPED | dict(scope_size=5)),
}

VARIANTS = COMPARED | ABLATIONS


def swap(model: nn.Module, variant: Variant, where: Where) -> None:
    """Put a variant's layers into an initialised model, in place."""
    if variant.layer is None:
        return
    replace_conv2d(model, where=where, **variant.layer)
    if not variant.lifted:
        for part in model.modules():
            if isinstance(part, ConvBase):
                part.init_weights()


def offset_learning(variant: Variant) -> dict:
    """What MMEngine's optimizer wrapper calls paramwise_cfg."""
    return dict(custom_keys={'conv_offset': dict(lr_mult=variant.offset_lr)})
