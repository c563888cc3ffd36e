_base_ = './resnet50-dw_8xb32-coslr_in1k.py'
model = dict(backbone=dict(dcn=dict(type='CondConv'), stage_with_dcn=(False, True, True, True)))
