import mmcv
import numpy as np
import pytest
from matplotlib.figure import Figure
from mmengine.visualization import Visualizer

from mmdk.analysis import add_figure, render


@pytest.fixture
def figure():
    figure = Figure(figsize=(2, 1))
    figure.patch.set_facecolor((1, 0.2, 0))
    return figure


def test_pixels(figure):
    pixels = render(figure, dpi=50)
    assert pixels.shape == (50, 100, 3) and pixels.dtype == np.uint8
    assert (pixels == (255, 51, 0)).all()


def test_local_backend(figure, tmp_path):
    visualizer = Visualizer(
        vis_backends=[dict(type='LocalVisBackend')], save_dir=str(tmp_path), name='local'
    )
    add_figure(visualizer, 'orange', figure, step=7)
    written = mmcv.imread(tmp_path / 'vis_data/vis_image/orange_7.png', channel_order='rgb')
    assert (written == (255, 51, 0)).all()


def test_tensorboard(figure, tmp_path):
    events = pytest.importorskip('tensorboard.backend.event_processing.event_accumulator')
    visualizer = Visualizer(
        vis_backends=[dict(type='TensorboardVisBackend')], save_dir=str(tmp_path), name='board'
    )
    add_figure(visualizer, 'orange', figure, step=7)
    visualizer.close()
    (image,) = events.EventAccumulator(str(tmp_path / 'vis_data')).Reload().Images('orange')
    assert image.step == 7
    pixels = mmcv.imfrombytes(image.encoded_image_string, channel_order='rgb')
    assert (pixels == (255, 51, 0)).all()


def test_names_that_the_local_backend_would_lose(figure, tmp_path):
    visualizer = Visualizer(
        vis_backends=[dict(type='LocalVisBackend')], save_dir=str(tmp_path), name='slash'
    )
    with pytest.raises(ValueError, match="'a/b' has a slash"):
        add_figure(visualizer, 'a/b', figure)
