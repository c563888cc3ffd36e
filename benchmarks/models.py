"""A training step of a detector: Faster R-CNN R50-FPN with deformable layers in stages c3 to c5.

Stock MMDetection config, random weights, a random image of 320 x 416 and random boxes: forward,
losses, backward, SGD. Memory is what the process grows by during a step, after a first one;
benchmarks/peak.py says how it is counted.

    python -m benchmarks.models
"""

import functools
from collections.abc import Callable, Iterator
from functools import partial

import torch
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmdet.utils import register_all_modules
from mmengine.hub import get_config
from mmengine.optim import OptimWrapper

import mmdk  # noqa: F401  (registers the conv layer types)
from benchmarks.measure import Measurement, Ratio, run, time_pairs
from benchmarks.peak import in_fresh_process, peak_growth

CONFIG = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'
IMAGE = (3, 320, 416)
# The first is what the others are compared with.
BACKBONES = {
    'plain': None,
    'DK': dict(type='DK'),
    "MMCV's DCN": dict(type='DCN', deform_groups=1, fallback_on_stride=False),
    "MMCV's DCNv2": dict(type='DCNv2', deform_groups=1, fallback_on_stride=False),
}


def measurements() -> Iterator[Measurement]:
    for name in list(BACKBONES)[1:]:
        for quantity, compare in (('time', compare_time), ('peak memory', compare_memory)):
            yield Measurement('training step / plain model', name, quantity, partial(compare, name))


def compare_time(name: str, pairs: int) -> Ratio:
    return time_pairs(training_step(name), training_step('plain'), pairs)


def compare_memory(name: str, pairs: int) -> Ratio:
    """Of one step each: memory is counted, not timed."""
    return Ratio(memory(name) / memory('plain'))


@functools.cache
def memory(name: str) -> int:
    return in_fresh_process(count, name)


def count(name: str) -> int:
    step = training_step(name)
    step()  # makes SGD's momentum, which stays
    growth, _ = peak_growth(step)
    return growth


def training_step(name: str) -> Callable:
    """A call that trains the model by one step on the same data every time."""
    model = build(name).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
    data = demo_mm_inputs(1, [IMAGE], num_items=[8])
    return partial(model.train_step, data, OptimWrapper(optimizer))


def build(name: str) -> torch.nn.Module:
    register_all_modules(init_default_scope=True)
    config = get_config(CONFIG).model
    config.backbone.init_cfg = None  # it would be downloaded
    if BACKBONES[name]:
        config.backbone.merge(dict(dcn=BACKBONES[name], stage_with_dcn=(False, True, True, True)))
    return MODELS.build(config)


if __name__ == '__main__':
    run(__doc__, measurements(), pairs=3)
