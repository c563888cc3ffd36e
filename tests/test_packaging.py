"""What is built from the source tree, and what happens where it cannot be built."""

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
HOOK = 'import sys; from setuptools import build_meta as b; getattr(b, sys.argv[1])(sys.argv[2])'
# Compiled without PyTorch's headers, so in an instant: enough to see how a build is put together.
EMPTY_LIBRARY = 'int mmdk_answer() { return 42; }\n'


@pytest.fixture
def tree(tmp_path):
    """A copy of the source tree, so that no build leaves anything in the real one."""
    return copy_tree(tmp_path / 'tree')


@pytest.fixture
def quick_tree(tree):
    shutil.rmtree(tree / 'csrc')
    (tree / 'csrc').mkdir()
    (tree / 'csrc' / 'library.cpp').write_text(EMPTY_LIBRARY)
    return tree


@pytest.fixture(scope='module')
def sdist(tmp_path_factory):
    folder = tmp_path_factory.mktemp('sdist')
    assert build('build_sdist', copy_tree(folder / 'tree'), folder).returncode == 0
    (archive,) = folder.glob('*.tar.gz')
    return archive


@pytest.fixture(scope='module')
def wheel(sdist, tmp_path_factory):
    """The real operators, compiled from the source distribution."""
    folder = tmp_path_factory.mktemp('wheel')
    options = ['--no-build-isolation', '--no-deps', '--no-index', '--wheel-dir', folder]
    # No warning passes, neither from the flags that setup.py sets nor from those of Python.
    strict = {'CFLAGS': f'{os.environ.get("CFLAGS", "")} -Werror'}
    result = run([sys.executable, '-m', 'pip', 'wheel', *options, sdist], folder, **strict)
    assert result.returncode == 0, result.stdout[-5000:]
    (archive,) = folder.glob('*.whl')
    return archive


def copy_tree(target):
    names = [
        *('setup.py', 'pyproject.toml', 'MANIFEST.in', 'README.md', 'LICENSE', 'CHANGELOG.md'),
        *('CONTRIBUTING.md', 'Makefile', 'model-index.yml', '.ci', '.clang-format'),
        *('mmdk', 'csrc', 'configs', 'tools', 'tests', 'requirements', 'docs', 'benchmarks'),
    ]
    leave = shutil.ignore_patterns('__pycache__', '*.so', '.mim')
    target.mkdir()
    for name in names:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target / name, ignore=leave)
        elif (ROOT / name).exists():
            shutil.copy2(ROOT / name, target / name)
    return target


def build(hook, tree, target, **environment):
    """Call a build hook the way pip does without build isolation."""
    return run([sys.executable, '-c', HOOK, hook, target], tree, **environment)


