"""README and metafile of the ImageNet recipes agree with the folder; MMPretrain is not needed."""

import re

import pytest
import yaml
from mmengine.config import Config

from mmdk.layers import DeformKernel2d
from tests.detection import stock
from tools import imagenet_tables
from tools.imagenet_tables import FOLDER, METAFILE, ROOT

CONFIGS = imagenet_tables.recipes()
README = imagenet_tables.README.read_text()
INDEX = yaml.safe_load(METAFILE.read_text())


def test_the_metafile_lists_all_configs_and_no_other():
    (collection,) = INDEX['Collections']
    assert (ROOT / collection['README']).samefile(imagenet_tables.README)
    assert CONFIGS == sorted(FOLDER.glob('*.py'))
    assert [ROOT / entry['Config'] for entry in INDEX['Models']] == CONFIGS
    for entry in INDEX['Models']:
        assert entry['Config'] == f'configs/imagenet/{entry["Name"]}.py'
        assert entry['In Collection'] == collection['Name']
        assert 'Results' not in entry
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())
    assert 'configs/imagenet/metafile.yml' in index['Import']


def test_the_table_is_the_metafiles():
    assert imagenet_tables.with_table(README, INDEX['Models']) == README


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_overlays_end_at_a_config_of_mmpretrain(path):
    while True:
        namespace = {}
        text = path.read_text().replace('{{_base_.model.type}}', 'None')
        exec(compile(text, path, 'exec'), namespace)
        base = namespace['_base_']
        if not base.startswith('./'):
            break
        path = path.parent / base
    assert base.startswith('mmpretrain::')
    assert namespace['custom_imports'] == dict(imports=['mmdk'], allow_failed_imports=False)


def test_the_detector_in_the_readme_builds(tmp_path):
    (text,) = re.findall(r'^```python\n(.*?)^```$', README, re.MULTILINE | re.DOTALL)
    (tmp_path / 'detector.py').write_text(text)
    config = Config.fromfile(tmp_path / 'detector.py')
    trained = config.model.backbone.init_cfg
    assert re.search(r'work_dirs/(.*)/epoch_100\.pth', trained.checkpoint)[1] in [
        path.stem for path in CONFIGS
    ]
    stock.drop_pretrained(config.model)
    layers = [part for part in stock.build(config).modules() if isinstance(part, DeformKernel2d)]
    assert len(layers) == 13
