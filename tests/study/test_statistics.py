"""Means over seeds, and intervals of differences."""

import pytest

from benchmarks.study.statistics import mean, paired_difference


class TestStatistics:
    def test_interval_is_student_s(self):
        """Of 1, 2, 3: mean 2, standard error 1 / sqrt(3), quantile 4.303 of two degrees."""
        difference = paired_difference({0: 2, 1: 4, 2: 6, 9: 0}, {0: 1, 1: 2, 2: 3})
        assert difference.mean == 2 and difference.seeds == 3
        assert difference.high - 2 == pytest.approx(4.3027 / 3**0.5, rel=1e-4)
        assert not difference.is_clear
        assert paired_difference({0: 2.0, 1: 2.1, 2: 2.3}, {0: 1.0, 1: 1.1, 2: 1.2}).is_clear

    @pytest.mark.parametrize('seeds', [[0], [0, 1]])
    def test_few_seeds_have_no_interval(self, seeds):
        values = {seed: 2.0 + seed for seed in seeds}
        assert paired_difference(values, dict.fromkeys(seeds, 1.0)).low is None

    def test_differences_that_are_all_alike_have_no_interval(self):
        """Accuracies and APs come in steps; equal ones do not say that there is no spread."""
        found = paired_difference({0: 0.3, 1: 0.4, 2: 0.6}, {0: 0.2, 1: 0.3, 2: 0.5})
        assert found.mean == pytest.approx(0.1) and found.low is None and not found.is_clear

    def test_single_seed_has_no_spread(self):
        assert mean([3.0]).spread is None

    def test_errors(self):
        with pytest.raises(ValueError, match=r'No seed in common: \[0\] and \[1\]'):
            paired_difference({0: 1}, {1: 1})
        with pytest.raises(ValueError, match='no values'):
            mean([])