def run(command, cwd, **environment):
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={
            'MAX_JOBS': '2',
            **os.environ,
            **{name: str(environment[name]) for name in environment},
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def files_below(folder, *suffixes):
    paths = [path for path in (ROOT / folder).rglob('*') if path.suffix in suffixes]
    return {path.relative_to(ROOT).as_posix() for path in paths if '.mim' not in path.parts}


def wheel_names(folder):
    (archive,) = folder.glob('*.whl')
    return set(zipfile.ZipFile(archive).namelist())


def test_sdist_holds_all_that_a_build_and_a_test_run_need(sdist):
    with tarfile.open(sdist) as archive:
        names = {name.partition('/')[2] for name in archive.getnames()}
    needed = {
        *('setup.py', 'pyproject.toml', 'LICENSE', 'README.md', 'Makefile', 'CHANGELOG.md'),
        *files_below('csrc', '.cpp', '.h', '.cu', '.cuh'),
        *files_below('mmdk', '.py', '.pth'),
        *files_below('configs', '.py', '.md', '.yml'),
        *files_below('tools', '.py'),
        *files_below('tests', '.py'),
        *files_below('requirements', '.txt'),
    }
    assert needed - names == set()
    assert not {name for name in names if name.endswith(('.so', '.pyc')) or '.mim/' in name}


@pytest.mark.slow
def test_wheel_from_the_sdist_holds_operators_configs_and_tools(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert len([name for name in names if name.startswith('mmdk/_C') and name.endswith('.so')]) == 1
    assert files_below('mmdk', '.py', '.pth') <= names
    for name in files_below('configs', '.py', '.yml') | files_below('tools', '.py'):
        assert f'mmdk/.mim/{name}' in names
    assert not {name for name in names if name.startswith(('tests', 'csrc', 'configs', 'tools'))}


@pytest.mark.slow
def test_wheel_in_an_empty_folder_is_imported_and_computes(wheel, tmp_path):
    target = tmp_path / 'target'
    options = ['--no-deps', '--no-index', '--target', target]
    result = run([sys.executable, '-m', 'pip', 'install', *options, wheel], tmp_path)
    assert result.returncode == 0, result.stdout[-5000:]

    script = (
        'import pathlib, sys, torch, mmdk\n'
        'target = pathlib.Path(sys.argv[1])\n'
        'assert target in pathlib.Path(mmdk.__file__).parents, mmdk.__file__\n'
        'libraries = [path for path in torch.ops.loaded_libraries if "mmdk" in path]\n'
        'assert libraries and all(str(target) in path for path in libraries), libraries\n'
        'x, weight = torch.randn(2, 4, 7, 5), torch.randn(4, 1, 4, 4)\n'
        'offset = torch.randn(2, 18, 7, 5)\n'
        'same = dict(kernel_size=3, padding=1)\n'
        'out = mmdk.ops.deform_kernel2d(x, weight, offset, **same)\n'
        'expected = mmdk.ops.reference.deform_kernel2d(x, weight, offset, **same)\n'
        'torch.testing.assert_close(out, expected)\n'
    )
    result = run([sys.executable, '-c', script, target], tmp_path, PYTHONPATH=target)
    assert result.returncode == 0, result.stdout


def test_metadata_requires_neither_mmcv_nor_mmdet(quick_tree, tmp_path):
    assert build('prepare_metadata_for_build_wheel', quick_tree, tmp_path).returncode == 0
    (metadata,) = tmp_path.glob('*.dist-info/METADATA')
    fields = Parser().parsestr(metadata.read_text())
    requirements = fields.get_all('Requires-Dist')
    always = {line for line in requirements if 'extra ==' not in line}
    assert always == {'torch>=2.1', 'numpy'}
    assert 'mmcv==2.1.0; extra == "mmdet"' in requirements
    assert 'mmpretrain==1.2.0; extra == "mmpretrain"' in requirements
    extras = {'mmdet', 'mmpretrain', 'demo', 'tests', 'docs', 'lint'}
    assert set(fields.get_all('Provides-Extra')) == extras
    assert fields['Requires-Python'] == '>=3.10'


def test_rebuilt_wheel_holds_no_config_that_was_removed(quick_tree, tmp_path):
    config = quick_tree / 'configs' / 'short_lived.py'
    for folder, there in (('first', True), ('second', False)):
        config.write_text('') if there else config.unlink()
        (tmp_path / folder).mkdir()
        result = build('build_wheel', quick_tree, tmp_path / folder)
        assert result.returncode == 0, result.stdout
        names = wheel_names(tmp_path / folder)
        assert ('mmdk/.mim/configs/short_lived.py' in names) == there
        assert 'mmdk/.mim/tools/setup_env.py' in names


def test_editable_build_links_configs_and_tools(quick_tree, tmp_path):
    result = build('build_editable', quick_tree, tmp_path)
    assert result.returncode == 0, result.stdout
    for name in ('configs', 'tools'):
        link = quick_tree / 'mmdk' / '.mim' / name
        assert link.is_symlink()
        assert link.resolve() == (quick_tree / name).resolve()
    assert len(list((quick_tree / 'mmdk').glob('_C*.so'))) == 1


@pytest.fixture
def no_torch(tmp_path):
    """A folder that hides PyTorch when it comes first in PYTHONPATH."""
    stub = tmp_path / 'no_torch' / 'torch'
    stub.mkdir(parents=True)
    message = "No module named 'torch'"
    (stub / '__init__.py').write_text(f'raise ModuleNotFoundError("{message}", name="torch")\n')
    return stub.parent


@pytest.mark.parametrize('hook', ['build_wheel', 'build_editable'])
def test_without_torch_nothing_is_built_and_the_cure_is_named(hook, quick_tree, no_torch, tmp_path):
    result = build(hook, quick_tree, tmp_path, PYTHONPATH=no_torch)
    assert result.returncode != 0
    assert 'Install PyTorch first' in result.stdout
    assert "No module named 'torch'" in result.stdout
    assert 'Traceback' not in result.stdout
    assert not list(tmp_path.glob('*.whl'))


def test_without_torch_a_source_distribution_can_be_made(quick_tree, no_torch, tmp_path):
    result = build('build_sdist', quick_tree, tmp_path, PYTHONPATH=no_torch)
    assert result.returncode == 0, result.stdout
    assert list(tmp_path.glob('*.tar.gz'))


def test_isolated_build_finds_the_torch_of_its_environment(quick_tree, tmp_path):
    # What pip's build isolation does: the environment's packages leave the path before anything
    # runs, and the build's own setuptools comes from elsewhere.
    isolation = tmp_path / 'isolation'
    isolation.mkdir()
    packages = Path(sysconfig.get_paths()['purelib'])
    for name in ('setuptools', '_distutils_hack'):
        (isolation / name).symlink_to(packages / name)
    (isolation / 'sitecustomize.py').write_text(
        f'import sys\nsys.path[:] = [path for path in sys.path if path != {str(packages)!r}]\n'
    )
    probe = run([sys.executable, '-c', 'import torch'], tmp_path, PYTHONPATH=isolation)
    assert "No module named 'torch'" in probe.stdout

    result = build('build_wheel', quick_tree, tmp_path, PYTHONPATH=isolation)
    assert result.returncode == 0, result.stdout
    assert any(name.startswith('mmdk/_C') for name in wheel_names(tmp_path))


def test_compiler_error_fails_the_build(quick_tree, tmp_path):
    (quick_tree / 'csrc' / 'library.cpp').write_text('int broken( {\n')
    result = build('build_wheel', quick_tree, tmp_path)
    assert result.returncode != 0
    assert "mmdk's C++ operators could not be built" in result.stdout
    assert 'library.cpp:1' in result.stdout
    assert not list(tmp_path.glob('*.whl'))


def test_compiler_that_does_not_work_fails_the_build(quick_tree, tmp_path):
    result = build('build_wheel', quick_tree, tmp_path, CXX='no-such-compiler')
    assert result.returncode != 0
    assert "mmdk's C++ operators could not be built" in result.stdout
    assert not list(tmp_path.glob('*.whl'))


def test_source_without_operators_fails_the_build(quick_tree, tmp_path):
    (quick_tree / 'csrc' / 'library.cpp').unlink()
    result = build('build_wheel', quick_tree, tmp_path)
    assert result.returncode != 0
    assert 'no C++ source' in result.stdout


# for CUDA or for the CPU alone


@pytest.fixture
def recipe(tree, monkeypatch):
    """setup.py as a module, in a tree with a kernel, where the environment says nothing of CUDA."""
    monkeypatch.chdir(tree)
    for name in ('FORCE_CUDA', 'TORCH_CUDA_ARCH_LIST'):
        # Set first, so that what setup.py itself sets is undone as well.
        monkeypatch.setenv(name, '')
        monkeypatch.delenv(name)
    (tree / 'csrc' / 'cuda' / 'kernel.cu').write_text('')
    (tree / 'csrc' / 'cuda' / 'register.cpp').write_text('')
    spec = importlib.util.spec_from_file_location('mmdk_setup', tree / 'setup.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def build_tools(cuda_home, cuda='13.0', gpu=False):
    """As much of torch.utils.cpp_extension as a choice takes."""
    return SimpleNamespace(
        torch=SimpleNamespace(
            __version__='9.8.7',
            version=SimpleNamespace(cuda=cuda),
            cuda=SimpleNamespace(is_available=lambda: gpu),
        ),
        CUDA_HOME=cuda_home and str(cuda_home),
        include_paths=lambda: ['/research/torch/include'],
        CppExtension=lambda *args, **options: ('CPU', *args, options),
        CUDAExtension=lambda *args, **options: ('CUDA', *args, options),
    )


@pytest.fixture
def toolkit(tmp_path):
    """A CUDA toolkit whose nvcc knows one architecture and nothing else."""
    nvcc = tmp_path / 'toolkit' / 'bin' / 'nvcc'
    nvcc.parent.mkdir(parents=True)
    nvcc.write_text('#!/bin/sh\necho compute_90\n')
    nvcc.chmod(0o755)
    return nvcc.parent.parent


def test_torch_without_cuda_gives_operators_for_the_cpu_alone(recipe, toolkit, capsys):
    kind, _, sources, _ = recipe.operators(build_tools(toolkit, cuda=None))
    assert kind == 'CPU'
    assert 'csrc/library.cpp' in sources
    assert not [path for path in sources if 'cuda' in path]
    assert 'PyTorch 9.8.7 is not built for CUDA' in capsys.readouterr().out


def test_no_gpu_gives_operators_for_the_cpu_alone_and_says_how_to_force(recipe, toolkit, capsys):
    assert recipe.operators(build_tools(toolkit))[0] == 'CPU'
    assert 'FORCE_CUDA=1' in capsys.readouterr().out


def test_gpu_without_toolkit_gives_operators_for_the_cpu_alone(recipe, tmp_path, capsys):
    assert recipe.operators(build_tools(None, gpu=True))[0] == 'CPU'
    assert 'no nvcc in PATH' in capsys.readouterr().out
    assert recipe.operators(build_tools(tmp_path, gpu=True))[0] == 'CPU'
    assert f'no nvcc in {tmp_path}' in capsys.readouterr().out


def test_gpu_and_toolkit_give_operators_for_it(recipe, toolkit):
    kind, _, sources, options = recipe.operators(build_tools(toolkit, gpu=True))
    assert kind == 'CUDA'
    assert {'csrc/cuda/kernel.cu', 'csrc/cuda/register.cpp', 'csrc/library.cpp'} <= set(sources)
    # PyTorch looks at the GPU itself.
    assert 'TORCH_CUDA_ARCH_LIST' not in os.environ
    # What is not meant for nvcc, and what PyTorch would take for a choice of architectures.
    assert not [flag for flag in options['extra_compile_args']['nvcc'] if '-W' in flag]
    assert not [flag for flag in options['extra_compile_args']['nvcc'] if 'arch' in flag]
    assert '-Wextra' in options['extra_compile_args']['cxx']


@pytest.mark.parametrize(
    'known, expected',
    [('', '7.5;8.0;8.6;9.0+PTX'), ('compute_100', '7.5;8.0;8.6;9.0+PTX;10.0')],
    ids=['older_toolkit', 'newer_toolkit'],
)
def test_forced_without_a_gpu_is_for_all_that_the_toolkit_knows(
    recipe, toolkit, monkeypatch, known, expected
):
    (toolkit / 'bin' / 'nvcc').write_text(f'#!/bin/sh\necho compute_90 {known}\n')
    monkeypatch.setenv('FORCE_CUDA', '1')
    assert recipe.operators(build_tools(toolkit))[0] == 'CUDA'
    assert os.environ['TORCH_CUDA_ARCH_LIST'] == expected


def test_architectures_that_were_chosen_stay(recipe, toolkit, monkeypatch):
    monkeypatch.setenv('FORCE_CUDA', '1')
    monkeypatch.setenv('TORCH_CUDA_ARCH_LIST', '8.9')
    assert recipe.operators(build_tools(toolkit))[0] == 'CUDA'
    assert os.environ['TORCH_CUDA_ARCH_LIST'] == '8.9'


def test_forced_without_what_it_takes_is_an_error_that_names_it(recipe, toolkit, monkeypatch):
    monkeypatch.setenv('FORCE_CUDA', '1')
    with pytest.raises(SystemExit, match=r'FORCE_CUDA=1, but .*9\.8\.7 is not built for CUDA'):
        recipe.operators(build_tools(toolkit, cuda=None))
    with pytest.raises(SystemExit, match=r'FORCE_CUDA=1, but .*no nvcc.*CUDA toolkit 13\.0'):
        recipe.operators(build_tools(None))


def test_forced_build_with_a_torch_for_the_cpu_fails_and_says_why(quick_tree, tmp_path):
    if torch.version.cuda:
        pytest.skip('this PyTorch is built for CUDA')
    result = build('build_wheel', quick_tree, tmp_path, FORCE_CUDA=1)
    assert result.returncode != 0
    assert 'FORCE_CUDA=1, but the installed PyTorch' in result.stdout
    assert 'Traceback' not in result.stdout
    assert not list(tmp_path.glob('*.whl'))
