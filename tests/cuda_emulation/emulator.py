"""Builds the emulator with the CUDA kernels in it, and runs the operators on it.

The kernels are compiled from csrc/cuda as they are; `include/` has what a host compiler sees
instead of CUDA's headers. Tensors are ordinary CPU tensors.
"""

import contextlib
import fcntl
import functools
import hashlib
import os
import shlex
import subprocess
from pathlib import Path

import torch
from torch.nn.modules.utils import _pair
from torch.utils import cpp_extension

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
FLAGS = [
    *('-std=c++20', '-O2', '-g', '-fPIC', '-DMMDK_CUDA_EMULATION'),
    '-fno-strict-aliasing',  # vectors are read as words, as CUDA allows
    # The call of the emulator shows where in which kernel it is made.
    *('-fno-optimize-sibling-calls', '-fno-ipa-icf'),
    '-Wno-attributes',
]


@functools.lru_cache
def load() -> None:
    """Build, unless that is done, and load: then torch.ops.mmdk_emulation is there."""
    torch.ops.load_library(build(os.environ.get('EMULATION_SANITIZER', '')))


def build(sanitizer: str = '') -> Path:
    """The shared library, compiled anew whenever a source, a header or a flag has changed."""
    compiler = shlex.split(os.environ.get('CXX', 'c++'))
    flags = [*FLAGS, f'-I{HERE / "include"}', f'-I{HERE}', f'-I{ROOT / "csrc"}']
    flags += [flag for path in cpp_extension.include_paths() for flag in ('-isystem', path)]
    flags.append(f'-D_GLIBCXX_USE_CXX11_ABI={int(torch._C._GLIBCXX_USE_CXX11_ABI)}')
    key = hashlib.sha256(repr([torch.__version__, compiler, flags, sanitizer]).encode())
    for path in sorted([*HERE.rglob('*'), *ROOT.glob('csrc/common/*'), *ROOT.glob('csrc/cuda/*')]):
        if path.suffix in {'.h', '.cuh', '.cu', '.cpp'}:
            key.update(path.read_bytes())
    folder = ROOT / 'build' / 'emulation' / key.hexdigest()[:16]
    library = folder / 'libmmdk_emulation.so'
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / 'lock'):
        if not library.exists():
            write_ninja(folder, compiler, flags, sanitizer)
            jobs = ['-j', os.environ['MAX_JOBS']] if 'MAX_JOBS' in os.environ else []
            run([ninja(), '-C', str(folder), *jobs])
    return library


@contextlib.contextmanager
def locked(path: Path):
    """One process at a time: tests run in several, and each needs the library."""
    with path.open('w') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def ninja() -> str:
    import ninja

    return str(Path(ninja.BIN_DIR, 'ninja'))


def run(command: list[str]) -> None:
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if result.returncode:
        raise RuntimeError(f'{shlex.join(command)}:\n{result.stdout[-5000:]}')


def write_ninja(folder: Path, compiler: list[str], flags: list[str], sanitizer: str) -> None:
    """Kernels are compiled for the sanitizer, the emulator's own state is not."""
    engine = sorted(HERE.glob('engine/*.cpp'))
    kernels = [HERE / 'library.cpp', *HERE.glob('*.cu'), ROOT / 'csrc/common/checks.cpp']
    kernels += sorted(ROOT.glob('csrc/cuda/*.cu'))
    define = ['-DEMULATION_THREAD_SANITIZER'] if sanitizer == 'thread' else []
    instrument = [f'-fsanitize={sanitizer}'] if sanitizer else []
    torch_lib = cpp_extension.library_paths()[0]
    link = [f'-L{torch_lib}', f'-Wl,-rpath,{torch_lib}', '-lc10', '-ltorch_cpu', '-ltorch', '-ldl']
    lines = [
        f'cxx = {shlex.join(compiler)}',
        f'flags = {shlex.join(flags + define)}',
        'rule compile',
        '  command = $cxx -x c++ $flags $more -MMD -MF $out.d -c $in -o $out',
        '  depfile = $out.d',
        'rule link',
        f'  command = $cxx -shared $in -o $out {shlex.join(link + instrument)}',
    ]
    objects = []
    for source in [*engine, *kernels]:
        objects.append(f'{source.stem}.o')
        lines.append(f'build {objects[-1]}: compile {source}')
        if source in kernels:
            lines.append(f'  more = {shlex.join(instrument)}')
    lines.append(f'build libmmdk_emulation.so: link {" ".join(objects)}')
    folder.joinpath('build.ninja').write_text('\n'.join(lines) + '\n')


@contextlib.contextmanager
def emulated(seed=0, processors=4, shared_bytes=99 * 1024, capability=86, cache_bytes=4 << 20):
    """A schedule of threads and a device; tensors made within are watched at their borders."""
    ops = torch.ops.mmdk_emulation
    ops.set_schedule(seed)
    ops.set_device(processors, shared_bytes, capability, cache_bytes)
    ops.guard_memory(True)
    try:
        yield
    finally:
        ops.guard_memory(False)


@contextlib.contextmanager
def counting(l2_bytes=4 << 20):
    """Count what kernels do; `counters` has it afterwards."""
    torch.ops.mmdk_emulation.set_counting(True, l2_bytes)
    try:
        yield
    finally:
        torch.ops.mmdk_emulation.set_counting(False, l2_bytes)


def counters() -> dict[str, dict[str, int]]:
    """Of each kernel since counting began, by its name."""
    return torch.ops.mmdk_emulation.counters()


class _DeformKernel2d(torch.autograd.Function):
    @staticmethod
    def forward(context, geometry, *tensors):
        context.geometry = geometry
        context.save_for_backward(*tensors)
        return torch.ops.mmdk_emulation.deform_kernel2d(*tensors, *geometry)

    @staticmethod
    def backward(context, grad_output):
        gradients = torch.ops.mmdk_emulation.deform_kernel2d_backward(
            grad_output, *context.saved_tensors, *context.geometry, context.needs_input_grad[1:]
        )
        wanted = context.needs_input_grad[1:]
        return None, *(g if w else None for g, w in zip(gradients, wanted, strict=True))


def deform_kernel2d(
    input,
    weight,
    kernel_offset=None,
    image_offset=None,
    mask=None,
    bias=None,
    *,
    kernel_size,
    stride=1,
    padding=0,
    dilation=1,
):
    """:func:`mmdk.ops.deform_kernel2d` by the CUDA kernels."""
    geometry = tuple(map(_pair, (kernel_size, stride, padding, dilation)))
    return _DeformKernel2d.apply(geometry, input, weight, kernel_offset, image_offset, mask, bias)


class _SampleKernel(torch.autograd.Function):
    @staticmethod
    def forward(context, weight, kernel_offset, kernel_size):
        context.kernel_size = kernel_size
        context.save_for_backward(weight, kernel_offset)
        return torch.ops.mmdk_emulation.sample_kernel(weight, kernel_offset, kernel_size)

    @staticmethod
    def backward(context, grad_kernels):
        gradients = torch.ops.mmdk_emulation.sample_kernel_backward(
            grad_kernels,
            *context.saved_tensors,
            context.kernel_size,
            context.needs_input_grad[:2],
        )
        wanted = context.needs_input_grad[:2]
        return *(g if w else None for g, w in zip(gradients, wanted, strict=True)), None


def sample_kernel(weight, kernel_offset, kernel_size):
    """:func:`mmdk.ops.sample_kernel` by the CUDA kernels."""
    return _SampleKernel.apply(weight, kernel_offset, _pair(kernel_size))
