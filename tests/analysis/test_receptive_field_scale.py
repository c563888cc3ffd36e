import math

import numpy as np
import pytest

from mmdk.analysis import ObjectField, plot_receptive_field_scale, rank_correlation
from mmdk.analysis.receptive_field_scale import binned_medians


def fields(count=40):
    """Areas that grow with the scale, and others that shrink."""
    return [ObjectField(float(i), area_50=i**3 + 1, area_90=5000 - i) for i in range(count)]


def test_rank_correlation():
    assert rank_correlation(fields(), 'area_50')[0] == pytest.approx(1)
    coefficient, probability = rank_correlation(fields(), 'area_90')
    assert coefficient == pytest.approx(-1) and probability < 1e-10


def test_rank_correlation_of_few():
    with pytest.raises(ValueError, match='at least 3 objects, got 2'):
        rank_correlation(fields(2), 'area_50')


@pytest.mark.filterwarnings('ignore:An input array is constant')
def test_rank_correlation_of_equal_areas():
    assert math.isnan(rank_correlation([ObjectField(i, 9, 9) for i in range(5)], 'area_50')[0])


def test_bins_hold_equally_many():
    scales = np.array([100.0, *range(11)])
    centres, medians = binned_medians(scales, scales * 2)
    assert centres.tolist() == [2.5, 8.5]
    assert medians.tolist() == [5, 17]
    assert len(binned_medians(np.arange(100.0), np.arange(100.0))[0]) == 6
    assert len(binned_medians(np.arange(3.0), np.arange(3.0))[0]) == 1


def test_picture(render):
    figure = plot_receptive_field_scale({'plain': fields(), 'DK': fields(30)})
    axes = figure.axes
    assert len(axes) == 4
    np.testing.assert_allclose(
        axes[0].collections[0].get_offsets(), [(i, math.sqrt(i**3 + 1)) for i in range(40)]
    )
    assert axes[0].get_title().startswith('plain\nrank correlation 1.00')
    assert 'rank correlation -1.00' in axes[3].get_title() and '30 objects' in axes[3].get_title()
    assert render(figure).std() > 5
