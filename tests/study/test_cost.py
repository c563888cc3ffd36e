"""What networks cost."""

import pytest

from benchmarks.study import cost, report
from benchmarks.study.plan import TASKS
from benchmarks.study.variants import COMPARED


@pytest.mark.parametrize('task, network', [(task, each) for task in TASKS for each in TASKS[task]])
def test_wider_network_costs_as_much_as_dk(task, network):
    wider, dk = (cost.count_flops(task, network, name, 1).ratio for name in ('plain, wider', 'DK'))
    assert wider == pytest.approx(dk, rel=0.12)


def test_page_says_what_a_larger_scope_costs():
    larger, dk = (
        cost.count_flops('detection', 'R50-DW', name, 1).ratio for name in ('DK, scope 5', 'DK')
    )
    page = ' '.join(report.PAGE.read_text().split())
    assert f'it takes {larger:.0f} million FLOPs where DK takes {dk:.0f}' in page


class TestCost:
    def test_everything_compared_is_measured_once(self):
        labels = [measurement.label for measurement in cost.measurements()]
        assert len(set(labels)) == len(labels) == 4 * 4 * len(COMPARED)
        assert f'detection, R50: DK+DCN, {cost.FLOPS}' in labels

    def test_counts(self):
        """What DK adds: offsets of 18 channels, 16 - 9 cells and 4 multiply-adds a tap."""
        counts = {}
        for variant in ('plain', 'DK'):
            subject = ('classification', 'R18-DW', variant, 1)
            counts[variant] = cost.count_parameters(*subject), cost.count_flops(*subject)
        # Channels and output positions of the layers: two blocks in each of three stages.
        layers = [(c, 32 // 2**s) for s, c in ((1, 16), (2, 32), (3, 64))]
        layers += [(2 * c, side) for c, side in layers for _ in range(3)]
        parameters = sum(c * (9 * 18 + 16 - 9) + 18 for c, _ in layers)
        flops = sum(side**2 * c * (9 * 18 + 9 * 4) for c, side in layers)
        more = [dk.ratio - plain.ratio for plain, dk in zip(*counts.values(), strict=True)]
        assert more == pytest.approx([parameters / 1e3, flops / 1e6])

    def test_plain_is_one(self):
        assert cost.compare_time('detection', 'R50', 'plain', 1).ratio == 1

    def test_step_trains(self):
        step = cost.training_step('classification', 'R18-DW', 'DK')
        assert step()['loss'] > step()['loss'] > 0

    @pytest.mark.slow
    def test_memory_is_counted(self):
        assert cost.growth('classification', 'R18-DW', 'plain') > 1 << 20
