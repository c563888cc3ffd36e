_base_ = './resnet50-dw-dk-c3-c5_8xb32-coslr_in1k.py'
model = dict(backbone=dict(dcn=dict(type='DKDCN')))
