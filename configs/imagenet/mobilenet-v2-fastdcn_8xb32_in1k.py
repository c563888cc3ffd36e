_base_ = './mobilenet-v2_8xb32_in1k.py'
model = dict(backbone=dict(conv_cfg=dict(type='FastDCN', where='depthwise')))
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'conv_offset': dict(lr_mult=0.1)}))
custom_hooks = [dict(type='OffsetHook', interval=100, by='stage')]
