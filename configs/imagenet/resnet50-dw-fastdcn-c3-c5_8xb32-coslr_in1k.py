_base_ = './resnet50-dw_8xb32-coslr_in1k.py'
model = dict(backbone=dict(dcn=dict(type='FastDCN'), stage_with_dcn=(False, True, True, True)))
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'conv_offset': dict(lr_mult=0.01)}))
custom_hooks = [dict(type='OffsetHook', interval=100, by='stage')]
