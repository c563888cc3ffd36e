"""The documentation builds without a warning, every link inside it included."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BROKEN = {
    'gone.md': '[file](gone.md)',
    'gone-section': '[section](index.md#gone-section)',
    'mmdk.gone': '{py:func}`mmdk.gone`',
    'gone_function': '{py:func}`gone_function`',
}

pytest.importorskip('myst_nb', reason='see requirements/docs.txt')


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp('site')
    result = build(ROOT, folder)
    assert result.returncode == 0, result.stdout
    return folder


def build(source, target):
    """What `make docs` does."""
    options = ['-W', '--keep-going', '-q', '-c', ROOT / 'docs', '-d', target / 'doctrees']
    return subprocess.run(
        [sys.executable, '-W', 'ignore', '-m', 'sphinx', *options, source, target],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    'page, text',
    [
        ('index', 'docs/index.html'),
        ('docs/concept', 'W[o,\\, c,\\, k +'),
        ('docs/install', '2.13.0'),
        ('docs/recipes', 'href="../configs/dk/README.html"'),
        ('docs/gallery', 'photograph_offsets.png'),
        ('docs/notebooks/tour', 'OffsetGenerator(16, 18'),
        ('docs/pictures', 'receptive_field_scale.py'),
        ('docs/performance', 'depthwise forward+backward'),
        ('docs/study', 'What is not concluded'),
        ('docs/reference/operators', 'id="mmdk.ops.deform_kernel2d"'),
        ('docs/reference/layers', 'id="mmdk.layers.DeformKernel2d"'),
        ('docs/reference/models', r'backbone\.layer[34]'),
        ('CONTRIBUTING', 'cuda-check'),
        ('CHANGELOG', '0.1.0'),
    ],
)
def test_page(site, page, text):
    assert text in (site / f'{page}.html').read_text()


@pytest.mark.slow
def test_broken_links_fail_the_build(tmp_path):
    (tmp_path / 'docs').mkdir()
    (tmp_path / 'docs/index.md').write_text('\n\n'.join(['# Page', *BROKEN.values()]))
    result = build(tmp_path, tmp_path / 'site')
    assert result.returncode != 0
    assert [name for name in BROKEN if name not in result.stdout] == []
