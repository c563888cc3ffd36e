_base_ = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'
custom_imports = dict(imports=['mmdk'], allow_failed_imports=False)
model = dict(roi_head=dict(mask_head=dict(conv_cfg=dict(type='DK'))))
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'conv_offset': dict(lr_mult=0.1)}))
custom_hooks = [dict(type='OffsetHook', interval=50, by='stage')]
