_base_ = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'
custom_imports = dict(imports=['mmdk'], allow_failed_imports=False)
model = dict(
    type='SwapConv2d',
    inside='FasterRCNN',
    swaps=dict(type='DK', where=r'rpn_head\.rpn_conv'),
)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'conv_offset': dict(lr_mult=0.1)}))
custom_hooks = [dict(type='OffsetHook', interval=50, by='stage')]
