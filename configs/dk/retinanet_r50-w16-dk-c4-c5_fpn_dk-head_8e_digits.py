_base_ = './retinanet_r50-w16_fpn_8e_digits.py'

model = dict(
    backbone=dict(dcn=dict(type='DK'), stage_with_dcn=(False, False, True, True)),
    bbox_head=dict(conv_cfg=dict(type='DK')),
)

# Offsets learn slower than weights, as in the paper.
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'conv_offset': dict(lr_mult=0.1)}))
