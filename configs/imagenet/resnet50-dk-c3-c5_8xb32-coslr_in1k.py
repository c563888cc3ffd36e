_base_ = 'mmpretrain::resnet/resnet50_8xb32-coslr_in1k.py'
custom_imports = dict(imports=['mmdk'], allow_failed_imports=False)
# MMPretrain's ResNet has no dcn, and its conv_cfg would reach the stem and the first stage too.
model = dict(
    type='SwapConv2d',
    inside={{_base_.model.type}},
    swaps=dict(type='DK', where=r'backbone\.layer[234]\.\d+\.conv2'),
)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'conv_offset': dict(lr_mult=0.1)}))
custom_hooks = [dict(type='OffsetHook', interval=100, by='stage')]
