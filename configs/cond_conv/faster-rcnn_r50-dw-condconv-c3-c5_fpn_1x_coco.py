_base_ = '../depthwise/faster-rcnn_r50-dw_fpn_1x_coco.py'
model = dict(backbone=dict(dcn=dict(type='CondConv'), stage_with_dcn=(False, True, True, True)))
