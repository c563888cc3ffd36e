"""Compile the C++ operators and pack configs and tools; all else is in pyproject.toml."""

import importlib
import shutil
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

# -g0 undoes the -g that many a Python was built with: it makes the library several times larger.
FLAGS = ['-O3', '-g0', '-fopenmp', '-Wall', '-Wextra']
# What MIM looks for in an installed package.
MIM_FILES = ['configs', 'tools', 'model-index.yml']


def main():
    try:
        cpp_extension = import_cpp_extension()
    except (ImportError, OSError) as error:
        # Not an error yet: a source distribution and the metadata need no PyTorch.
        extension = Extension('mmdk._C', sources())
        command = refusing_command(error)
    else:
        extension = operators(cpp_extension)
        command = building_command(cpp_extension)
    setup(ext_modules=[extension], cmdclass={'build_ext': command, 'build_py': BuildPython})


def import_cpp_extension():
    """Import PyTorch's build tools, also from within pip's build isolation."""
    name = 'torch.utils.cpp_extension'
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        # An isolated build hides the environment that is being installed into. The operators have
        # to match the PyTorch of exactly that environment, so look there. At the end of the path,
        # so that the build's own setuptools stays in use.
        paths = sysconfig.get_paths()
        sys.path += [paths['purelib'], paths['platlib']]
        return importlib.import_module(name)


def sources():
    # csrc/cuda holds no kernel that is built yet.
    found = [path for path in Path('csrc').rglob('*.cpp') if path.parts[1] != 'cuda']
    if not found:
        raise SystemExit(f'error: no C++ source under {Path("csrc").resolve()}; fetch mmdk again.')
    return sorted(path.as_posix() for path in found)


def operators(cpp_extension):
    # No -std: PyTorch adds the one its own headers are written in (C++17 or, lately, C++20).
    # -isystem: our warnings are to be about our code, not about PyTorch's headers.
    system = [flag for path in cpp_extension.include_paths() for flag in ('-isystem', path)]
    return cpp_extension.CppExtension(
        'mmdk._C',
        sources(),
        include_dirs=[str(Path('csrc').resolve())],
        extra_compile_args=[*FLAGS, *system],
        extra_link_args=['-fopenmp'],
    )


def building_command(cpp_extension):
    class BuildOperators(cpp_extension.BuildExtension):
        def build_extensions(self):
            try:
                super().build_extensions()
            except Exception as error:
                raise SystemExit(
                    f"error: mmdk's C++ operators could not be built: {error}\n"
                    "The compiler's own messages are above. Needed: GCC 12 or newer ($CXX "
                    'chooses it), and the Python headers.'
                ) from error

    return BuildOperators


def refusing_command(error):
    class RefuseToBuild(build_ext):
        def run(self):
            raise SystemExit(
                "error: mmdk's C++ operators are compiled against the installed PyTorch, which "
                f'cannot be imported in {sys.prefix}: {error}\n'
                'Install PyTorch first (pip install torch), then mmdk. If PyTorch is there, the '
                'build is isolated from it: add --no-build-isolation.'
            )

    return RefuseToBuild


class BuildPython(build_py):
    """Puts configs and tools into the package, where MIM and its users look for them."""

    def run(self):
        super().run()
        if self.editable_mode:
            self.fill(Path('mmdk/.mim'), link)
        else:
            self.fill(Path(self.build_lib, 'mmdk/.mim'), copy)

    def fill(self, target, put):
        # What an earlier build left may since have been renamed or removed.
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for name in MIM_FILES:
            if Path(name).exists():
                put(Path(name), target / name)


def link(source, target):
    target.symlink_to(Path('..', '..', source))


def copy(source, target):
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns('__pycache__', '*.pyc'))
    else:
        shutil.copy2(source, target)


if __name__ == '__main__':
    main()
