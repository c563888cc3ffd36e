_base_ = 'mmdet::yolox/yolox_tiny_8xb8-300e_coco.py'
custom_imports = dict(imports=['mmdk'], allow_failed_imports=False)
model = dict(
    type='SwapConv2d',
    inside='YOLOX',
    swaps=dict(type='DK', where=r'backbone\.stage[234]\..*blocks\.\d+\.conv2\.conv'),
)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'conv_offset': dict(lr_mult=0.1)}))
custom_hooks = _base_.custom_hooks + [dict(type='OffsetHook', interval=50, by='stage')]
