"""tools/sanitize.py: what it takes for proof, and which package it tests; nothing is compiled."""

import importlib.util
import os
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / 'tools' / 'sanitize.py'


@pytest.fixture(scope='module')
def sanitize():
    spec = importlib.util.spec_from_file_location('sanitize', SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sanitizer(sanitize, **fields):
    empty = {'flags': [], 'libraries': [], 'environment': {}, 'planted': {}, 'tests': []}
    return sanitize.Sanitizer(**{**empty, **fields})


@pytest.mark.parametrize(
    'package', ['print("a report")', 'raise SystemExit("another")'], ids=['no_end', 'no_report']
)
def test_planted_error_without_report_and_end_is_no_proof(sanitize, tmp_path, package):
    (tmp_path / 'mmdk.py').write_text(package)
    (tmp_path / 'torch.py').write_text('class ops:\n    mmdk_planted = list')
    planted = sanitizer(sanitize, planted={'mro()': 'a report'})
    with pytest.raises(SystemExit, match='mro.* was not reported as "a report"'):
        sanitize.prove(planted, tmp_path, dict(os.environ))


def test_planted_error_that_is_reported_is_proof(sanitize, tmp_path, capsys):
    (tmp_path / 'mmdk.py').write_text('raise SystemExit("a report")')
    sanitize.prove(sanitizer(sanitize, planted={'race()': 'a report'}), tmp_path, dict(os.environ))
    assert capsys.readouterr().out == 'planted error reported: a report\n'


def test_planted_error_of_other_operators(sanitize, tmp_path, capsys):
    (tmp_path / 'others.py').write_text('def race():\n    raise SystemExit("a report\\nat line 7")')
    pattern = {'race()': r'report\nat line \d'}
    planted = sanitizer(sanitize, planted=pattern, operators='import others; others')
    sanitize.prove(planted, tmp_path, dict(os.environ))
    assert capsys.readouterr().out.startswith('planted error reported')


def test_emulation_is_built_without_the_package(sanitize, tmp_path, monkeypatch):
    calls = []
    for name in ('build', 'build_emulation', 'prove', 'test'):
        monkeypatch.setattr(sanitize, name, lambda *_, name=name: calls.append(name))
    monkeypatch.setattr(sanitize, 'preload', lambda _: {})
    monkeypatch.setattr(sanitize, 'ROOT', tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr('sys.argv', ['sanitize.py', '--only', 'emulation'])
    sanitize.main()
    assert calls == ['build_emulation', 'prove', 'test']


@pytest.mark.parametrize('passes', [True, False])
def test_tests_import_the_package_of_the_build(sanitize, tmp_path, passes):
    (tmp_path / 'build').mkdir()
    (tmp_path / 'build' / 'mmdk.py').write_text(f'PASSES = {passes}')
    test = tmp_path / 'test_it.py'
    test.write_text('import mmdk\ndef test():\n    assert mmdk.PASSES')
    arguments = (sanitizer(sanitize, tests=[test]), tmp_path / 'build', dict(os.environ), ['-q'])
    if passes:
        sanitize.test(*arguments)
    else:
        with pytest.raises(SystemExit, match='failed under the build sanitizer'):
            sanitize.test(*arguments)
