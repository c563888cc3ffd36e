_base_ = 'mmpretrain::mobilenet_v2/mobilenet-v2_8xb32_in1k.py'
custom_imports = dict(imports=['mmdk'], allow_failed_imports=False)
# In MMPretrain's own MobileNetV2 blocks have other names, so a detector would not load them.
model = dict(backbone=dict(type='mmdet.MobileNetV2', out_indices=(7,)))
