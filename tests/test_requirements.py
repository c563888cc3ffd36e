"""What `import mmdk` says about an environment that does not fit."""

import subprocess
import sys
import textwrap

import pytest


def import_with(tmp_path, broken, code='import mmdk'):
    """Import mmdk with modules in `broken` (name -> source) before the installed ones."""
    for name, source in broken.items():
        package = tmp_path / name.replace('.', '/')
        package.mkdir(parents=True)
        (package / '__init__.py').write_text(textwrap.dedent(source))
    program = f'import sys; sys.path.insert(0, {str(tmp_path)!r}); {code}'
    return subprocess.run([sys.executable, '-c', program], capture_output=True, text=True)


@pytest.mark.parametrize('name', ['mmengine', 'mmcv'])
def test_missing(tmp_path, name):
    result = import_with(tmp_path, {name: f'raise ModuleNotFoundError("No module named {name!r}")'})
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith(f'ImportError: mmdk needs {name}, which cannot be imported')
    assert 'Known to work together: torch 2.13.0, mmengine 0.10.7, mmcv 2.1.0, mmdet 3.3.0' in last


def test_broken_mmdet_is_a_warning(tmp_path):
    result = import_with(
        tmp_path,
        {'mmdet': 'assert False, "MMCV==2.2.0 is incompatible"'},
        code='import mmdk; print(mmdk.layers.DeformKernel2d.__name__)',
    )
    assert result.returncode == 0
    assert (
        'MMDetection is installed but does not import: MMCV==2.2.0 is incompatible' in result.stderr
    )
    assert 'mmdet==3.3.0' in result.stderr
    assert 'DeformKernel2d' in result.stdout


def test_works_without_mmdet(tmp_path):
    code = (
        'import importlib.util as u; find = u.find_spec; '
        'u.find_spec = lambda name, *a: None if name == "mmdet" else find(name, *a); '
        'import mmdk; print("mmdet" in sys.modules)'
    )
    result = import_with(tmp_path, {}, code)
    assert (result.returncode, result.stdout.strip()) == (0, 'False'), result.stderr


@pytest.mark.parametrize(
    'library, message',
    [(None, 'its compiled operators are not in'), (b'no library', 'does not load into PyTorch')],
)
def test_operators_missing_or_broken(tmp_path, monkeypatch, library, message):
    from mmdk.ops import _library

    (tmp_path / 'ops').mkdir()
    if library:
        (tmp_path / '_C.so').write_bytes(library)
    monkeypatch.setattr(_library, '__file__', str(tmp_path / 'ops/_library.py'))
    with pytest.raises(ImportError, match=f'(?s){message}.*pip install --no-build-isolation -e'):
        _library.load_library()
