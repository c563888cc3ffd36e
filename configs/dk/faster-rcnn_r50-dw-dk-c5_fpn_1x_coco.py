_base_ = './faster-rcnn_r50-dw-dk-c3-c5_fpn_1x_coco.py'
model = dict(backbone=dict(stage_with_dcn=(False, False, False, True)))
