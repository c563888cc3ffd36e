_base_ = './faster-rcnn_r50-dk-c3-c5_fpn_1x_coco.py'
model = dict(backbone=dict(dcn=dict(scope_size=5)))
