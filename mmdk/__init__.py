"""mmdk: Deformable Kernels (Gao et al., ICLR 2020) for MMCV and MMDetection.

Importing it registers the conv layer types `'DK'`, `'GlobalDK'`, `'DKDCN'`, `'FastDCN'` and
`'CondConv'` with MMEngine's `MODELS`, for use in `conv_cfg=` and `dcn=`, the model type
`'SwapConv2d'`, where MMDetection is there the backbone `'ResNetDW'`, and the compiled operators
`torch.ops.mmdk`.
"""

from mmdk import _requirements

has_mmdet = _requirements.check()

from mmdk import layers, modules, ops  # noqa: E402
from mmdk._safe_globals import allow_mmengine_checkpoints  # noqa: E402
from mmdk.layers import lift_kernel  # noqa: E402
from mmdk.replacement import replace_conv2d  # noqa: E402
from mmdk.version import __version__  # noqa: E402

allow_mmengine_checkpoints()
if has_mmdet:
    from mmdk.detection import backbones  # noqa: F401  (registers them)

__all__ = ['__version__', 'layers', 'lift_kernel', 'modules', 'ops', 'replace_conv2d']
