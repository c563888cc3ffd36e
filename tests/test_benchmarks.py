"""The benchmarks measure what they say, and their README shows what the committed results say."""

import ctypes
import threading

import pytest
import torch

from benchmarks import gpu, measure, report
from benchmarks.arithmetic import multiply_adds
from benchmarks.cases import (
    Case,
    composition,
    mmcv_peer,
    ours,
    plain,
    smooth,
    torchvision_peer,
)
from benchmarks.peak import in_fresh_process, peak_growth
from benchmarks.study import report as study_report
from benchmarks.variants import VARIANTS

MIB = 1 << 20


class TestReadme:
    def test_tables_equal_the_results(self):
        readme = report.README.read_text()
        assert report.updated(readme) == readme

    def test_all_results_are_shown(self):
        documents = report.README.read_text() + study_report.PAGE.read_text()
        for path in report.RESULTS.glob('*'):
            assert f'<!-- {path.stem} -->' in documents or f'results/{path.name}' in documents

    def test_cell(self):
        row = {'ratio': 1.234, 'least': 1.2, 'most': 2.5, 'goal': 1.2}
        assert measure.cell(row) == '**1.23** (1.20 to 2.50)'
        assert measure.cell(row | {'goal': 1.3}) == '1.23 (1.20 to 2.50)'
        assert measure.cell({'ratio': 0.0123}) == '0.0123'


def test_time_pairs_compares_each_pair(monkeypatch):
    """On a clock that only the calls move, and a machine that becomes slower with every call."""
    now, speed = 0.0, 1.0

    def take(seconds):
        nonlocal now, speed
        now += seconds * speed
        speed *= 1.001

    monkeypatch.setattr(measure.time, 'perf_counter', lambda: now)
    ratio = measure.time_pairs(lambda: take(3), lambda: take(0.002), pairs=40, scale=0.5)
    assert ratio.pairs == 40
    assert ratio.ratio == pytest.approx(750, rel=0.02)
    assert 0.98 * ratio.most < ratio.least <= ratio.ratio <= ratio.most


class TestPeak:
    """What a call allocates is counted, whoever allocates it, also if it is freed again."""

    @pytest.mark.parametrize('name', ['tensor', 'malloc', 'tensor_in_a_thread'])
    def test_counts(self, name):
        growth = in_fresh_process(growth_of, name)
        assert growth == pytest.approx(64 * MIB, abs=MIB)

    def test_result_is_returned(self):
        growth, result = peak_growth(lambda: 7)
        assert (growth < MIB, result) == (True, 7)


def growth_of(name: str) -> int:
    call = {'tensor': tensor, 'malloc': malloc, 'tensor_in_a_thread': tensor_in_a_thread}[name]
    call(MIB)  # loads code
    return peak_growth(lambda: call(64 * MIB))[0]


