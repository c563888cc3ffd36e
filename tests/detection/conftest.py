import pytest

from tests.detection.tiny import make_data


@pytest.fixture(scope='session')
def data_root(tmp_path_factory):
    """Two images with one box each, in COCO's format."""
    root = tmp_path_factory.mktemp('data')
    make_data(root)
    return root
