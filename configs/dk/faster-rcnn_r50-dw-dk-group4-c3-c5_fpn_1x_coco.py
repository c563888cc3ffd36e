_base_ = './faster-rcnn_r50-dw-dk-c3-c5_fpn_1x_coco.py'
model = dict(backbone=dict(dcn=dict(offset_groups=4)))
