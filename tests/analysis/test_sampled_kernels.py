import numpy as np
import pytest
import torch
from torch import nn

from mmdk.analysis import plot_sampled_kernels, record_kernel_offsets, sampled_kernels
from mmdk.layers import DeformKernel2d, GlobalDeformKernel2d
from mmdk.ops import deform_kernel2d

SIZE = (12, 16)
POINTS = [(2.5, 3.5), (11.5, 8.5)]


def shaken(layer, size=0.4):
    nn.init.normal_(layer.conv_offset.weight, std=size)
    nn.init.normal_(layer.conv_offset.bias, std=size)
    return layer


def kernels_of(layer, x, points=POINTS):
    model = nn.Sequential(layer)
    with record_kernel_offsets(model) as records:
        model(x)
    return sampled_kernels(model, records, points, tuple(x.shape[2:]))[0]


@pytest.mark.parametrize('groups, offset_groups', [(1, 1), (1, 2), (2, 4), (4, 1), (4, 4)])
def test_the_layer_applies_these_kernels(groups, offset_groups):
    """At a unit, the output is the sum over the input beneath times the kernel sampled there."""
    layer = shaken(
        DeformKernel2d(4, 8, 3, padding=1, groups=groups, offset_groups=offset_groups, bias=False)
    )
    x = torch.randn(1, 4, *SIZE)
    found = kernels_of(layer, x)
    output = layer(x)[0].detach().numpy()
    padded = nn.functional.pad(x[0], (1, 1, 1, 1)).numpy()
    for point, kernel in zip(POINTS, found.kernels, strict=True):
        y, x_ = (int(at) for at in point)
        beneath = padded[:, y : y + 3, x_ : x_ + 3].reshape(groups, 4 // groups, 3, 3)
        beneath = beneath.repeat(8 // groups, axis=0)  # by output channel
        np.testing.assert_allclose(
            (beneath * kernel).sum((1, 2, 3)), output[:, y, x_], rtol=1e-4, atol=1e-5
        )
    assert np.abs(found.kernels[0] - found.kernels[1]).max() > 1e-3


def test_rigid_kernel_is_what_the_layer_has_at_rest():
    layer = shaken(DeformKernel2d(3, 5, 3, padding=1, bias=False))
    found = kernels_of(layer, torch.randn(1, 3, *SIZE))
    x = torch.randn(1, 3, 8, 8)
    rigid = nn.functional.conv2d(x, torch.from_numpy(found.rigid), padding=1)
    at_rest = deform_kernel2d(x, layer.weight, kernel_size=3, padding=1)
    torch.testing.assert_close(rigid, at_rest.detach())


def test_one_kernel_for_all_points_of_global_layers():
    found = kernels_of(shaken(GlobalDeformKernel2d(3, 5, 3, padding=1)), torch.randn(1, 3, *SIZE))
    np.testing.assert_array_equal(found.kernels[0], found.kernels[1])


@pytest.mark.parametrize(
    'points, message',
    [([], 'points is empty'), ([(12, 3)], 'y=12, x=3 is outside the image of 12 x 16')],
)
def test_bad_points(points, message):
    with pytest.raises(ValueError, match=message):
        kernels_of(DeformKernel2d(3, 5, 3), torch.randn(1, 3, *SIZE), points)


class TestPicture:
    @pytest.fixture
    def found(self):
        return kernels_of(
            shaken(DeformKernel2d(4, 8, 3, padding=1, offset_groups=2)), torch.randn(1, 4, *SIZE)
        )

    def panels(self, figure):
        return [axis for axis in figure.axes if axis.axison]

    def test_mean_magnitudes(self, found, render):
        image = np.zeros((*SIZE, 3), np.uint8)
        figure = plot_sampled_kernels(image, [found], POINTS)
        rigid, _, first, _, second = self.panels(figure)
        for axis, kernel in ((rigid, found.rigid), (first, found.kernels[0])):
            np.testing.assert_allclose(axis.images[0].get_array(), np.abs(kernel).mean((0, 1)))
        assert second.images[0].get_clim() == rigid.images[0].get_clim()
        assert rigid.get_title(loc='left') == '0'
        assert render(figure).std() > 5

    def test_one_channel_with_the_taps_of_its_offset_group(self, found):
        image = np.zeros((*SIZE, 3), np.uint8)
        figure = plot_sampled_kernels(image, [found], POINTS, channel=(5, 3))
        _, scope, kernel, *_ = self.panels(figure)
        np.testing.assert_array_equal(kernel.images[0].get_array(), found.kernels[0, 5, 3])
        _, learned = scope.collections
        np.testing.assert_allclose(  # matplotlib has x before y
            learned.get_offsets()[:, ::-1], found.taps[0, 1].reshape(-1, 2), rtol=1e-6
        )

    def test_taps_that_see_no_cell_are_counted(self, found):
        found.taps[0] = found.rigid_taps
        found.taps[0, :, 0, 0] = -1, 2
        found.taps[0, :, 1, 1] = 1, 3.9
        figure = plot_sampled_kernels(np.zeros((*SIZE, 3), np.uint8), [found], POINTS)
        assert self.panels(figure)[1].get_xlabel() == '1 of 9 taps see no cell'

    @pytest.mark.parametrize('channel', [(8, 0), (0, 4), (-1, 0)])
    def test_no_such_channel(self, found, channel):
        with pytest.raises(ValueError, match='8 output channels and 4 input channels'):
            plot_sampled_kernels(np.zeros((*SIZE, 3), np.uint8), [found], POINTS, channel)

    def test_no_layer(self):
        with pytest.raises(ValueError, match='layers is empty'):
            plot_sampled_kernels(np.zeros((*SIZE, 3), np.uint8), [], POINTS)
