# RetinaNet on a depthwise ResNet-50 of a quarter of the width, from scratch, on 96x96 images: the
# detector of the study (docs/study.md), plain. One epoch of many images, because detectors learn
# few by heart.
_base_ = '../dk/retinanet_r50-w16_fpn_8e_digits.py'

model = dict(backbone=dict(type='ResNetDW'))

# python tools/make_digits.py --out data/digits-96 --image-size 96 --digits 1 3 --scale 2 5 \
#     --train-images 14400 --val-images 400
data_root = 'data/digits-96/'
digits = dict(train_images=14_400, val_images=400, image_size=96, digits=(1, 3), scale=(2.0, 5.0))
train_pipeline = _base_.train_pipeline
train_pipeline[2] = dict(type='Resize', scale=(96, 96), keep_ratio=True)
test_pipeline = _base_.test_pipeline
test_pipeline[1] = train_pipeline[2]
train_dataloader = dict(dataset=dict(data_root=data_root, pipeline=train_pipeline))
val_dataloader = dict(batch_size=16, dataset=dict(data_root=data_root, pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/val.json')
test_evaluator = val_evaluator

max_epochs = 1
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = _base_.param_scheduler
param_scheduler[1].update(end=max_epochs, T_max=max_epochs)
