_base_ = './retinanet_r50-dw-w16_fpn_1e_digits.py'

model = dict(
    backbone=dict(dcn=dict(type='DK'), stage_with_dcn=(False, True, True, True)),
    bbox_head=dict(conv_cfg=dict(type='DK')),
)

# Offsets learn slower than weights.
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'conv_offset': dict(lr_mult=0.1)}))
