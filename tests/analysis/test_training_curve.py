import json

import pytest

from mmdk.analysis import plot_training_curve, read_scalars


@pytest.fixture
def work_dir(tmp_path):
    """A training of 3 epochs that was interrupted in the third and resumed after the second."""
    runs = {
        '20260101_000000': [
            {'loss': 3.0, 'lr': 0.1, 'epoch': 1, 'iter': 10, 'step': 10},
            {'loss': 2.0, 'lr': 0.1, 'epoch': 1, 'iter': 20, 'step': 20},
            {'loss': 1.5, 'lr': 0.1, 'epoch': 2, 'iter': 40, 'step': 40},
            {'coco/bbox_mAP': 0.25, 'coco/bbox_mAP_50': 0.5, 'step': 2},
            {'loss': 9.0, 'lr': 0.1, 'epoch': 3, 'iter': 50, 'step': 50},
        ],
        '20260102_000000': [
            {'loss': 1.0, 'lr': 0.1, 'epoch': 3, 'iter': 60, 'step': 60},
            {'coco/bbox_mAP': 0.75, 'coco/bbox_mAP_50': 0.9, 'step': 3},
        ],
    }
    for name, scalars in runs.items():
        folder = tmp_path / name / 'vis_data'
        folder.mkdir(parents=True)
        (folder / 'scalars.json').write_text('\n'.join(map(json.dumps, scalars)) + '\n')
    return tmp_path


def test_resumed_training_is_read_as_one(work_dir):
    assert read_scalars(work_dir) == ({1: 2.0, 2: 1.5, 3: 1.0}, {2: 0.25, 3: 0.75})


def test_no_records(tmp_path):
    with pytest.raises(FileNotFoundError, match='expected the work_dir of a training'):
        read_scalars(tmp_path)


def test_curves_show_the_values(work_dir):
    loss_axis, precision_axis = plot_training_curve(*read_scalars(work_dir)).axes
    assert loss_axis.lines[0].get_xydata().tolist() == [[1, 2.0], [2, 1.5], [3, 1.0]]
    assert precision_axis.lines[0].get_xydata().tolist() == [[2, 0.25], [3, 0.75]]


def test_picture_is_not_blank(work_dir, render):
    assert render(plot_training_curve(*read_scalars(work_dir))).std() > 5
