import numpy as np
import pytest
import torch
from torch import nn

from mmdk.analysis import LayerOffsets, plot_kernel_offsets, record_kernel_offsets
from mmdk.layers import DeformKernel2d, DeformKernelConv2d, GlobalDeformKernel2d


@pytest.fixture
def model():
    """Two layers; the first tap of the first moves by (0.5, -0.25) cells, else nothing moves."""
    model = nn.Sequential(
        DeformKernel2d(3, 4, 3, padding=1), nn.ReLU(), DeformKernel2d(4, 4, 3, stride=2, padding=1)
    )
    with torch.no_grad():
        model[0].conv_offset.bias[:2] = torch.tensor([0.5, -0.25])
    return model


@pytest.fixture
def records(model):
    with record_kernel_offsets(model) as records:
        model(torch.randn(2, 3, 10, 14))
    return records


def test_every_layer_is_recorded(records):
    assert [record.name for record in records] == ['0', '2']
    assert [record.offsets.shape for record in records] == [
        (1, 3, 3, 2, 10, 14),
        (1, 3, 3, 2, 5, 7),
    ]


def test_offsets_are_those_of_the_layer(records):
    offsets = records[0].offsets
    assert np.all(offsets[0, 0, 0, 0] == 0.5) and np.all(offsets[0, 0, 0, 1] == -0.25)
    assert np.count_nonzero(offsets) == 2 * 10 * 14
    assert np.count_nonzero(records[1].offsets) == 0


def test_every_call_is_recorded_and_only_inside(model):
    with record_kernel_offsets(model) as records:
        model[0](torch.randn(1, 3, 8, 8))
        model[0](torch.randn(1, 3, 4, 4))
    model[0](torch.randn(1, 3, 8, 8))
    assert [record.offsets.shape[-2:] for record in records] == [(8, 8), (4, 4)]


def test_recording_changes_no_output(model):
    x = torch.randn(1, 3, 8, 8)
    with record_kernel_offsets(model):
        recorded = model(x)
    assert torch.equal(recorded, model(x))


def test_distance_is_the_mean_over_taps(records):
    assert np.allclose(records[0].distance, np.hypot(0.5, 0.25) / 9)
    assert records[0].distance.shape == (10, 14)


def test_taps_lie_in_the_middle_of_the_scope():
    layer = LayerOffsets('any', np.zeros((2, 3, 1, 2, 5, 5)), scope_size=(4, 2))
    assert layer.rigid_taps.tolist() == [[[0.5, 0.5]], [[1.5, 0.5]], [[2.5, 0.5]]]
    layer.offsets[1, 0, 0, :, 2, 3] = -1, 0.25
    assert layer.taps_at(2, 3)[1, 0, 0].tolist() == [-0.5, 0.75]
    assert np.array_equal(layer.taps_at(2, 3)[0], layer.rigid_taps)


def test_taps_without_cell():
    """At the first position one tap is outside (-1, size), one on its edge, one inside."""
    offsets = np.zeros((1, 3, 1, 2, 1, 2))
    scope_size = (4, 1)
    layer = LayerOffsets('layer', offsets, scope_size)
    assert layer.without_cell == 0
    offsets[0, :, 0, 0, 0, 0] = [-1.6, -2.5, 1.0]  # of rows that rest at 0.5, 1.5 and 2.5
    assert layer.without_cell == pytest.approx(2 / 6)


def test_picture(records, render):
    image = np.full((20, 28, 3), 128, np.uint8)
    figure = plot_kernel_offsets(image, records, [(2, 3), (19, 27)])
    maps = [axis for axis in figure.axes if len(axis.images) == 2]
    assert [axis.images[1].get_array().shape for axis in maps] == [(20, 28)] * 2
    # Hollow circles for the rigid taps, filled ones for the learned, at each point.
    scopes = [axis for axis in figure.axes if len(axis.collections) == 2 and axis.patches]
    assert len(scopes) == 4
    rigid, learned = (np.asarray(dots.get_offsets()) for dots in scopes[0].collections)
    assert np.allclose(learned[0] - rigid[0], [-0.25, 0.5])  # matplotlib has x before y
    assert np.allclose(learned[1:], rigid[1:])
    assert render(figure).std() > 5


def test_map_shows_at_each_pixel_the_nearest_unit():
    offsets = np.zeros((1, 1, 1, 2, 3, 2))
    offsets[0, 0, 0, 0] = [[0, 1], [2, 3], [4, 5]]
    layer = LayerOffsets('any', offsets, scope_size=(2, 2))
    axis = plot_kernel_offsets(np.zeros((6, 4, 3), np.uint8), [layer], []).axes[0]
    # Units lie over rows 0, 2 and 4, and over columns 0 and 2; halfway, it is the later one.
    rows = [[0, 1, 1, 1], *[[2, 3, 3, 3]] * 2, *[[4, 5, 5, 5]] * 3]
    assert axis.images[1].get_array().tolist() == rows


@pytest.mark.parametrize('points, rows, columns', [(0, 2, 5), (3, 5, 8), (4, 9, 5)])
def test_layers_share_rows_where_they_fit(points, rows, columns):
    layer = LayerOffsets('any', np.zeros((1, 1, 1, 2, 3, 2)), scope_size=(2, 2))
    figure = plot_kernel_offsets(np.zeros((6, 4, 3), np.uint8), [layer] * 9, [(1, 1)] * points)
    grid = figure.axes[0].get_gridspec()
    assert (grid.nrows, grid.ncols) == (rows, columns)


def test_other_layers_with_kernel_offsets_are_recorded_and_drawn():
    model = nn.Sequential(
        GlobalDeformKernel2d(3, 4, 3, padding=1), DeformKernelConv2d(4, 4, 3, padding=1)
    )
    with record_kernel_offsets(model) as records:
        model(torch.randn(2, 3, 10, 14))
    assert [record.offsets.shape for record in records] == [
        (1, 3, 3, 2, 1, 1),
        (1, 3, 3, 2, 10, 14),
    ]
    image = np.zeros((10, 14, 3), np.uint8)
    assert len(plot_kernel_offsets(image, records, [(2, 3)]).axes) == 4
