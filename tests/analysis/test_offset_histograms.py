import numpy as np
import pytest
import torch
from torch import nn

from mmdk.analysis import OffsetHistogram, plot_offset_histograms, record_offset_histograms
from mmdk.layers import DeformConv2d, DeformKernel2d, DeformKernelConv2d


def counted(y, x, kind='kernel_offset'):
    """A histogram of offsets, one tap each."""
    histogram = OffsetHistogram('layer', kind)
    histogram.add(np.stack([y, x]).reshape(1, 1, 1, 1, 2, 1, -1))
    return histogram


def test_offsets_of_all_layers_kinds_and_calls():
    model = nn.Sequential(
        DeformConv2d(3, 3, 3, padding=1),
        DeformKernel2d(3, 3, 3, padding=1),
        DeformKernelConv2d(3, 3, 3, padding=1),
    )
    model[0].conv_offset.bias.data[:] = torch.tensor([0.25, -1.5]).repeat(9)
    model[1].conv_offset.bias.data[:2] = torch.tensor([0.5, -0.25])
    with record_offset_histograms(model) as histograms:
        for batch in (1, 2):
            model(torch.randn(batch, 3, 4, 5))
    assert [(each.name, each.kind) for each in histograms] == [
        ('1', 'kernel_offset'),
        ('2', 'kernel_offset'),
        ('0', 'image_offset'),
        ('2', 'image_offset'),
    ]
    outputs = 3 * 4 * 5
    moved, resting, image, _ = histograms
    assert moved.counts == ({16: outputs, 0: 8 * outputs}, {-8: outputs, 0: 8 * outputs})
    assert resting.counts == ({0: 9 * outputs}, {0: 9 * outputs})
    assert image.counts == ({4: 9 * outputs}, {-24: 9 * outputs})


def test_layers_that_did_not_run_are_left_out():
    model = nn.ModuleList([DeformKernel2d(3, 3, 3), DeformKernel2d(3, 3, 3)])
    with record_offset_histograms(model) as histograms:
        model[1](torch.randn(1, 3, 4, 5))
    assert [each.name for each in histograms] == ['1']


@pytest.mark.parametrize('kind', ['kernel_offset', 'image_offset'])
def test_quantiles_are_numpys_to_half_a_bin(kind):
    rng = np.random.default_rng(0)
    y, x = rng.normal(size=1001), rng.exponential(3, size=1001)
    histogram = counted(y, x, kind)
    shares = (0.05, 0.5, 0.99)
    expected = np.quantile([y, x], shares, axis=1, method='inverted_cdf').T
    assert np.abs(histogram.quantiles(shares) - expected).max() <= histogram.width / 2


def test_shares_between_edges():
    histogram = counted(np.array([-1.0, 0, 0, 1]), np.zeros(4))
    half = histogram.width / 2
    assert histogram.shares(0, np.array([-half, half, 1 + half])).tolist() == [0.5, 0.25]
    assert histogram.shares(1, np.array([-half, half])).tolist() == [1]


@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_offsets_that_are_not_finite(value):
    with pytest.raises(ValueError, match="'layer' are NaN or infinite"):
        counted(np.array([0, value]), np.zeros(2))


class TestPicture:
    def test_all_that_is_drawn_adds_up(self, render):
        rng = np.random.default_rng(0)
        histograms = [
            counted(rng.normal(size=5000), rng.normal(size=5000) * 7),
            counted(np.zeros(9), np.full(9, 1.5), 'image_offset'),
        ]
        figure = plot_offset_histograms(histograms)
        for axis, least in zip(figure.axes, (0.998, 1), strict=True):
            for stairs in axis.patches:
                assert least <= stairs.get_data().values.sum() <= 1 + 1e-9
                assert len(stairs.get_data().values) < 150
        assert figure.axes[0].get_xlabel() == 'kernel offset, scope cells'
        assert figure.axes[1].get_xlabel() == 'image offset, pixels of the input'
        assert '90 %: y 0.00 to 0.00, x 1.50 to 1.50' in figure.axes[1].get_title()
        assert render(figure).std() > 5

    @pytest.mark.parametrize('reach', [0.01, 0.3, 2, 40])
    def test_bins_to_draw_are_whole_bins(self, reach):
        histogram = counted(np.linspace(-reach, reach, 5001), np.zeros(5001))
        (stairs, _) = plot_offset_histograms([histogram]).axes[0].patches
        edges = stairs.get_data().edges / histogram.width
        np.testing.assert_allclose(edges % 1, 0.5)

    def test_none(self):
        with pytest.raises(ValueError, match='histograms is empty'):
            plot_offset_histograms([])
