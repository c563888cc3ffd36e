"""Whether a picture is the committed one."""

import numpy as np
from PIL import Image


def assert_alike(committed, drawn):
    """Another matplotlib may set letters a little differently; what is drawn fills the rest."""
    committed, again = (
        np.asarray(Image.open(path).convert('L'), float) for path in (committed, drawn)
    )
    assert committed.shape == again.shape
    assert np.abs(committed - again).mean() < 0.01 * 255
    assert committed.std() > 0.1 * 255
