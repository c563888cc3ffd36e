"""tools/gpu_check.py: what it says without a GPU, and that a failing part stops no other."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tools import gpu_check
from tools.gpu_check import Outcome, Part

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(monkeypatch, tmp_path):
    monkeypatch.setattr(gpu_check, 'ROOT', tmp_path)
    monkeypatch.chdir(tmp_path)


def python(name, code, **fields):
    return Part(name, [sys.executable, '-c', code], **fields)


PARTS = [
    python('first', 'print("all is well")'),
    python('second', 'import sys; print("an error, in full"); sys.exit(3)'),
    python('third', '', absent='it is elsewhere'),
    python('fourth', 'import os; print(os.environ["ONE"])', environment={'ONE': 'set'}),
    Part('fifth', ['/no/such/program']),
]


def call(monkeypatch, *arguments, parts=None, reason=''):
    """The exit status of main()."""
    monkeypatch.setattr(sys, 'argv', ['gpu_check', *arguments])
    monkeypatch.setattr(gpu_check, 'why_no_gpu', lambda: reason)
    monkeypatch.setattr(gpu_check, 'environment', lambda: 'GPU 0: a fast one')
    if parts is not None:
        monkeypatch.setattr(gpu_check, 'all_parts', lambda: parts)
    with pytest.raises(SystemExit) as end:
        gpu_check.main()
    return int(end.value.code)


def test_without_a_gpu_it_says_what_is_missing_what_would_run_and_how(monkeypatch, capsys):
    assert call(monkeypatch, reason='PyTorch sees no GPU here') == 1
    output = capsys.readouterr().out
    assert 'nothing was run: PyTorch sees no GPU here.' in output
    for part in gpu_check.all_parts():
        assert f'- {part.name}: {part}' in output
    assert 'FORCE_CUDA=1' in output and 'make env' in output
    assert not Path('gpu-report.md').exists()


def test_dry_run_lists_and_is_no_error(monkeypatch, capsys):
    assert call(monkeypatch, '--dry-run', parts=PARTS) == 0
    output = capsys.readouterr().out
    assert '- fourth: ONE=set ' in output and '(third not here: it is elsewhere)' in output
    assert not Path('build').exists()


def test_a_failing_part_is_kept_and_stops_no_other(monkeypatch):
    assert call(monkeypatch, parts=PARTS) == 1
    report = Path('gpu-report.md').read_text()
    assert 'GPU 0: a fast one' in report
    for line in (
        '| first | passed |',
        '| second | failed: exit status 3 |',
        '| third | not run: it is elsewhere |',
        '| fourth | passed |',
        '| fifth | failed: ',
    ):
        assert line in report
    assert report.index('all is well') < report.index('~~~~text\nan error, in full\n~~~~')
    assert '~~~~text\nset\n~~~~' in report


def test_all_passed(monkeypatch):
    assert call(monkeypatch, '--report', 'other.md', parts=[PARTS[0], PARTS[2]]) == 0
    assert '| first | passed |' in Path('other.md').read_text()


def test_only_what_is_named(monkeypatch):
    assert call(monkeypatch, '--only', 'first', 'fourth', parts=PARTS) == 0
    assert '| second |' not in Path('gpu-report.md').read_text()


def test_a_part_that_hangs_is_ended_and_what_it_printed_kept(monkeypatch):
    monkeypatch.setattr(gpu_check, 'LIMIT_SECONDS', 1)
    code = 'import time; print("before", flush=True); time.sleep(60)'
    outcome = gpu_check.run(python('hangs', code))
    assert outcome.verdict == 'failed: it did not end within 1 s'
    assert outcome.output == 'before\n'


def test_a_long_output_is_cut_only_where_all_is_well():
    text = '\n'.join(f'line {i}' for i in range(200))
    good = gpu_check.report('', [Outcome(PARTS[0], 'passed', 1, text)])
    bad = gpu_check.report('', [Outcome(PARTS[0], 'failed: exit status 1', 1, text)])
    assert 'line 199' in good and 'line 7\n' not in good
    assert 'line 199' in bad and 'line 7\n' in bad


def test_benchmark_tables_are_in_the_report(monkeypatch):
    results = {
        'command': 'python -m benchmarks.gpu',
        'machine': {'gpu': 'G', 'gpu_capability': '9.0', 'cuda': '13.0', 'threads': 1}
        | {'cpu': 'C', 'capability': 'AVX2'},
        'rows': [
            {'table': 'DK / F.conv2d', 'row': 'dense', 'column': '1x2', 'ratio': 1.5},
            {'table': 'DK / F.conv2d', 'row': 'other', 'column': '1x2', 'missing': 'it: no'},
        ],
    }
    code = (
        f'import pathlib; p = pathlib.Path({str(gpu_check.RESULTS)!r}); '
        f'p.parent.mkdir(parents=True, exist_ok=True); p.write_text({json.dumps(results)!r})'
        '; print("measured")'
    )
    assert call(monkeypatch, parts=[python('benchmark', code)]) == 0
    report = Path('gpu-report.md').read_text()
    assert '| dense | 1.50 |\n| other | it: no |' in report


def test_what_it_runs_exists():
    for part in gpu_check.all_parts():
        module = part.command[part.command.index('-m') + 1]
        if module != 'pytest':
            assert (ROOT / module.replace('.', '/')).with_suffix('.py').exists()


def test_environment_needs_no_gpu_to_be_told():
    lines = gpu_check.environment().splitlines()
    assert [line.split(':')[0] for line in lines][:5] == [
        'mmdk',
        'Python',
        'PyTorch',
        'nvcc',
        'driver',
    ]


def test_as_a_command():
    command = [sys.executable, '-m', 'tools.gpu_check', '--dry-run']
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert '- memcheck: PYTORCH_NO_CUDA_MEMORY_CACHING=1 ' in result.stdout
