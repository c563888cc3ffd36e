_base_ = 'mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco.py'
custom_imports = dict(imports=['mmdk'], allow_failed_imports=False)
model = dict(backbone=dict(dcn=dict(type='DK'), stage_with_dcn=(False, True, True, True)))
# A tenth of the backbone's learning rate, which is a tenth of the transformer's.
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'conv_offset': dict(lr_mult=0.01)}))
custom_hooks = [dict(type='OffsetHook', interval=50, by='stage')]
