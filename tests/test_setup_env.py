"""The decisions of tools/setup_env.py; nothing is installed here."""

import ast
import importlib.util
import os
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / 'tools' / 'setup_env.py'


@pytest.fixture
def env(monkeypatch, tmp_path):
    """The script as a module, with a source tree and a .venv of its own."""
    spec = importlib.util.spec_from_file_location('setup_env', SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in ('TORCH', 'PIP_ARGS', 'MAX_JOBS', 'CXX'):
        # Set first, so that what the script itself sets is undone as well.
        monkeypatch.setenv(name, '')
        monkeypatch.delenv(name)

    for name, text in {
        '.venv/pyvenv.cfg': 'version = 3.11.7',
        'setup.py': '',
        'pyproject.toml': '',
        'README.md': '',
        'csrc/library.cpp': 'int a;',
        'csrc/common/sizes.h': 'int b;',
        'requirements/mmdet.txt': '# why\nmmengine==1.0\nmmcv==2.0\nmmdet==3.0\n',
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    venv = tmp_path / '.venv'
    monkeypatch.setattr(module, 'ROOT', tmp_path)
    monkeypatch.setattr(module, 'VENV', venv)
    monkeypatch.setattr(module, 'PYTHON', venv / 'bin' / 'python')
    monkeypatch.setattr(module, 'LOGS', venv / 'log')
    monkeypatch.setattr(module, 'STAMP', venv / 'stamp')
    return module


@pytest.fixture
def pip_calls(env, monkeypatch):
    calls = []
    monkeypatch.setattr(env, 'pip', lambda *arguments: calls.append(arguments))
    return calls


def answers(env, monkeypatch, **reasons):
    """Make problem() give these reasons in turn for code that imports the module named."""

    def problem(requirements, code=''):
        (name,) = (name for name in reasons if name in code)
        return reasons[name].pop(0)

    monkeypatch.setattr(env, 'problem', problem)


# interpreter and compiler


def test_parses_on_the_oldest_python_it_has_to_warn():
    ast.parse(SCRIPT.read_text(), feature_version=(3, 6))


@pytest.mark.parametrize('version', [(3, 6, 15), (3, 9, 18), (3, 13, 0)])
def test_wrong_python_is_named_with_one_that_is_right(env, monkeypatch, version):
    monkeypatch.setattr(sys, 'version_info', version)
    monkeypatch.setattr(sys, 'version', '.'.join(map(str, version)) + ' (main)')
    runs = {'python3.11': (0, '')}
    monkeypatch.setattr(env, 'run_quietly', lambda command: runs.get(command[0], (127, '')))
    with pytest.raises(env.SetupError) as error:
        env.check_interpreter()
    assert f'this is Python {sys.version.split()[0]}' in str(error.value)
    assert '3.10 or 3.11 or 3.12' in str(error.value)
    assert 'make env PYTHON=python3.11' in str(error.value)


def test_wrong_python_does_not_matter_beside_a_good_venv(env, monkeypatch):
    monkeypatch.setattr(sys, 'version_info', (3, 9, 18))
    monkeypatch.setattr(env, 'venv_python', lambda: '3.12')
    assert env.check_interpreter() == ''


def test_venv_of_a_wrong_python_is_named_and_kept(env, monkeypatch):
    monkeypatch.setattr(env, 'venv_python', lambda: '3.13')
    with pytest.raises(env.SetupError, match=r'(?s)has Python 3\.13.*make clean'):
        env.check_interpreter()
    assert env.VENV.exists()


def test_missing_python_headers_are_named(env, monkeypatch, tmp_path):
    monkeypatch.setattr(env.sysconfig, 'get_paths', lambda: {'include': str(tmp_path)})
    with pytest.raises(env.SetupError, match=r'(?s)Python\.h.*apt install python3\.\d+-dev'):
        env.check_interpreter()


def test_missing_venv_module_is_named(env, monkeypatch, tmp_path):
    (tmp_path / 'Python.h').touch()
    monkeypatch.setattr(env.sysconfig, 'get_paths', lambda: {'include': str(tmp_path)})
    monkeypatch.setattr(env, 'run_quietly', lambda command: (1, 'No module named ensurepip'))
    with pytest.raises(env.SetupError, match=r'apt install python3\.\d+-venv'):
        env.check_interpreter()


def test_missing_compiler_is_named(env, monkeypatch, tmp_path):
    monkeypatch.setenv('PATH', str(tmp_path))
    with pytest.raises(env.SetupError, match=r'(?s)no C\+\+ compiler.*apt install g\+\+'):
        env.check_compiler()


@pytest.mark.parametrize('name', ['false', 'no-such-compiler'])
def test_compiler_that_cannot_compile_is_named(env, monkeypatch, name):
    monkeypatch.setenv('CXX', name)
    with pytest.raises(env.SetupError, match=f'(?s)"{name}".*GCC 12'):
        env.check_compiler()


def test_compiler_that_was_checked_is_the_one_that_builds(env):
    assert env.check_compiler() == ''
    assert env.build_environment()['CXX'] == env.compiler()[0]


# mmcv and OpenCV


def test_working_mmcv_is_installed_once(env, monkeypatch, pip_calls):
    answers(env, monkeypatch, cv2=[''], mmcv=[''])
    env.install_mmcv()
    assert len(pip_calls) == 1
    assert pip_calls[0][-2:] == ('mmengine==1.0', 'mmcv==2.0')
    assert '--no-build-isolation' in pip_calls[0]


def test_stale_mmcv_is_built_anew_without_the_cache(env, monkeypatch, pip_calls, capsys):
    answers(env, monkeypatch, cv2=[''], mmcv=['ImportError: undefined symbol: _ZN2at'])
    env.install_mmcv()
    assert len(pip_calls) == 2
    assert {'--no-cache-dir', '--force-reinstall', '--no-deps'} <= set(pip_calls[1])
    assert pip_calls[1][-1] == 'mmcv==2.0'
    printed = capsys.readouterr().out
    assert 'undefined symbol' in printed
    assert 'pip keeps an mmcv it has built' in printed


def test_mmcv_that_stays_broken_ends_with_reason_and_cure(env, monkeypatch, pip_calls):
    reason = 'ImportError: undefined symbol'
    monkeypatch.setattr(env, 'problem', lambda requirements, code='': reason)
    (step,) = (step for step in env.all_steps() if 'mmcv' in step.title)
    with pytest.raises(env.SetupError) as error:
        env.complete(step)
    assert len(pip_calls) == 2
    for part in (step.title, reason, 'MAX_JOBS=1', 'CUDA_HOME', 'run the same command again'):
        assert part in str(error.value)


def test_opencv_without_window_libraries_is_replaced(env, monkeypatch, pip_calls, capsys):
    missing = 'ImportError: libGL.so.1: cannot open shared object file: No such file or directory'
    answers(env, monkeypatch, cv2=[missing], mmcv=[''])
    monkeypatch.setattr(env, 'run_quietly', lambda command: (0, '4.11.0.86\n'))
    env.install_mmcv()
    assert pip_calls[1][1:] == ('uninstall', '--yes', 'opencv-python')
    assert pip_calls[2][-1] == 'opencv-python-headless==4.11.0.86'
    assert 'libGL.so.1' in capsys.readouterr().out


def test_opencv_broken_otherwise_is_not_touched(env, monkeypatch, pip_calls):
    answers(env, monkeypatch, cv2=['ImportError: numpy.core.multiarray'], mmcv=['', ''])
    env.install_mmcv()
    assert len(pip_calls) == 1


# the stamp


@pytest.fixture
def stamped(env, pip_calls):
    assert env.stamp_problem()
    env.install_mmdk()
    assert env.stamp_problem() == ''
    return env


@pytest.mark.parametrize(
    'name',
    ['csrc/library.cpp', 'csrc/common/sizes.h', 'csrc/new.cpp', 'requirements/mmdet.txt']
    + ['setup.py', 'pyproject.toml', '.venv/pyvenv.cfg'],
)
def test_changed_input_means_a_new_build(stamped, name):
    (stamped.ROOT / name).write_text('changed')
    assert stamped.stamp_problem()


def test_renamed_source_means_a_new_build(stamped):
    (stamped.ROOT / 'csrc/library.cpp').rename(stamped.ROOT / 'csrc/renamed.cpp')
    assert stamped.stamp_problem()


def test_other_torch_means_a_new_build(stamped, monkeypatch):
    monkeypatch.setenv('TORCH', 'torch==2.12.0')
    assert stamped.stamp_problem()


def test_other_files_mean_no_new_build(stamped):
    (stamped.ROOT / 'README.md').write_text('changed')
    (stamped.ROOT / 'csrc/library.cpp').touch()
    assert stamped.stamp_problem() == ''


def test_source_that_changes_while_it_is_built_is_built_again(env, monkeypatch):
    source = env.ROOT / 'csrc/library.cpp'
    monkeypatch.setattr(env, 'pip', lambda *arguments: source.write_text('edited meanwhile'))
    env.install_mmdk()
    assert env.stamp_problem()


def test_failed_build_leaves_no_stamp(env, monkeypatch):
    def fail(*arguments):
        raise env.SetupError('no')

    monkeypatch.setattr(env, 'pip', fail)
    with pytest.raises(env.SetupError):
        env.install_mmdk()
    assert env.stamp_problem()


@pytest.mark.parametrize('value', ['numpy', 'torchvision==0.1', '/a/torch.whl'])
def test_torch_that_is_no_requirement_is_refused(env, monkeypatch, value):
    monkeypatch.setenv('TORCH', value)
    with pytest.raises(env.SetupError, match='expected a requirement'):
        env.torch()


# steps


def test_only_what_is_missing_is_installed(env, capsys):
    installed = []
    missing = ['missing', '']
    env.run_steps(
        [
            env.Step('first', 'a moment', lambda: '', lambda: installed.append('first'), ''),
            env.Step('second', 'an hour', lambda: missing.pop(0), lambda: installed.append(2), ''),
        ]
    )
    assert installed == [2]
    assert capsys.readouterr().out.split('\n')[:3] == [
        '[1/2] first',
        '[2/2] second',
        '      takes an hour',
    ]


def test_failure_ends_with_a_message_and_no_traceback(env, monkeypatch):
    def fail():
        raise env.SetupError('the disk is full')

    step = env.Step('torch', 'a moment', lambda: 'missing', fail, 'Make room.')
    monkeypatch.setattr(env, 'is_complete', lambda: False)
    monkeypatch.setattr(env, 'all_steps', lambda: [step])
    with pytest.raises(SystemExit, match=r'(?s)error: torch: the disk is full.*Make room\.'):
        env.main([])


def test_interruption_says_that_it_can_be_resumed(env, monkeypatch):
    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setattr(env, 'is_complete', interrupt)
    with pytest.raises(SystemExit, match='goes on from here'):
        env.main([])


def test_problem_tells_versions_imports_and_success(env, monkeypatch):
    monkeypatch.setattr(env, 'PYTHON', sys.executable)
    assert env.problem(['pytest>=1'], 'import json') == ''
    assert 'expected pytest<1' in env.problem(['pytest<1'])
    assert 'no_such_distribution' in env.problem(['no_such_distribution'])
    assert 'no_such_module' in env.problem([], 'import no_such_module')


def test_half_made_venv_is_a_problem(env):
    assert 'no Python that runs' in env.venv_problem()
    env.PYTHON.parent.mkdir()
    env.PYTHON.symlink_to('/no/such/python')
    assert 'no Python that runs' in env.venv_problem()


# running pip


def test_failing_pip_shows_its_errors_and_the_log(env, monkeypatch):
    output = 'collecting\nlibrary.cpp:3:1: error: expected unqualified-id\nmore\n'
    fake = env.ROOT / 'python'
    fake.write_text(f'#!/bin/sh\nprintf "{output}"\nexit 1\n')
    fake.chmod(0o755)
    monkeypatch.setattr(env, 'PYTHON', fake)
    with pytest.raises(env.SetupError) as error:
        env.pip('mmdk', 'install', 'mmdk')
    assert 'library.cpp:3:1: error: expected unqualified-id' in str(error.value)
    assert 'collecting' not in str(error.value)
    assert str(env.LOGS / 'mmdk.log') in str(error.value)
    assert (env.LOGS / 'mmdk.log').read_text() == output


def test_long_command_shows_that_it_is_at_work(env, monkeypatch, capsys):
    monkeypatch.setattr(env, 'HEARTBEAT_SECONDS', 0.2)
    script = 'echo "[3/7] c++ a.cpp"; echo "[4/7] c++ b.cpp"; sleep 0.7'
    assert env.run_logged(['sh', '-c', script], env.ROOT / 'log') == 0
    assert '0 min 00 s, 4/7 files compiled' in capsys.readouterr().out


def test_interruption_ends_the_compilers_too(env, monkeypatch):
    def interrupt(line):
        raise KeyboardInterrupt

    monkeypatch.setattr(env, 'HEARTBEAT_SECONDS', 0.5)
    monkeypatch.setattr(env, 'note', interrupt)
    log = env.ROOT / 'log'
    with pytest.raises(KeyboardInterrupt):
        env.run_logged(['sh', '-c', 'sleep 60 & echo $!; wait'], log)
    grandchild = int(log.read_text())
    wait_for_end(grandchild)


def wait_for_end(process):
    status = Path(f'/proc/{process}/status')
    for _ in range(50):
        if not status.exists() or 'State:\tZ' in status.read_text():
            return
        time.sleep(0.1)
    os.kill(process, 9)
    pytest.fail('the compiler was left running')


def test_users_settings_reach_the_compilers(env, monkeypatch):
    monkeypatch.setenv('PYTHONPATH', '/somewhere')
    monkeypatch.setenv('MAX_JOBS', '7')
    environment = env.build_environment()
    assert environment['MAX_JOBS'] == '7'
    assert environment['MMCV_WITH_OPS'] == '1'
    assert environment['PATH'].startswith(str(env.PYTHON.parent))
    assert 'PYTHONPATH' not in environment
