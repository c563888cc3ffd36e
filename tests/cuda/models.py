"""A detector of MMDetection that takes a training step on a device."""

import torch
from mmengine.optim import AmpOptimWrapper, OptimWrapper

from mmdk.layers import DeformKernel2d
from tests.detection import stock


def why_no_model(device) -> str:
    """MMCV has operators of its own, which may be built without CUDA; '' if they run there."""
    try:
        import mmdet  # noqa: F401
        from mmcv.ops import nms

        nms(torch.ones(1, 4, device=device), torch.ones(1, device=device), 0.5)
    except (ImportError, RuntimeError) as error:
        return f'no detector runs on {device}: {str(error).splitlines()[0]}'
    return ''


def build():
    """A stock RetinaNet, narrow, with DK in a stage and in the head's towers."""
    config = stock.load('retinanet/retinanet_r50_fpn_1x_coco.py')
    config.model.backbone.merge(
        dict(
            dcn=stock.DK,
            stage_with_dcn=(False, False, False, True),
            base_channels=4,
            frozen_stages=-1,
            # Otherwise stages first compute nothing, and a first step has no gradient to pass on.
            zero_init_residual=False,
        )
    )
    config.model.neck.merge(dict(in_channels=[16, 32, 64, 128], out_channels=16))
    config.model.bbox_head.merge(dict(in_channels=16, feat_channels=16, conv_cfg=stock.DK))
    model = stock.build(config)
    model.init_weights()
    return model


def detector_trains(device, mixed_precision):
    from mmdet.testing import demo_mm_inputs

    model = build().to(device).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    # A scale that no gradient overflows with, so that the first step is taken.
    wrapper = (
        AmpOptimWrapper(dtype='float16', loss_scale=16.0, optimizer=optimizer)
        if mixed_precision
        else OptimWrapper(optimizer)
    )
    layers = {n: m for n, m in model.named_modules() if isinstance(m, DeformKernel2d)}
    before = {name: layer.weight.clone() for name, layer in layers.items()}
    losses = model.train_step(demo_mm_inputs(2, [(3, 64, 64)] * 2, num_items=[2, 2]), wrapper)
    assert all(torch.as_tensor(loss).isfinite().all() for loss in losses.values())
    assert len(layers) == 3 + 8
    for name, layer in layers.items():
        assert not torch.equal(layer.weight, before[name]), name
        assert layer.conv_offset.weight.any(), name
        assert all(parameter.isfinite().all() for parameter in layer.parameters()), name
