_base_ = '../depthwise/faster-rcnn_mobilenetv2_fpn_1x_coco.py'
custom_imports = dict(imports=['mmdk'], allow_failed_imports=False)
model = dict(backbone=dict(conv_cfg=dict(type='DK', where='depthwise')))
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'conv_offset': dict(lr_mult=0.1)}))
custom_hooks = [dict(type='OffsetHook', interval=50, by='stage')]
