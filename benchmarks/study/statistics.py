"""Means over seeds, and differences of two variants seed by seed."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import stats

__all__ = ['Difference', 'Mean', 'mean', 'paired_difference']

CONFIDENCE = 0.95
EPSILON = 1e-9  # what rounding makes of equal differences


@dataclasses.dataclass(frozen=True)
class Mean:
    """Mean and standard deviation over seeds; the latter is None for a single one."""

    mean: float
    spread: float | None
    seeds: int


@dataclasses.dataclass(frozen=True)
class Difference:
    """Mean difference of pairs with the same seed, and its confidence interval.

    Attributes:
        mean: Of the differences.
        low: Lower end of the interval; None where there are fewer than three pairs, or where all
            of them differ alike, which says nothing of how much they vary.
        high: Upper end.
        seeds: Number of pairs.
    """

    mean: float
    low: float | None
    high: float | None
    seeds: int

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low is not None and not self.low <= 0 <= self.high


def mean(values: Sequence[float]) -> Mean:
    """Mean and sample standard deviation.

    Raises:
        ValueError: There are no values.

    Example:
        >>> mean([1.0, 2.0, 3.0])
        Mean(mean=2.0, spread=1.0, seeds=3)
    """
    if not len(values):
        raise ValueError('mean: there are no values.')
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Mean(float(np.mean(values)), spread, len(values))


def paired_difference(ours: dict[int, float], theirs: dict[int, float]) -> Difference:
    """Difference of two variants, by Student's t over the seeds that both have.

    Args:
        ours: Value by seed.
        theirs: Value by seed.

    Raises:
        ValueError: They have no seed in common.

    Example:
        >>> paired_difference({0: 2.0, 1: 4.0, 2: 6.0}, {0: 1.0, 1: 2.0, 2: 3.0}).mean
        2.0
    """
    seeds = sorted(ours.keys() & theirs.keys())
    if not seeds:
        raise ValueError(f'No seed in common: {sorted(ours)} and {sorted(theirs)}.')
    first, second = ([values[seed] for seed in seeds] for values in (ours, theirs))
    difference = float(np.mean(np.subtract(first, second)))
    if len(seeds) < 3 or np.ptp(np.subtract(first, second)) < EPSILON:
        return Difference(difference, None, None, len(seeds))
    interval = stats.ttest_rel(first, second).confidence_interval(CONFIDENCE)
    return Difference(difference, float(interval.low), float(interval.high), len(seeds))
