_base_ = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'
custom_imports = dict(imports=['mmdk'], allow_failed_imports=False)
# Nobody has published weights. Train them with configs/imagenet/resnet50-dw_8xb32-coslr_in1k.py.
checkpoint = 'work_dirs/resnet50-dw_8xb32-coslr_in1k/epoch_100.pth'
model = dict(
    backbone=dict(type='ResNetDW', init_cfg=dict(checkpoint=checkpoint, prefix='backbone.')),
)
optim_wrapper = dict(optimizer=dict(weight_decay=4e-5))
