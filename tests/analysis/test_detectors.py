import math

import numpy as np
import pytest
import torch
from mmdet.apis import init_detector
from mmdet.registry import DATASETS

from mmdk.analysis import receptive_field
from mmdk.analysis.detectors import (
    AnnotatedObject,
    detector_receptive_field,
    object_receptive_fields,
    pick_objects,
    pipeline_of_testing,
)
from mmdk.analysis.images import run_on_image
from tests.analysis import tiny_detector
from tests.analysis.tiny_detector import BOXES, INPUT, OBJECTS, SEEN, SIZE
from tests.detection import stock

LAYER = 'backbone.layer2'
PROBES = 2


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp('data')
    tiny_detector.make_data(root)
    return root


@pytest.fixture(scope='module')
def detector(root):
    files = tiny_detector.make_detector(root, 'dk', dict(type='DK'))
    return init_detector(*files, palette='none', device='cpu')


@pytest.fixture(scope='module')
def dataset(detector):
    return DATASETS.build(detector.cfg.test_dataloader.dataset)


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return list(rng.integers(0, 255, (2, SEEN, SEEN, 3), np.uint8))


def network_input(image):
    """RGB, normalised by ImageNet's statistics, and padded, as the config says."""
    mean, std = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
    normalised = torch.from_numpy((image[..., ::-1] - np.array(mean)) / np.array(std)).float()
    x = torch.zeros(1, 3, INPUT, INPUT)
    x[0, :, :SEEN, :SEEN] = normalised.permute(2, 0, 1)
    return x


def test_sees_what_the_detector_sees(detector, images):
    found = detector_receptive_field(detector, LAYER, images, (0.3, 0.6), probes=PROBES)
    alone = receptive_field(
        detector.backbone, 'layer2', list(map(network_input, images)), (0.3, 0.6), probes=PROBES
    )
    np.testing.assert_allclose(found.energy, alone.energy, rtol=1e-3, atol=1e-9)
    assert found.unit == alone.unit == (32, 56)


@pytest.mark.parametrize('call, unit', [(0, 48), (1, 48), (2, 32)])
def test_calls_of_a_head_are_levels(detector, images, call, unit):
    """Of strides 8, 16 and 32; the middle is at 48."""
    field = detector_receptive_field(detector, 'bbox_head.cls_convs.0', images, call=call, probes=1)
    assert field.unit == (unit, unit)


def test_images_of_several_sizes(detector, images):
    """Even where they are of one size with their padding."""
    images[1] = images[1][:70]
    with pytest.raises(ValueError, match=r'one height and width, got \[\(70, 80\), \(80, 80\)\]'):
        detector_receptive_field(detector, LAYER, images)


def test_errors_of_another_cause_stay_what_they_are(detector, images, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError('of another cause')

    monkeypatch.setattr(detector.backbone, 'forward', fail)
    with pytest.raises(RuntimeError, match='^of another cause$'):
        detector_receptive_field(detector, LAYER, images, probes=PROBES)


class TestPickedObjects:
    def test_all_but_crowds_in_order(self, dataset):
        objects = pick_objects(dataset, 100)
        corners = [
            (index, (left, top, left + width, top + height))
            for index, boxes in enumerate(BOXES.values())
            for left, top, width, height in boxes
            if width < SIZE
        ]
        assert [(each.image, each.box) for each in objects] == corners

    def test_a_seed_gives_the_same_and_another_seed_others(self, dataset):
        picks = [pick_objects(dataset, 2, seed) for seed in range(10)]
        assert picks == [pick_objects(dataset, 2, seed) for seed in range(10)]
        assert all(len(set(pick)) == 2 for pick in picks)
        assert len({tuple(pick) for pick in picks}) > 2

    def test_errors(self, dataset):
        with pytest.raises(ValueError, match='count must be at least 1, got 0'):
            pick_objects(dataset, 0)
        with pytest.raises(ValueError, match='no annotated objects'):
            pick_objects([], 5)


def test_fields_of_objects(detector, dataset):
    """As of the same images, resized by hand, at the middles of the boxes."""
    objects = pick_objects(dataset, OBJECTS)
    found = object_receptive_fields(detector, dataset, objects, LAYER, probes=PROBES)
    for each, field in zip(objects, found, strict=True):
        left, top, right, bottom = (edge * SEEN / SIZE for edge in each.box)
        assert field.scale == pytest.approx(math.sqrt((right - left) * (bottom - top)))
        image = dataset[each.image]['inputs'].permute(1, 2, 0).numpy()
        position = (top + bottom) / 2 / INPUT, (left + right) / 2 / INPUT
        expected = detector_receptive_field(detector, LAYER, [image], position, probes=PROBES)
        assert (field.area_50, field.area_90) == (expected.area(0.5), expected.area(0.9))
    assert len({field.area_90 for field in found}) > 1


def test_fields_of_objects_of_no_such_layer(detector, dataset):
    with pytest.raises(ValueError, match='Closest: backbone.layer2'):
        object_receptive_fields(
            detector, dataset, [AnnotatedObject(0, (0, 0, 9, 9))], 'backbone.layr2'
        )


def test_pipeline_and_run_resize_and_pad(detector, root):
    data = pipeline_of_testing(detector)(dict(img_path=str(root / 'one.png'), img_id=0))
    image = run_on_image(detector, data)
    assert image.shape == (SEEN, SEEN) and image.size == (INPUT, INPUT)
    assert image.point((32, 16)) == (40, 20)


@pytest.mark.slow
@pytest.mark.parametrize(
    'name, size',
    [
        ('faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', 80),
        ('mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py', 80),
        ('fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py', 80),
        ('yolox/yolox_tiny_8xb8-300e_coco.py', 80),
        ('rtmdet/rtmdet_tiny_8xb32-300e_coco.py', 96),
        ('detr/detr_r50_8xb2-150e_coco.py', 80),
        ('dino/dino-4scale_r50_8xb2-12e_coco.py', 224),  # fewer positions than queries otherwise
        ('mask2former/mask2former_r50_8xb2-lsj-50e_coco.py', 80),
    ],
)
def test_detectors_of_every_kind(name, size):
    detector = stock.build(stock.load(name)).eval()
    layer = 'backbone.layer3' if hasattr(detector.backbone, 'layer3') else 'backbone.stage3'
    image = np.random.default_rng(0).integers(0, 255, (size, size, 3), np.uint8)
    assert detector_receptive_field(detector, layer, [image], probes=1).area(0.9) > 16


@pytest.mark.slow
def test_detector_that_cannot_run_on_a_size_says_so():
    detector = stock.build(stock.load('rtmdet/rtmdet_tiny_8xb32-300e_coco.py')).eval()
    image = np.zeros((100, 130, 3), np.uint8)
    with pytest.raises(
        ValueError, match='RTMDet failed on images of 100 x 130 pixels .* multiples of 32'
    ):
        detector_receptive_field(detector, 'backbone.stage3', [image], probes=1)