def tensor(size: int) -> None:
    torch.ones(size // 4)


def malloc(size: int) -> None:
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    block = ctypes.c_void_p(libc.malloc(ctypes.c_size_t(size)))
    libc.memset(block, 1, ctypes.c_size_t(size))
    libc.free(block)


def tensor_in_a_thread(size: int) -> None:
    thread = threading.Thread(target=tensor, args=(size,))
    thread.start()
    thread.join()


SMALL = (2, 8, 12, 10)
OUTPUTS = 2 * 12 * 10


class TestCases:
    @pytest.mark.parametrize('name', VARIANTS)
    @pytest.mark.parametrize('depthwise', [False, True])
    def test_operator_and_its_peers_agree(self, name, depthwise):
        groups = 4 if 'groups' in VARIANTS[name] else 1
        case = Case(**VARIANTS[name] | dict(shape=SMALL, depthwise=depthwise, groups=groups))
        output, *gradients = with_seed(ours, case)
        assert output.shape[2:] == case.out_size
        assert len(gradients) == len(ours(case).leaves)
        torch.testing.assert_close(output, with_seed(composition, case)[0], atol=1e-4, rtol=1e-4)
        assert with_seed(plain, case)[0].shape == output.shape

    @pytest.mark.parametrize('mask', [False, True])
    def test_equals_mmcv(self, mask):
        case = Case(SMALL, kernel_offset=None, image_offset=True, mask=mask)
        output, _ = with_seed(ours, case)[:2]
        torch.testing.assert_close(output, with_seed(mmcv_peer, case)[0], atol=1e-4, rtol=1e-4)

    @pytest.mark.parametrize('mask', [False, True])
    def test_equals_torchvision(self, mask):
        pytest.importorskip('torchvision')
        case = Case(SMALL, kernel_offset=None, image_offset=True, mask=mask)
        output, _ = with_seed(ours, case)[:2]
        expected = with_seed(torchvision_peer, case)[0]
        torch.testing.assert_close(output, expected, atol=1e-4, rtol=1e-4)

    def test_smooth_offsets_vary_as_much_but_slowly(self):
        values = smooth((1, 18, 100, 168))
        assert values.shape == (1, 18, 100, 168)
        assert values.std().item() == pytest.approx(1)
        assert values.diff(dim=3).std() < 0.3 < torch.randn(values.shape).diff(dim=3).std()


def with_seed(operator, case: Case) -> tuple:
    torch.manual_seed(0)
    return operator(case).direction('forward+backward')()


class TestArithmetic:
    """Per output position of 8 channels."""

    @pytest.mark.parametrize(
        ('changes', 'expected'),
        [
            (dict(depthwise=True), 8 * 9 * 5),
            (dict(), 8 * 9 * 4 + 8 * 8 * 16),
            (dict(groups=4), 8 * 9 * 4 + 8 * 2 * 16),
            (dict(kernel_offset='global'), 8 * 8 * 9),
            (dict(kernel_offset=None, image_offset=True, mask=True), 8 * 8 * 9 + 8 * 9 * 5),
            (dict(depthwise=True, image_offset=True), 8 * 9 * 9),
        ],
    )
    def test_multiply_adds(self, changes, expected):
        assert multiply_adds(Case(SMALL, **changes)) == OUTPUTS * expected


class TestGpu:
    """benchmarks/gpu.py, as far as no GPU is needed."""

    @pytest.fixture
    def on_the_cpu(self, monkeypatch):
        monkeypatch.setattr(gpu, 'wait', lambda: None)
        monkeypatch.setattr(gpu, 'seconds', measure.seconds)
        monkeypatch.setattr(gpu, 'DEVICE', 'cpu')
        monkeypatch.setattr(gpu, 'COPIED_BYTES', MIB)
        monkeypatch.setattr(gpu, 'buffers', gpu.buffers.__wrapped__)

    def test_each_measurement_has_a_cell_of_its_own(self):
        labels = [measurement.label for measurement in gpu.measurements()]
        assert len(labels) == len(set(labels)) > 500

    @pytest.mark.parametrize('variant', gpu.VARIANTS)
    @pytest.mark.parametrize('direction', ['forward', 'forward+backward'])
    def test_all_but_counting_memory_runs(self, on_the_cpu, variant, direction):
        case = Case(SMALL, depthwise=True, dtype=torch.float16, **gpu.VARIANTS[variant])
        assert gpu.compare(case, 'F.conv2d', plain, direction, pairs=1).ratio > 0
        assert gpu.compare_to_bound(case, direction, pairs=1).ratio > 0

    def test_least_bytes(self):
        x, positions = 2 * 8 * 12 * 10, 2 * 12 * 10
        case = Case(SMALL, dtype=torch.float16)
        assert gpu.least_bytes(case, 'forward') == 2 * (2 * x + 18 * positions)
        assert gpu.least_bytes(case, 'forward+backward') == 2 * (5 * x + 3 * 18 * positions)
        everything = Case(SMALL, image_offset=True, mask=True)
        assert gpu.least_bytes(everything, 'forward') == 4 * (2 * x + 45 * positions)

    def test_a_peer_that_fails_is_reported_as_missing(self, on_the_cpu):
        def peer(case):
            raise ImportError('no such | library\nat all')

        measurement = measure.Measurement(
            'table',
            'row',
            'column',
            lambda pairs: gpu.compare(Case(SMALL), 'it', peer, 'forward', 1),
        )
        row = measure.as_row(measurement, 1)
        assert row == {
            'table': 'table',
            'row': 'row',
            'column': 'column',
            'missing': 'it: no such / library',
        }
        assert measure.cell(row) == 'it: no such / library'

    @pytest.mark.parametrize('missing, message', [('it: no', None), ('mmdk: no', '1 of 1')])
    def test_ours_has_to_run_peers_need_not(self, monkeypatch, missing, message):
        monkeypatch.setattr(gpu, 'why_no_gpu', lambda: '')
        monkeypatch.setattr(gpu, 'choose_arithmetic', lambda: None)
        monkeypatch.setattr(gpu, 'run', lambda *_, **__: ([{'missing': missing}], None))
        if message is None:
            gpu.main()
        else:
            with pytest.raises(SystemExit, match=message):
                gpu.main()

    def test_without_a_gpu_it_says_so(self, monkeypatch):
        monkeypatch.setattr(gpu, 'why_no_gpu', lambda: 'there is none')
        with pytest.raises(SystemExit, match='nothing to measure: there is none'):
            gpu.main()

    def test_tables_name_the_gpu(self):
        machine = {'gpu': 'G', 'gpu_capability': '9.0', 'cuda': '13.0', 'torch': '2', 'threads': 2}
        machine |= {'cpu': 'C', 'capability': 'AVX2'}
        text = report.source({'command': 'python', 'machine': machine})
        assert text == '`python`, on G (9.0), CUDA 13.0, torch 2:\n'
