import math

import numpy as np
import pytest
import torch
from torch import nn

from mmdk.analysis import ReceptiveField, plot_receptive_fields, receptive_field
from mmdk.layers import DeformKernel2d


def conv(kernel, channels=1, **geometry):
    layer = nn.Conv2d(channels, channels, kernel.shape, bias=False, groups=channels, **geometry)
    layer.weight.data[:] = kernel
    return layer


def field_of(energy):
    return ReceptiveField(np.asarray(energy, float) / np.sum(energy), unit=(0, 0))


class TestReceptiveField:
    def test_energy_of_one_convolution_is_its_squared_kernel(self):
        kernel = torch.tensor([[1.0, 2.0, 3.0], [0.0, 4.0, 0.0], [-1.0, 0.0, 1.0]])
        model = nn.Sequential(conv(kernel, padding=1))
        field = receptive_field(model, '0', [torch.randn(2, 1, 7, 9)])
        expected = np.zeros((7, 9))
        expected[2:5, 3:6] = kernel.numpy() ** 2 / (kernel**2).sum().item()
        np.testing.assert_allclose(field.energy, expected, atol=1e-12)
        assert field.unit == (3, 4)

    def test_channels_add_up(self):
        """Random signs estimate a sum of squares, here without error: channels do not mix."""
        kernel = torch.rand(3, 3)
        model = nn.Sequential(conv(kernel, channels=5, padding=1))
        field = receptive_field(model, '0', [torch.randn(1, 5, 5, 5)], probes=1)
        np.testing.assert_allclose(
            field.energy[1:4, 1:4], (kernel**2 / (kernel**2).sum()).numpy(), rtol=1e-5
        )

    def test_a_probe_for_each_channel_is_exact_and_fewer_make_areas_too_small(self):
        """Of channels that mix, in a Gaussian window."""
        window = torch.signal.windows.gaussian(31, std=6.0)
        layer = nn.Conv2d(2, 64, 31, bias=False)
        weight = torch.randn(layer.weight.shape, generator=torch.Generator().manual_seed(0))
        layer.weight.data = weight * window.outer(window)
        inputs = [torch.randn(2, 2, 31, 31)]
        exact = layer.weight.detach().double().square().sum((0, 1))
        field = receptive_field(nn.Sequential(layer), '0', inputs, probes=64)
        np.testing.assert_allclose(field.energy, (exact / exact.sum()).numpy(), rtol=1e-4)
        areas = [
            receptive_field(nn.Sequential(layer), '0', inputs, probes=probes).area(0.5)
            for probes in (2, 8, 64)
        ]
        assert areas[0] < 0.9 * areas[1] and areas[1] < 0.97 * areas[2]

    def test_mean_over_images(self):
        """Of a network that responds to one image alone, as to that one."""
        model = nn.Sequential(nn.ReLU(), conv(torch.ones(3, 3), padding=1))
        seen, unseen = torch.ones(1, 1, 5, 5), -torch.ones(1, 1, 5, 5)
        field = receptive_field(model, '1', [seen, unseen])
        np.testing.assert_allclose(field.energy[1:4, 1:4], 1 / 9)

    def test_position_and_stride(self):
        model = nn.Sequential(conv(torch.ones(2, 2), stride=2))
        field = receptive_field(model, '0', [torch.randn(1, 1, 8, 8)], (0.5, 0.25))
        assert field.unit == (4, 2)
        assert np.argwhere(field.energy).tolist() == [[4, 2], [4, 3], [5, 2], [5, 3]]

    def test_deformed_kernel(self):
        """Taps that all look the same cell up see the image as a kernel of equal weights does."""
        layer = DeformKernel2d(1, 1, 3, padding=1, scope_size=5, bias=False)
        rest = torch.stack(torch.meshgrid(torch.arange(1, 4), torch.arange(1, 4), indexing='ij'), 2)
        layer.conv_offset.bias.data[:] = (2.0 - rest).flatten()
        field = receptive_field(nn.Sequential(layer), '0', [torch.randn(1, 1, 5, 5)])
        np.testing.assert_allclose(field.energy[1:4, 1:4], 1 / 9, rtol=1e-5)

    def test_calls_of_a_shared_layer(self):
        class Pyramid(nn.Module):
            def __init__(self):
                super().__init__()
                self.tower = conv(torch.ones(3, 3), padding=1)

            def forward(self, x):
                return self.tower(x), self.tower(nn.functional.avg_pool2d(x, 2))

        x = torch.randn(1, 1, 16, 16)
        fine, coarse = (receptive_field(Pyramid(), 'tower', [x], call=call) for call in (0, 1))
        assert (fine.area(1), coarse.area(1)) == (9, 36)

    def test_what_comes_next_in_place_does_not_count(self):
        layer = conv(torch.ones(3, 3), padding=1)
        model = nn.Sequential(layer, nn.ReLU(inplace=True), nn.Conv2d(1, 1, 1))
        # All that the layer gives is negative, so that nothing would be left after the ReLU.
        field = receptive_field(model, '0', [-torch.ones(1, 1, 5, 5)])
        assert field.area(1) == 9

    @pytest.mark.parametrize('size, unit', [(9, 4), (10, 5), (16, 8), (17, 8)])
    def test_the_middle_is_the_nearest_unit(self, size, unit):
        model = nn.Sequential(conv(torch.ones(1, 1)))
        field = receptive_field(model, '0', [torch.ones(1, 1, size, size)])
        assert field.unit == (unit, unit)

    def test_leaves_no_trace(self):
        model = nn.Sequential(conv(torch.ones(3, 3)))
        x = torch.randn(1, 1, 5, 5)
        receptive_field(model, '0', [x])
        assert model[0].weight.grad is None and not x.requires_grad
        assert not model[0]._forward_hooks

    @pytest.mark.parametrize(
        'change, message',
        [
            (dict(layer='1.cnv'), "layer='1.cnv' is not in the model. Closest: 1.conv"),
            (dict(inputs=[]), 'inputs is empty'),
            (dict(inputs=[torch.zeros(1, 1, 5, 5), torch.zeros(1, 1, 5, 6)]), 'one height'),
            (dict(position=(1, 0)), 'position must be'),
            (dict(layer='§'), 'model.named_modules'),
            (dict(call=1), 'called 1 times; call=1'),
            (dict(call=-1), 'called 1 times; call=-1'),
            (dict(layer='2'), r"'2' gives \(1, 25\); name a layer"),
            (dict(layer='unused'), "'unused' was called 0 times"),
            (dict(probes=0), 'probes must be at least 1'),
            (dict(inputs=[-torch.ones(1, 1, 5, 5)]), 'does not depend on the input'),
        ],
    )
    def test_errors(self, change, message):
        model = nn.Sequential(nn.ReLU(), nn.Sequential(), nn.Flatten())
        model[1].add_module('conv', conv(torch.ones(3, 3), padding=1))
        model.forward = lambda x: model[2](model[1](model[0](x)))
        model.add_module('unused', nn.Identity())
        arguments = dict(layer='1.conv', inputs=[torch.ones(1, 1, 5, 5)]) | change
        with pytest.raises(ValueError, match=message):
            receptive_field(model, **arguments)


