"""Loads the compiled operators, torch.ops.mmdk.*, once."""

from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import torch


def load_library() -> None:
    """Load the C++ operators that lie beside the package.

    Raises:
        ImportError: The package was not built, or was built for another PyTorch.
    """
    package = Path(__file__).resolve().parents[1]
    libraries = [package / f'_C{suffix}' for suffix in EXTENSION_SUFFIXES]
    libraries = [path for path in libraries if path.exists()]
    cure = 'build it with `pip install --no-build-isolation -e .` in a checkout of mmdk'
    if not libraries:
        raise ImportError(f'mmdk: its compiled operators are not in {package}; {cure}.')
    try:
        torch.ops.load_library(str(libraries[0]))
    except OSError as error:
        raise ImportError(
            f'mmdk: {libraries[0].name} does not load into PyTorch {torch.__version__}: {error}. '
            f'It was built for another PyTorch: {cure} again.'
        ) from error


load_library()
