"""mmdk: Deformable Kernels (Gao et al., ICLR 2020) for MMCV and MMDetection.

Importing it registers with MMEngine the conv layer types `'DK'`, `'GlobalDK'`, `'DKDCN'`,
`'FastDCN'` and `'CondConv'`, for use in `conv_cfg=` and `dcn=`, the model type `'SwapConv2d'` and
the hooks `'OffsetHook'` and `'KernelPictureHook'`; with MMDetection, where that is there, the
backbone `'ResNetDW'`; with MMEngine's loaders, the names `mmdk://...` of checkpoints that come with
it; and the compiled operators `torch.ops.mmdk`.
"""

from mmdk import _requirements

_has_mmdet = _requirements.check()

from mmdk import checkpoints, hooks, layers, modules, ops  # noqa: E402
from mmdk._safe_globals import allow_mmengine_checkpoints  # noqa: E402
from mmdk.layers import lift_kernel  # noqa: E402
from mmdk.replacement import replace_conv2d  # noqa: E402
from mmdk.version import __version__  # noqa: E402

allow_mmengine_checkpoints()
if _has_mmdet:
    from mmdk.detection import backbones  # noqa: F401  (registers them)

__all__ = [
    '__version__',
    'checkpoints',
    'hooks',
    'layers',
    'lift_kernel',
    'modules',
    'ops',
    'replace_conv2d',
]
