"""Set up .venv with PyTorch, MMDetection and mmdk; `make env` runs this.

It may be interrupted and run again: a step is skipped when its result is there and works.
With the argument `lint` it sets up the formatters alone, with `cuda-check` what checks the CUDA
kernels: PyTorch and a disassembler.

Environment variables: TORCH (the PyTorch to install), PIP_ARGS (more arguments for pip install),
MAX_JOBS (compilers at a time), CXX (the compiler).

The file runs on Python 3.6, so that it can tell the user of an old Python what is needed.
"""

import collections
import hashlib
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
VENV = ROOT / '.venv'
PYTHON = VENV / 'bin' / 'python'
LOGS = VENV / 'log'
STAMP = VENV / 'mmdk-inputs.sha256'

SUPPORTED = ['3.10', '3.11', '3.12']
HEARTBEAT_SECONDS = 30

# problem() is '' when the step's result is there and works, else why not; install() mends that;
# cure is what a person can do if it did not.
Step = collections.namedtuple('Step', 'title takes problem install cure')

# Runs in .venv: are the requirements (JSON, first argument) met, and does the code after them run?
CHECK = """
import importlib.metadata, json, sys
from pip._vendor.packaging.requirements import Requirement
for line in json.loads(sys.argv[1]):
    wanted = Requirement(line)
    found = importlib.metadata.version(wanted.name)
    if not wanted.specifier.contains(found, prereleases=True):
        sys.exit('found %s %s, expected %s' % (wanted.name, found, line))
exec(sys.argv[2])
"""
# What mmdk's inner loops are written in, and how threads are made.
COMPILER_PROGRAM = """
#include <omp.h>
typedef int Four __attribute__((vector_size(16)));
int main() {
  Four a = {0, 1, 2, 3};
  a = __builtin_shufflevector(a, a, 3, 2, 1, 0);
  return omp_get_max_threads() < 1 || a[0] != 3;
}
"""
TRY_TORCH = 'import torch, numpy'
TRY_CV2 = 'import cv2'
# An operator is called because a library built for another PyTorch may load and then misbehave.
TRY_MMCV = 'import torch, mmcv.ops; mmcv.ops.nms(torch.ones(1, 4), torch.ones(1), 0.5)'
TRY_MMDET = 'import mmdet'
MMDK_FILE = str(ROOT / 'mmdk' / '__init__.py')
TRY_MMDK = f'import mmdk; assert mmdk.__file__ == {MMDK_FILE!r}, "it is " + mmdk.__file__'

CURE_PIP = 'Check the network; PIP_ARGS hands pip more arguments (a proxy, another index).'
CURE_MEMORY = 'If a compiler was killed, memory ran out: MAX_JOBS=1 needs the least.'
CURE_CUDA = (
    'If CUDA_HOME is not set: install the CUDA toolkit (nvcc) of the release that this PyTorch is\n'
    'built for, or set CUDA_VISIBLE_DEVICES to nothing to have operators for the CPU alone.'
)


class SetupError(Exception):
    """Tells a person what was found, what was expected, and what to do."""


def main(arguments):
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:  # nohup has set it otherwise
            signal.signal(number, signal.default_int_handler)
    try:
        if arguments == ['lint']:
            run_steps(lint_steps())
        elif arguments == ['cuda-check']:
            run_steps(cuda_check_steps())
        elif is_complete():
            print(f'Everything is there: {versions()}')
        else:
            run_steps(all_steps())
            print(f'Ready: {versions()}')
    except SetupError as error:
        sys.exit(f'\nerror: {error}')
    except KeyboardInterrupt:
        sys.exit('\nInterrupted. Run the same command again: it goes on from here.')


def is_complete():
    """Everything at once and in one process, so that a finished set-up costs seconds."""
    if venv_problem() or stamp_problem():
        return False
    requirements = [torch(), *read('build'), *read('mmdet'), *mmdk_requirements()]
    return not problem(requirements, '; '.join([TRY_MMCV, TRY_CV2, TRY_MMDET, TRY_MMDK]))


def run_steps(steps):
    for number, step in enumerate(steps, 1):
        print(f'[{number}/{len(steps)}] {step.title}', flush=True)
        if step.problem():
            note(f'takes {step.takes}')
            complete(step)


