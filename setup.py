"""Compile the C++ operators and pack configs and tools; all else is in pyproject.toml.

They are compiled for CUDA too where PyTorch is built for it, nvcc is there, and PyTorch sees a GPU
or FORCE_CUDA=1. TORCH_CUDA_ARCH_LIST says for which GPUs.
"""

import importlib
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

# -g0 undoes the -g that many a Python was built with: it makes the library several times larger.
FLAGS = ['-O3', '-g0', '-fopenmp', '-Wall', '-Wextra']
# All that CUDA 12 and 13 have in common; newer GPUs are served by the PTX. What this nvcc knows
# besides is added.
GPUS = ['7.5', '8.0', '8.6', '9.0+PTX']
NEWER_GPUS = ['10.0']
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


def sources(for_cuda=False):
    suffixes = ['.cpp', '.cu'] if for_cuda else ['.cpp']
    found = [path for path in Path('csrc').rglob('*') if path.suffix in suffixes]
    if not for_cuda:
        found = [path for path in found if path.parts[1] != 'cuda']
    if not found:
        raise SystemExit(f'error: no C++ source under {Path("csrc").resolve()}; fetch mmdk again.')
    return sorted(path.as_posix() for path in found)


def operators(cpp_extension):
    torch = cpp_extension.torch
    forced = os.environ.get('FORCE_CUDA') == '1'
    reason = why_not_for_cuda(cpp_extension, torch)
    if reason and forced:
        raise SystemExit(f'error: FORCE_CUDA=1, but {reason}')
    if not reason and not forced and not torch.cuda.is_available():
        reason = 'PyTorch sees no GPU here; FORCE_CUDA=1 compiles for one all the same.'
    if reason:
        print(f'mmdk: operators for the CPU alone: {reason}')
        return cpu_operators(cpp_extension)
    if not os.environ.get('TORCH_CUDA_ARCH_LIST') and not torch.cuda.is_available():
        # PyTorch would choose those of the GPUs it sees.
        os.environ['TORCH_CUDA_ARCH_LIST'] = ';'.join(gpus(cpp_extension.CUDA_HOME))
    return cuda_operators(cpp_extension)


def why_not_for_cuda(cpp_extension, torch):
    """What is missing for CUDA, and what to do about it; '' if nothing is."""
    if not torch.version.cuda:
        return (
            f'the installed PyTorch {torch.__version__} is not built for CUDA. Install one that '
            'is: https://pytorch.org/get-started has the command.'
        )
    if not cpp_extension.CUDA_HOME or not nvcc(cpp_extension.CUDA_HOME).exists():
        where = cpp_extension.CUDA_HOME or 'PATH and /usr/local/cuda'
        return (
            f'there is no nvcc in {where}. Install the CUDA toolkit {torch.version.cuda}, the '
            f'release that PyTorch {torch.__version__} is built for, and set CUDA_HOME to its '
            'folder.'
        )
    return ''


def nvcc(cuda_home):
    return Path(cuda_home, 'bin', 'nvcc')


def gpus(cuda_home):
    known = subprocess.check_output([nvcc(cuda_home), '--list-gpu-arch'], text=True).split()
    return GPUS + [gpu for gpu in NEWER_GPUS if f'compute_{gpu.replace(".", "")}' in known]


def cpu_operators(cpp_extension):
    return cpp_extension.CppExtension(
        'mmdk._C',
        sources(),
        include_dirs=[str(Path('csrc').resolve())],
        extra_compile_args=cxx_flags(cpp_extension.include_paths()),
        extra_link_args=['-fopenmp'],
    )


def cuda_operators(cpp_extension):
    system = [*cpp_extension.include_paths(), str(Path(cpp_extension.CUDA_HOME, 'include'))]
    return cpp_extension.CUDAExtension(
        'mmdk._C',
        sources(for_cuda=True),
        include_dirs=[str(Path('csrc').resolve())],
        # nvcc gets no warnings to look for, which `make cuda-check` does, and no path: PyTorch
        # takes any flag with "arch" in it, as in "research", for a choice of GPUs.
        extra_compile_args={'cxx': cxx_flags(system), 'nvcc': ['-O3']},
        extra_link_args=['-fopenmp'],
    )


def cxx_flags(system):
    # No -std: PyTorch adds the one its own headers are written in (C++17 or, lately, C++20).
    # -isystem: our warnings are to be about our code, not about the headers of PyTorch and CUDA.
    return [*FLAGS, *(flag for path in system for flag in ('-isystem', path))]


def building_command(cpp_extension):
    class BuildOperators(cpp_extension.BuildExtension):
        def build_extensions(self):
            try:
                super().build_extensions()
            except Exception as error:
                raise SystemExit(
                    f"error: mmdk's C++ operators could not be built: {error}\n"
                    "The compiler's own messages are above. Needed: GCC 12 or newer ($CXX "
                    'chooses it), and the Python headers; for CUDA, the toolkit of the release '
                    'that PyTorch is built for, in the folder that CUDA_HOME names. Without CUDA: '
                    'set CUDA_VISIBLE_DEVICES to nothing, and FORCE_CUDA=0.'
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
