_base_ = 'mmpretrain::resnet/resnet50_8xb32-coslr_in1k.py'
custom_imports = dict(imports=['mmdk'], allow_failed_imports=False)
# MMDetection's ResNets freeze their batch norms unless told otherwise.
model = dict(backbone=dict(type='mmdet.ResNetDW', norm_eval=False))
optim_wrapper = dict(optimizer=dict(weight_decay=4e-5))
