import json

import pytest

from mmdk.analysis import plot_offset_curves, read_offset_curves


def scalars(step, first, last):
    layers = {'backbone.layer3.0.conv2': first, 'bbox_head.cls_convs.0.conv': last}
    values = {
        f'kernel_offset/{name}/{scalar}': value
        for name, value in layers.items()
        for scalar, value in (('mean_abs', value), ('outside', value / 2), ('clipped', 0.0))
    }
    return dict(loss=1.0, epoch=1, step=step, **values)


@pytest.fixture
def work_dir(tmp_path):
    runs = {
        '20260101_000000': [scalars(10, 0.1, 0.2), scalars(20, 9.0, 9.0)],
        '20260102_000000': [
            scalars(20, 0.3, 0.4),
            {'coco/bbox_mAP': 0.5, 'step': 1},
            {'image_offset/stage/mean_abs': 2.0, 'step': 30},
        ],
    }
    for name, records in runs.items():
        folder = tmp_path / name / 'vis_data'
        folder.mkdir(parents=True)
        (folder / 'scalars.json').write_text('\n'.join(map(json.dumps, records)) + '\n')
    return tmp_path


def test_resumed_training_is_read_as_one(work_dir):
    curves = read_offset_curves(work_dir)
    assert list(curves) == [
        ('kernel_offset', 'mean_abs'),
        ('kernel_offset', 'outside'),
        ('kernel_offset', 'clipped'),
        ('image_offset', 'mean_abs'),
    ]
    assert curves['kernel_offset', 'mean_abs'] == {
        'backbone.layer3.0.conv2': {10: 0.1, 20: 0.3},
        'bbox_head.cls_convs.0.conv': {10: 0.2, 20: 0.4},
    }
    assert curves['image_offset', 'mean_abs'] == {'stage': {30: 2.0}}


def test_a_training_without_the_hook(tmp_path):
    folder = tmp_path / '20260101_000000/vis_data'
    folder.mkdir(parents=True)
    (folder / 'scalars.json').write_text('{"loss": 1.0, "step": 10}\n')
    with pytest.raises(ValueError, match="custom_hooks=.dict.type='OffsetHook'"):
        read_offset_curves(tmp_path)


def test_picture(work_dir, render):
    figure = plot_offset_curves(read_offset_curves(work_dir))
    # Nothing was ever clipped.
    lengths, outside, image = figure.axes
    assert 'kernel offsets, scope cells' in lengths.get_ylabel()
    assert 'outside' in outside.get_ylabel() and 'pixels' in image.get_ylabel()
    assert [line.get_xydata().tolist() for line in lengths.lines] == [
        [[10, 0.1], [20, 0.3]],
        [[10, 0.2], [20, 0.4]],
    ]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        'backbone.layer3.0.conv2',
        'bbox_head.cls_convs.0.conv',
        'stage',
    ]
    assert render(figure).std() > 5
