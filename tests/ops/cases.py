"""Calls of deform_kernel2d: geometry as data, and tensors made to it."""

import dataclasses

import torch


@dataclasses.dataclass(frozen=True)
class Case:
    name: str
    batch: int = 2
    in_channels: int = 6
    out_channels: int = 4
    groups: int = 1
    size: tuple = (7, 11)
    kernel: tuple = (3, 3)
    scope: tuple = (4, 4)
    stride: tuple = (1, 1)
    padding: tuple = (1, 1)
    dilation: tuple = (1, 1)
    kernel_offset_groups: int = 1  # 0: no kernel_offset
    per_image: bool = False
    image_offset_groups: int = 0  # 0: no image_offset
    mask_groups: int = 0  # 0: no mask
    bias: bool = False

    @property
    def geometry(self):
        return {
            'kernel_size': self.kernel,
            'stride': self.stride,
            'padding': self.padding,
            'dilation': self.dilation,
        }

    @property
    def out_size(self):
        return tuple(
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, p, d, k, s in zip(
                self.size, self.padding, self.dilation, self.kernel, self.stride, strict=True
            )
        )

    def tensors(self, spread=1.5, dtype=torch.float64, seed=0):
        """Arguments by name; offsets reach `spread` cells or pixels in standard deviation."""
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape):
            return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

        taps = self.kernel[0] * self.kernel[1]
        positions = (1, 1) if self.per_image else self.out_size
        tensors = {
            'input': normal(self.batch, self.in_channels, *self.size),
            'weight': normal(self.out_channels, self.in_channels // self.groups, *self.scope),
        }
        if self.kernel_offset_groups:
            channels = self.kernel_offset_groups * taps * 2
            tensors['kernel_offset'] = spread * normal(self.batch, channels, *positions)
        if self.image_offset_groups:
            channels = self.image_offset_groups * taps * 2
            tensors['image_offset'] = spread * normal(self.batch, channels, *self.out_size)
        if self.mask_groups:
            tensors['mask'] = normal(self.batch, self.mask_groups * taps, *self.out_size)
        if self.bias:
            tensors['bias'] = normal(self.out_channels)
        return tensors


DENSE = Case('dense')
DEPTHWISE = Case('depthwise', in_channels=6, out_channels=6, groups=6)
EVERYTHING = Case(
    'everything',
    groups=2,
    kernel_offset_groups=3,
    image_offset_groups=2,
    mask_groups=2,
    bias=True,
)

CASES = [
    DENSE,
    DEPTHWISE,
    EVERYTHING,
    Case('rigid', kernel_offset_groups=0),
    Case('rigid_same_size', kernel_offset_groups=0, scope=(3, 3)),
    Case('dcn', kernel_offset_groups=0, scope=(3, 3), image_offset_groups=1),
    Case('dcnv2', kernel_offset_groups=0, scope=(3, 3), image_offset_groups=2, mask_groups=2),
    Case('mask_only', mask_groups=3),
    Case('global', per_image=True),
    Case(
        'global_groups_dcn', groups=2, per_image=True, kernel_offset_groups=2, image_offset_groups=3
    ),
    Case(
        'global_depthwise',
        in_channels=6,
        out_channels=6,
        groups=6,
        per_image=True,
        kernel_offset_groups=2,
    ),
    Case(
        'depthwise_dcn',
        in_channels=6,
        out_channels=6,
        groups=6,
        image_offset_groups=3,
        mask_groups=3,
        bias=True,
    ),
    Case('depthwise_multiplier', in_channels=3, out_channels=6, groups=3, kernel_offset_groups=3),
    Case('grouped', in_channels=12, out_channels=8, groups=4, kernel_offset_groups=2),
    Case(
        'groups_cross_offset_groups',
        in_channels=12,
        out_channels=6,
        groups=3,
        kernel_offset_groups=4,
        image_offset_groups=2,
    ),
    Case('batch_0', batch=0, image_offset_groups=1, mask_groups=1, bias=True),
    Case('batch_1', batch=1),
    Case('batch_3', batch=3, bias=True),
    Case('prime_sizes', size=(13, 5)),
    Case('more_than_a_tile', batch=1, size=(17, 19), image_offset_groups=1),
    Case('wide_depthwise', batch=1, in_channels=67, out_channels=67, groups=67, size=(5, 6)),
    Case('wide_dense', batch=1, in_channels=131, out_channels=3, size=(4, 5)),
    Case('one_pixel', batch=2, size=(1, 1), padding=(1, 1)),
    Case('output_1x1', size=(3, 3), padding=(0, 0)),
    Case('kernel_1x1', kernel=(1, 1), scope=(2, 2), padding=(0, 0)),
    Case('kernel_5x5', kernel=(5, 5), scope=(6, 6), padding=(2, 2)),
    Case('kernel_1x3', kernel=(1, 3), scope=(2, 5), padding=(0, 1)),
    Case('kernel_3x2', kernel=(3, 2), scope=(3, 4), padding=(2, 0)),
    Case('scope_7x3', scope=(7, 3)),
    Case('stride_2', stride=(2, 2)),
    Case('stride_3x1', stride=(3, 1), padding=(0, 2)),
    Case('stride_over_kernel', stride=(4, 5)),
    Case('dilation_2', dilation=(2, 2), padding=(2, 2)),
    Case('dilation_1x3', dilation=(1, 3), padding=(0, 3), stride=(2, 1)),
    Case('dilated_dcn', dilation=(3, 2), padding=(2, 3), stride=(1, 2), image_offset_groups=1),
    Case('padding_over_kernel', padding=(4, 6), size=(2, 3)),
    # The fused depthwise pass: chunks of 32 channels, strips of 64 columns, bands of rows.
    Case('depthwise_rigid', in_channels=5, out_channels=5, groups=5, kernel_offset_groups=0),
    Case('depthwise_chunks', batch=1, in_channels=64, out_channels=64, groups=64, bias=True),
    Case(
        'depthwise_offset_groups',
        batch=1,
        in_channels=64,
        out_channels=64,
        groups=64,
        kernel_offset_groups=2,
    ),
    Case(
        'depthwise_split_chunks',
        in_channels=48,
        out_channels=48,
        groups=48,
        kernel_offset_groups=3,
    ),
    Case('depthwise_strips', batch=1, in_channels=3, out_channels=3, groups=3, size=(5, 131)),
    Case('depthwise_bands', batch=1, in_channels=3, out_channels=3, groups=3, size=(37, 4)),
    Case(
        'depthwise_strided',
        in_channels=3,
        out_channels=3,
        groups=3,
        size=(19, 140),
        stride=(3, 2),
        padding=(0, 2),
    ),
    Case(
        'depthwise_dilated',
        in_channels=3,
        out_channels=3,
        groups=3,
        size=(17, 90),
        kernel=(3, 5),
        scope=(5, 6),
        dilation=(4, 3),
        padding=(5, 7),
    ),
    Case(
        'depthwise_far_dilation',
        in_channels=3,
        out_channels=3,
        groups=3,
        size=(3, 4),
        dilation=(100, 200),
        padding=(101, 200),
    ),
    Case(
        'depthwise_all_padding',
        in_channels=3,
        out_channels=3,
        groups=3,
        size=(2, 2),
        padding=(5, 70),
    ),
    Case('depthwise_1x1', in_channels=3, out_channels=3, groups=3, kernel=(1, 1), scope=(2, 2)),
    Case(
        'depthwise_global_wide',
        in_channels=40,
        out_channels=40,
        groups=40,
        per_image=True,
        bias=True,
    ),
]


def ids(cases):
    return [case.name for case in cases]