def complete(step):
    try:
        step.install()
        reason = step.problem()
        if reason:
            raise SetupError(f'it was installed, but does not work: {reason}')
    except SetupError as error:
        again = 'Then run the same command again: it goes on from here.'
        raise SetupError(f'{step.title}: {error}\n{step.cure}\n{again}') from error


def lint_steps():
    return [
        *first_steps(),
        Step(
            'ruff and clang-format',
            'some seconds',
            lambda: problem(read('lint')),
            lambda: pip('lint', 'install', *read('lint')),
            CURE_PIP,
        ),
    ]


def cuda_check_steps():
    return [
        *first_steps(),
        *torch_steps(),
        Step(
            'nvdisasm',
            'some seconds',
            lambda: problem(read('cuda-check')),
            lambda: pip('cuda-check', 'install', *read('cuda-check')),
            CURE_PIP,
        ),
    ]


def all_steps():
    return [
        *first_steps(),
        *torch_steps(),
        Step(
            'mmengine, and mmcv with its operators',
            'about 14 minutes on 2 cores: no ready-made mmcv for the CPU exists, so its C++ '
            'operators\n      are compiled here; seconds where pip has kept an earlier build',
            lambda: problem(pins('mmengine', 'mmcv'), f'{TRY_CV2}; {TRY_MMCV}'),
            install_mmcv,
            f'{CURE_MEMORY}\n{CURE_CUDA}\n{CURE_PIP}',
        ),
        Step(
            'mmdet',
            'about a minute',
            lambda: problem(pins('mmdet'), TRY_MMDET),
            lambda: pip('mmdet', 'install', *pins('mmdet')),
            CURE_PIP,
        ),
        Step(
            'mmdk with its operators',
            'some minutes: its C++ operators are compiled',
            lambda: stamp_problem() or problem(mmdk_requirements(), TRY_MMDK),
            install_mmdk,
            f'If the errors are in csrc/ or mmdk/, mend them there. {CURE_MEMORY}',
        ),
    ]


def first_steps():
    return [
        Step(f'Python {python_version()}', '', check_interpreter, None, ''),
        Step('.venv', 'some seconds', venv_problem, make_venv, 'Remove it: make clean.'),
    ]


def torch_steps():
    return [
        Step('a C++ compiler', '', check_compiler, None, ''),
        Step(
            'build tools',
            'some seconds',
            lambda: problem(read('build'), 'import pkg_resources'),
            lambda: pip('build', 'install', *read('build')),
            CURE_PIP,
        ),
        Step(
            torch(),
            'some minutes: a download of 0.2 GB (CPU) to 3 GB (CUDA)',
            lambda: problem([torch(), 'numpy'], TRY_TORCH),
            lambda: pip('torch', 'install', torch(), 'numpy'),
            f'Is there such a release for Python {python_version()}? {CURE_PIP}',
        ),
    ]


def check_interpreter():
    found = venv_python()
    if found in SUPPORTED:
        return ''  # .venv has its own interpreter, which was checked when it was made
    needed = ' or '.join(SUPPORTED)
    if found:
        raise SetupError(f'.venv has Python {found}; needed: {needed}.\nRemove it: make clean.')
    version = '{}.{}'.format(*sys.version_info)
    if version not in SUPPORTED:
        raise SetupError(
            f'this is Python {python_version()} ({sys.executable}); needed: {needed}.\n'
            + other_python()
        )
    header = pathlib.Path(sysconfig.get_paths()['include'], 'Python.h')
    if not header.is_file():
        raise SetupError(
            f"Python's C headers are missing: there is no {header}.\n"
            f'Install them: apt install python{version}-dev, or dnf install python{version}-devel.'
        )
    status, _ = run_quietly([sys.executable, '-c', 'import ensurepip, venv'])
    if status:
        raise SetupError(
            f'{sys.executable} lacks the module venv or ensurepip.\n'
            f'Install it: apt install python{version}-venv.'
        )
    return ''


def python_version():
    return sys.version.split()[0]


def other_python():
    for version in reversed(SUPPORTED):
        # It has to run: version managers leave names that lead nowhere.
        status, _ = run_quietly([f'python{version}', '-c', ''])
        if not status:
            return f'There is one here: make env PYTHON=python{version}'
    return 'Install one and name it: make env PYTHON=/path/to/python3.11'


