# RetinaNet at a quarter of ResNet-50's width, from scratch, on 128x128 images: small enough to
# train on two CPU cores. The same detector as its DK twin, with plain convolutions.
_base_ = [
    'mmdet::_base_/models/retinanet_r50_fpn.py',
    '../_base_/datasets/digits_detection.py',
    '../_base_/schedules/schedule_8e_adamw.py',
    'mmdet::_base_/default_runtime.py',
]
custom_imports = dict(imports=['mmdk'], allow_failed_imports=False)

# Without a pretrained backbone, neck and head need normalisation as well.
norm_cfg = dict(type='GN', num_groups=8, requires_grad=True)
model = dict(
    backbone=dict(base_channels=16, frozen_stages=-1, norm_eval=False, init_cfg=None),
    neck=dict(in_channels=[64, 128, 256, 512], out_channels=64, num_outs=3, norm_cfg=norm_cfg),
    bbox_head=dict(
        num_classes=10,
        in_channels=64,
        feat_channels=64,
        stacked_convs=2,
        norm_cfg=norm_cfg,
        # Digits are 10 to 70 pixels large: smaller anchors than COCO's, and no coarse levels.
        anchor_generator=dict(octave_base_scale=2, strides=[8, 16, 32]),
    ),
)

default_hooks = dict(logger=dict(interval=20), checkpoint=dict(max_keep_ckpts=2))
randomness = dict(seed=0)
