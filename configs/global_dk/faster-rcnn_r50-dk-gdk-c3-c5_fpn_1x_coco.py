_base_ = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'
custom_imports = dict(imports=['mmdk'], allow_failed_imports=False)
# Local where a kernel has neighbours, global in what is left: all that are 1 x 1.
model = dict(
    type='SwapConv2d',
    inside='FasterRCNN',
    swaps=[
        dict(type='DK', where=r'backbone\.layer[234]\..*conv2'),
        dict(type='GlobalDK', where=r'backbone\.layer[234]\..*'),
    ],
)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'conv_offset': dict(lr_mult=0.1)}))
custom_hooks = [dict(type='OffsetHook', interval=50, by='stage')]
