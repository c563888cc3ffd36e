_base_ = 'mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py'
custom_imports = dict(imports=['mmdk'], allow_failed_imports=False)
model = dict(
    type='SwapConv2d',
    inside='FCOS',
    swaps=dict(type='DK', where=r'bbox_head\.(cls|reg)_convs\.3\.conv'),
)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'conv_offset': dict(lr_mult=0.1)}))
custom_hooks = [dict(type='OffsetHook', interval=50, by='stage')]