class TestNumbers:
    def test_area(self):
        field = field_of([[5, 3], [1, 1]])
        assert [field.area(share) for share in (0.4, 0.5, 0.8, 0.9, 1)] == [1, 1, 2, 3, 4]
        with pytest.raises(ValueError, match='share'):
            field.area(0)

    @pytest.mark.parametrize('angle', [0, 30, 90, 135])
    def test_orientation_and_axes_of_a_gaussian(self, angle):
        """Counter-clockwise as one sees it: rows count downwards."""
        y, x = np.indices((101, 101)) - 50.0
        along = x * math.cos(math.radians(angle)) - y * math.sin(math.radians(angle))
        across = x * math.sin(math.radians(angle)) + y * math.cos(math.radians(angle))
        field = field_of(np.exp(-((along / 8) ** 2 + (across / 4) ** 2) / 2))
        assert field.orientation == pytest.approx(angle, abs=1e-6)
        assert field.axes == pytest.approx((8, 4), rel=1e-3)
        assert field.eccentricity == pytest.approx(math.sqrt(0.75), rel=1e-3)
        assert field.centre == pytest.approx((50, 50))

    def test_numbers(self):
        assert field_of(np.eye(9)).numbers() == dict(
            area_50=5, area_90=9, longest=3.65, shortest=0.0, orientation=135.0, eccentricity=1.0
        )

    def test_point(self):
        field = field_of([[0, 0], [0, 1]])
        assert field.axes == (0, 0) and field.eccentricity == 0


def test_picture(render):
    fields = {'plain': field_of(np.eye(9)), 'DK': field_of(np.ones((9, 9)))}
    figure = plot_receptive_fields(fields, np.zeros((9, 9, 3), np.uint8))
    plain, deformable = figure.axes
    assert 'plain\n50 %: 5 px, 90 %: 9 px\n135°' in plain.get_title()
    assert '50 %: 41 px' in deformable.get_title()
    assert render(figure).std() > 5


def test_picture_of_several_units():
    point = np.zeros((9, 9))
    point[4, 4] = 1
    units = [field_of(energy) for energy in (point, np.eye(9), np.ones((9, 9)))]
    figure = plot_receptive_fields({'plain': units, 'DK': units[::-1]})
    titles = [axis.get_title().split(' px')[0] for axis in figure.axes]
    assert titles == [
        *('plain\n50 %: 1', 'DK\n50 %: 41'),
        *('plain\n50 %: 5', 'DK\n50 %: 5'),
        *('plain\n50 %: 41', 'DK\n50 %: 1'),
    ]
    with pytest.raises(ValueError, match="as many units under each name, got {'a': 3, 'b': 2}"):
        plot_receptive_fields({'a': units, 'b': units[:2]})
