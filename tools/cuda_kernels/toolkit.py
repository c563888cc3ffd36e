"""The programs of the CUDA toolkit, and binutils' c++filt, wherever they are."""

import dataclasses
import os
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Tools:
    nvcc: str
    release: str  # of nvcc, such as 13.0.88
    nvdisasm: str
    filt: str


def find_nvcc() -> str | None:
    home = os.environ.get('CUDA_HOME') or os.environ.get('CUDA_PATH')
    if home:
        return shutil.which('nvcc', path=Path(home, 'bin'))
    return shutil.which('nvcc') or shutil.which('nvcc', path='/usr/local/cuda/bin')


def find_tools(nvcc: str | None) -> Tools:
    if not nvcc:
        home = os.environ.get('CUDA_HOME') or os.environ.get('CUDA_PATH')
        raise SystemExit(
            f'error: there is no nvcc {f"in {home}/bin" if home else "in PATH"}. Install the '
            'compiler of the CUDA toolkit 12 or newer, no GPU needed (apt install '
            'cuda-nvcc-13-0 cuda-cudart-dev-13-0, from the CUDA repository), and have CUDA_HOME '
            'name its folder. Where there is none to be had: --if-available.'
        )
    version = subprocess.run([nvcc, '--version'], capture_output=True, text=True, check=True)
    return Tools(
        nvcc=nvcc,
        release=re.search(r'\bV(\d+\.\d+\.\d+)', version.stdout)[1],
        nvdisasm=find_nvdisasm(nvcc),
        filt=shutil.which('c++filt') or missing('c++filt', 'apt install binutils'),
    )


def find_nvdisasm(nvcc: str) -> str:
    packages = Path(sysconfig.get_paths()['purelib'])
    installed = [path.as_posix() for path in packages.glob('nvidia/*/bin/nvdisasm')]
    return (
        next(iter(installed), None)
        or shutil.which('nvdisasm', path=Path(nvcc).parent)
        or shutil.which('nvdisasm')
        or missing('nvdisasm', 'pip install -r requirements/cuda-check.txt')
    )


def missing(tool: str, cure: str) -> str:
    raise SystemExit(f'error: {tool} is missing: {cure}')


def architectures_of(nvcc: str) -> set[int]:
    listed = subprocess.run([nvcc, '--list-gpu-code'], capture_output=True, text=True, check=True)
    return {int(sm) for sm in re.findall(r'^sm_(\d+)$', listed.stdout, re.MULTILINE)}


def run(command: list) -> tuple[int, str]:
    result = subprocess.run(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return result.returncode, result.stdout