def check_compiler():
    command = compiler()
    with tempfile.TemporaryDirectory() as folder:
        source = pathlib.Path(folder, 'program.cpp')
        source.write_text(COMPILER_PROGRAM)
        program = source.with_suffix('')
        # The newest PyTorch's headers are C++20.
        arguments = ['-std=c++20', '-fopenmp', source, '-o', program]
        status, output = run_quietly([*command, *arguments])
        if not status:
            status, output = run_quietly([program])
    chosen = ' '.join(command)
    if status:
        raise SetupError(
            f'the C++ compiler "{chosen}" cannot make a small C++20 program with OpenMP:\n'
            f'{output.strip()[-1000:]}\n'
            'Needed: GCC 12 or newer. Install it (apt install g++, or dnf install gcc-c++), or\n'
            'name another: make env CXX=/path/to/g++'
        )
    # What was checked is what mmcv and mmdk are to be built with.
    os.environ['CXX'] = chosen
    return ''


def compiler():
    chosen = os.environ.get('CXX')
    if chosen:
        return shlex.split(chosen)
    for name in ('c++', 'g++', 'clang++'):
        if shutil.which(name):
            return [name]
    raise SetupError(
        'no C++ compiler: found none of c++, g++, clang++, and CXX is not set.\n'
        'Install one: apt install g++, or dnf install gcc-c++.'
    )


def venv_problem():
    if not venv_python():
        return 'it has no Python that runs'
    status, output = run_quietly([PYTHON, '-I', '-m', 'pip', '--version'])
    return last_line(output) if status else ''


def venv_python():
    """The version of .venv's Python, such as 3.11; None where there is none that runs."""
    script = 'import sys; print("%d.%d" % sys.version_info[:2])'
    status, output = run_quietly([PYTHON, '-I', '-c', script])
    return None if status else output.strip()


def make_venv():
    if venv_python():
        command = [PYTHON, '-I', '-m', 'ensurepip', '--upgrade']  # only pip is missing
    else:
        command = [sys.executable, '-m', 'venv', '--clear', VENV]
    status, output = run_quietly(command)
    if status:
        raise SetupError(output.strip()[-1000:])


def install_mmcv():
    pip('mmcv', 'install', '--no-build-isolation', *pins('mmengine', 'mmcv'))
    reason = problem([], TRY_CV2)
    if 'cannot open shared object file' in reason:
        use_headless_opencv(reason)
    reason = problem([], TRY_MMCV)
    if reason:
        note(f'the installed mmcv does not work with this PyTorch: {reason}')
        note('pip keeps an mmcv it has built and reuses it, whatever PyTorch that was built for;')
        note('compiling mmcv anew takes about 14 minutes on 2 cores')
        anew = ['--no-cache-dir', '--force-reinstall', '--no-deps', '--no-build-isolation']
        pip('mmcv-anew', 'install', *anew, *pins('mmcv'))


def use_headless_opencv(reason):
    note(f'OpenCV needs libraries for windows that are not here: {reason}')
    note('replacing it by its release without windows (opencv-python-headless)')
    script = 'import importlib.metadata as m; print(m.version("opencv-python"))'
    status, version = run_quietly([PYTHON, '-I', '-c', script])
    if status:
        raise SetupError(f'OpenCV does not load: {reason}')
    pip('opencv-remove', 'uninstall', '--yes', 'opencv-python')
    # --no-deps: it needs NumPy alone, whose release is settled.
    pip('opencv', 'install', '--no-deps', f'opencv-python-headless=={version.strip()}')


def install_mmdk():
    inputs = inputs_digest()
    pip('mmdk', 'install', '--no-build-isolation', '--editable', f'{ROOT}[demo,tests,docs]')
    STAMP.write_text(inputs)


def stamp_problem():
    built_from = STAMP.read_text() if STAMP.is_file() else ''
    return '' if built_from == inputs_digest() else 'its source has changed since it was built'


def inputs_digest():
    """A digest of all that the installed package is made from."""
    files = [VENV / 'pyvenv.cfg', ROOT / 'setup.py', ROOT / 'pyproject.toml']
    files += sorted((ROOT / 'requirements').glob('*.txt'))
    files += sorted(path for path in (ROOT / 'csrc').rglob('*') if path.is_file())
    digest = hashlib.sha256(torch().encode())
    for path in files:
        contents = path.read_bytes()
        digest.update(f'\n{path.relative_to(ROOT)} {len(contents)}\n'.encode())
        digest.update(contents)
    return digest.hexdigest()


