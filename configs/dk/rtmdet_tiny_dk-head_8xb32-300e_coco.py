_base_ = 'mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py'
custom_imports = dict(imports=['mmdk'], allow_failed_imports=False)
model = dict(bbox_head=dict(conv_cfg=dict(type='DK')))
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'conv_offset': dict(lr_mult=0.1)}))
custom_hooks = _base_.custom_hooks + [dict(type='OffsetHook', interval=50, by='stage')]
