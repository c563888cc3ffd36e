# The study's detector: the RetinaNet of configs/dk. benchmarks/study/detection.py sets the size of
# its images and puts the layers into its backbone.
_base_ = '../../configs/dk/retinanet_r50-w16_fpn_8e_digits.py'

data_root = 'data/study/as trained/'
train_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dict(data_root=data_root),
)
val_dataloader = dict(
    batch_size=16,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(data_root=data_root),
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/val.json')
test_evaluator = val_evaluator
