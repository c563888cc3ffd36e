"""Checks at import of what mmdk works with but does not install.

MMEngine, MMCV and MMDetection are provided by two distributions each, the originals and the
maintained onedl-* forks, under the same import names; so mmdk requires none by name.
"""

import importlib
import importlib.util
import warnings

# Tried together; README.md has the table.
KNOWN_GOOD = {'torch': '2.13.0', 'mmengine': '0.10.7', 'mmcv': '2.1.0', 'mmdet': '3.3.0'}


def check() -> bool:
    """Import what mmdk needs, and try what it plugs into.

    Returns:
        Whether MMDetection is there and works.

    Raises:
        ImportError: MMEngine or MMCV is missing or broken.
    """
    for name in ('mmengine', 'mmcv'):
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ImportError(
                f'mmdk needs {name}, which cannot be imported: {error}. {_cure(name)}'
            ) from error
    if importlib.util.find_spec('mmdet') is None:
        return False
    has_ops = _works('mmcv.ops', "MMCV's compiled operators do not load")
    return _works('mmdet', 'MMDetection is installed but does not import') and has_ops


def _works(module: str, symptom: str) -> bool:
    """Try; mmdk works without MMDetection, so failing is a warning."""
    try:
        importlib.import_module(module)
    # mmdet refuses versions it does not know by an assertion.
    except (ImportError, AssertionError, OSError) as error:
        warnings.warn(f'{symptom}: {error}. {_cure(module.split(".")[0])}', stacklevel=4)
        return False
    return True


def _cure(name: str) -> str:
    known_good = ', '.join(f'{package} {version}' for package, version in KNOWN_GOOD.items())
    return (
        f'Install it anew: `pip install --no-build-isolation --no-cache-dir --force-reinstall '
        f'--no-deps {name}=={KNOWN_GOOD[name]}` (or its fork onedl-{name}; for mmcv set '
        f'MMCV_WITH_OPS=1 before). Known to work together: {known_good}.'
    )
