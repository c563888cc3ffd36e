import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from PIL import Image

from mmdk.analysis import compare_detections, plot_detections

CLASSES = tuple('0123456789')


@pytest.fixture
def sample(tmp_path):
    path = tmp_path / 'image.png'
    Image.fromarray(np.full((60, 80), 90, np.uint8)).save(path)
    sample = DetDataSample(metainfo={'img_path': str(path)})
    sample.gt_instances = InstanceData(
        bboxes=torch.tensor([[10.0, 20.0, 30.0, 50.0]]), labels=torch.tensor([3])
    )
    sample.pred_instances = InstanceData(
        bboxes=torch.tensor([[11.0, 21.0, 31.0, 49.0], [40.0, 5.0, 70.0, 25.0]]),
        labels=torch.tensor([3, 8]),
        scores=torch.tensor([0.875, 0.2]),
    )
    return sample


def drawn(axis):
    """Boxes as (x, y, width, height), and captions."""
    return (
        [(*box.get_xy(), box.get_width(), box.get_height()) for box in axis.patches],
        [text.get_text() for text in axis.texts],
    )


def test_truth_left_and_detections_right(sample):
    truth_axis, detection_axis = plot_detections([sample], CLASSES).axes[:2]
    assert drawn(truth_axis) == ([(10, 20, 20, 30)], ['3'])
    assert drawn(detection_axis) == ([(11, 21, 20, 28)], ['3  0.88'])


def test_threshold_lets_more_through(sample):
    _, detection_axis = plot_detections([sample], CLASSES, score_thr=0.1).axes[:2]
    assert drawn(detection_axis)[1] == ['8  0.20', '3  0.88']  # the surest last, hence on top


@pytest.mark.parametrize('box', [(0, 1, 6, 9), (74, 1, 80, 9), (0, 50, 6, 60), (74, 50, 80, 60)])
def test_captions_stay_in_the_image(sample, render, box):
    sample.pred_instances.bboxes[0] = torch.tensor(box)
    figure = plot_detections([sample], CLASSES)
    render(figure)
    axis = figure.axes[1]
    (caption,) = axis.texts
    image, text = axis.get_window_extent(), caption.get_window_extent()
    assert image.x0 <= text.x0 and text.x1 <= image.x1
    assert image.y0 <= text.y0 and text.y1 <= image.y1


@pytest.mark.parametrize('count', [1, 2, 3, 4])
def test_any_number_of_images(sample, count):
    figure = plot_detections([sample] * count, CLASSES)
    assert sum(bool(axis.images) for axis in figure.axes) == 2 * count


def test_images_without_objects(sample, render):
    full = render(plot_detections([sample], CLASSES))
    sample.gt_instances = sample.gt_instances[:0]
    sample.pred_instances = sample.pred_instances[:0]
    empty = render(plot_detections([sample], CLASSES))
    assert full.shape == empty.shape
    assert (full != empty).any(axis=-1).mean() > 0.005


class TestCompareDetections:
    def test_a_column_an_image_and_a_row_a_detector(self, sample):
        blind = sample.clone()
        blind.pred_instances = sample.pred_instances[:0]
        figure = compare_detections({'one': [sample] * 3, 'two': [blind] * 3}, CLASSES)
        rows = np.reshape(figure.axes, (3, 3))
        assert [axis.get_title() for axis in rows[:, 2]] == ['ground truth', 'one', 'two']
        assert [drawn(axis)[1] for axis in rows[:, 2]] == [['3'], ['3  0.88'], []]

    @pytest.mark.parametrize('counts', [(1, 2), (0, 0)])
    def test_as_many_images_of_each(self, sample, counts):
        samples = {str(count): [sample] * count for count in counts}
        with pytest.raises(ValueError, match='as many images of each detector, got {'):
            compare_detections(samples, CLASSES)
