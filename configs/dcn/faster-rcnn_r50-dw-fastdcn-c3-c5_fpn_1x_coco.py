_base_ = '../depthwise/faster-rcnn_r50-dw_fpn_1x_coco.py'
model = dict(backbone=dict(dcn=dict(type='FastDCN'), stage_with_dcn=(False, True, True, True)))
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'conv_offset': dict(lr_mult=0.01)}))
custom_hooks = [dict(type='OffsetHook', interval=50, by='stage')]