def torch():
    chosen = os.environ.get('TORCH') or 'torch==2.13.0'
    if not re.match(r'torch\s*([<>=!~].*)?$', chosen):
        raise SetupError(
            f'TORCH is "{chosen}"; expected a requirement such as torch==2.12.0.\n'
            'Where to find it goes into PIP_ARGS, for example --find-links=/a/folder/of/wheels.'
        )
    return chosen


def mmdk_requirements():
    return read('runtime') + read('demo') + read('tests') + read('docs')


def pins(*names):
    return [line for line in read('mmdet') if line.split('==')[0] in names]


def read(name):
    lines = (ROOT / 'requirements' / f'{name}.txt').read_text().splitlines()
    return [line for line in lines if line and not line.startswith('#')]


def problem(requirements, code=''):
    """Why .venv does not meet the requirements or cannot run the code; '' if it does and can."""
    command = [PYTHON, '-I', '-c', CHECK, json.dumps(requirements), code]
    status, output = run_quietly(command)
    return (last_line(output) or f'exit status {status}') if status else ''


def pip(name, command, *arguments):
    """Run pip with its output in the log of that name."""
    options = ['--disable-pip-version-check', '--no-input']
    if command == 'install':
        # --verbose: what the compilers do comes into the log while they do it.
        options += ['--verbose', '--progress-bar=off', *shlex.split(os.environ.get('PIP_ARGS', ''))]
    LOGS.mkdir(exist_ok=True)
    log = LOGS / f'{name}.log'
    status = run_logged([PYTHON, '-I', '-m', 'pip', command, *options, *arguments], log)
    if status:
        raise SetupError(f'pip {command} failed:\n{excerpt(log)}\nAll of its output: {log}')


def run_logged(command, log):
    """Run with the output in the log; say every half minute that it is still at work."""
    started = time.time()
    with log.open('w') as output:
        process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=str(ROOT),
            env=build_environment(),
            start_new_session=True,
        )
        try:
            while True:
                try:
                    return process.wait(timeout=HEARTBEAT_SECONDS)
                except subprocess.TimeoutExpired:
                    minutes, seconds = divmod(int(time.time() - started), 60)
                    note(f'{minutes} min {seconds:02d} s{progress(log)}')
        finally:
            if process.poll() is None:
                # The whole session: pip's compilers would otherwise go on.
                os.killpg(process.pid, signal.SIGTERM)
                process.wait()


def build_environment():
    environment = dict(os.environ)
    # Meant for the user's other Python, it would come before what is installed here.
    environment.pop('PYTHONPATH', None)
    # ninja, which runs the compilers side by side, is looked for in PATH.
    environment['PATH'] = os.pathsep.join([str(PYTHON.parent), environment.get('PATH', '')])
    environment['MMCV_WITH_OPS'] = '1'
    # A compiler may take 2 GB here: not as many as there are cores.
    environment.setdefault('MAX_JOBS', str(min(os.cpu_count() or 1, 4)))
    return environment


def progress(log):
    counts = re.findall(r'^\s*\[(\d+/\d+)\] ', read_log(log), re.MULTILINE)
    return f', {counts[-1]} files compiled' if counts else ''


def excerpt(log):
    """The lines that name an error, or else the last ones."""
    lines = [line.strip()[:300] for line in read_log(log).splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r'error:|killed', line, re.IGNORECASE)]
    return '\n'.join(f'  {line}' for line in (errors[:12] or lines[-12:]))


def read_log(log):
    return log.read_text(errors='replace')


def run_quietly(command):
    """Return the exit status and all output; a program that is not there is a failure too."""
    try:
        result = subprocess.run(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            universal_newlines=True,
        )
    except OSError as error:
        return 127, str(error)
    return result.returncode, result.stdout


def versions():
    script = (
        'import importlib.metadata, platform, sys\n'
        'found = [f"{name} {importlib.metadata.version(name)}" for name in sys.argv[1:]]\n'
        'print(", ".join([f"Python {platform.python_version()}", *found]))'
    )
    names = ['torch', 'mmengine', 'mmcv', 'mmdet', 'mmdk']
    _, output = run_quietly([PYTHON, '-I', '-c', script, *names])
    return output.strip()


def last_line(output):
    lines = output.strip().splitlines()
    return lines[-1].strip() if lines else ''


def note(line):
    print(f'      {line}', flush=True)


if __name__ == '__main__':
    main(sys.argv[1:])
