_base_ = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'
custom_imports = dict(imports=['mmdk'], allow_failed_imports=False)
# The 1 x 1 convolutions too.
model = dict(
    type='SwapConv2d',
    inside='FasterRCNN',
    swaps=dict(type='GlobalDK', where=r'backbone\.layer[234]\..*'),
)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'conv_offset': dict(lr_mult=0.1)}))
custom_hooks = [dict(type='OffsetHook', interval=50, by='stage')]
