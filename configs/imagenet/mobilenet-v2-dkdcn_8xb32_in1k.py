_base_ = './mobilenet-v2-dk_8xb32_in1k.py'
model = dict(backbone=dict(conv_cfg=dict(type='DKDCN')))
