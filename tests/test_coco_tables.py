"""The command that counts what recipes cost and writes it into READMEs and metafiles."""

from functools import partial
from pathlib import Path

import pytest
import yaml
from mmdet.utils import register_all_modules
from mmengine.analysis import get_model_complexity_info

from tools import coco_tables, recipe_files

STOCK = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'
PLAIN = 'configs/depthwise/retinanet_r50-dw_fpn_1x_coco.py'
DK = 'configs/dk/retinanet_r50-dw-dk-c3-c5_fpn_1x_coco.py'
COUNTED = {STOCK: 1000, PLAIN: 2000, DK: 2500}
METAFILE = """
Collections:
  - Name: Kernels
Models:
  - Name: of_another_kind
    In Collection: Kernels
    Config: configs/dk/of_another_kind.py
    Results: []
  - Name: removed
    In Collection: Kernels
    Config: configs/dk/removed_coco.py
"""
README = (
    f'# Kernels\n\n{recipe_files.begin(coco_tables.TARGET)}\n{recipe_files.END}\n\nAnd so on.\n'
)


def metadata(counted):
    return {
        'Epochs': 12,
        'Parameters': counted * 10**6,
        'FLOPs': counted * 10**9,
        'Input Size': '64x32',
    }


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Two folders of recipes, and costs that nobody has to count."""
    for name, base in ((PLAIN, STOCK), (DK, '../depthwise/' + Path(PLAIN).name)):
        folder = (tmp_path / name).parent
        folder.mkdir(parents=True)
        (tmp_path / name).write_text(f"_base_ = '{base}'\n")
        (folder / 'metafile.yml').write_text(METAFILE)
        (folder / 'README.md').write_text(README)
    (tmp_path / 'configs/dk/of_another_kind.py').touch()
    monkeypatch.setattr(coco_tables, 'ROOT', tmp_path)
    monkeypatch.setattr(coco_tables, 'cost', lambda name: metadata(COUNTED[name]))
    return tmp_path


def test_writes_a_row_for_each_recipe_below_what_it_changes(root):
    coco_tables.main([])
    text = (root / 'configs/dk/README.md').read_text()
    assert text.startswith('# Kernels\n') and text.endswith('\n\nAnd so on.\n')
    assert text.splitlines()[5:7] == [
        '| *[retinanet_r50-dw_fpn_1x_coco](../depthwise/retinanet_r50-dw_fpn_1x_coco.py)* '
        '| 12 epochs | 64x32 | 2000.00 M | 2000.00 G |  |',
        '| [retinanet_r50-dw-dk-c3-c5_fpn_1x_coco](retinanet_r50-dw-dk-c3-c5_fpn_1x_coco.py) '
        '| 12 epochs | 64x32 | 2500.00 M (+25.0 %) | 2500.00 G (+25.0 %) | not trained here |',
    ]
    assert '*MMDetection: retinanet_r50_fpn_1x_coco*' in (
        (root / 'configs/depthwise/README.md').read_text()
    )


def test_metafile_gets_recipes_keeps_other_configs_and_loses_what_is_gone(root):
    coco_tables.main(['dk'])
    kept, added = yaml.safe_load((root / 'configs/dk/metafile.yml').read_text())['Models']
    assert kept['Name'] == 'of_another_kind' and kept['Results'] == []
    assert added == {
        'Name': Path(DK).stem,
        'In Collection': 'Kernels',
        'Config': DK,
        'Metadata': metadata(2500),
    }
    assert (root / 'configs/depthwise/README.md').read_text() == README


def test_check_passes_after_writing_and_writes_nothing_itself(root):
    with pytest.raises(SystemExit):
        coco_tables.main(['--check'])
    assert (root / 'configs/dk/README.md').read_text() == README
    coco_tables.main([])
    coco_tables.main(['--check'])


@pytest.mark.parametrize('file, shown', [('README.md', '2500.00 G'), ('metafile.yml', 'FLOPs: 25')])
def test_check_shows_what_differs(root, capsys, file, shown):
    coco_tables.main([])
    path = root / 'configs/dk' / file
    path.write_text(path.read_text().replace(shown, shown.replace('25', '26')))
    capsys.readouterr()
    with pytest.raises(SystemExit, match='not up to date; run `make coco-tables`'):
        coco_tables.main(['--check'])
    changed = [line for line in capsys.readouterr().out.splitlines() if shown in line]
    assert [line[0] for line in changed] == ['+']


def test_a_folder_without_recipes_is_named(root):
    with pytest.raises(SystemExit, match='no recipes in configs/kernels; there are some in .*dk'):
        coco_tables.main(['kernels'])


def test_a_readme_without_markers_is_an_error_that_shows_them(root):
    (root / 'configs/dk/README.md').write_text('# Kernels\n')
    with pytest.raises(
        SystemExit, match=r'configs/dk/README.md: .*once each[^<]*<!-- recipes: written by'
    ):
        coco_tables.main(['dk'])


def test_a_recipe_of_several_bases_is_an_error(root):
    (root / DK).write_text(f"_base_ = ['{STOCK}', '../_base_/more.py']\n")
    with pytest.raises(SystemExit, match='single base'):
        coco_tables.main(['dk'])


# A spread; all of them take minutes: `make coco-tables COCO_TABLES_ARGS=--check`.
@pytest.mark.slow
@pytest.mark.parametrize(
    'name',
    [
        'configs/dk/rtmdet_tiny-dk-c3-c5_8xb32-300e_coco.py',
        'configs/dk/yolox_tiny_dk-head_8xb8-300e_coco.py',
        'configs/dk/mask-rcnn_r50_fpn_dk-mask-head_1x_coco.py',
        'configs/dk_dcn/faster-rcnn_r50-dw-dkdcn-modulated-c3-c5_fpn_1x_coco.py',
        'configs/global_dk/faster-rcnn_r50-gdk-all-c3-c5_fpn_1x_coco.py',
        'configs/cond_conv/faster-rcnn_r50-condconv-c3-c5_fpn_1x_coco.py',
    ],
    ids=lambda name: Path(name).stem,
)
def test_documented_flops_are_those_counted(name):
    register_all_modules(init_default_scope=True)
    counted = coco_tables.cost(name)
    index = yaml.safe_load((recipe_files.ROOT / name).with_name('metafile.yml').read_text())
    (entry,) = (entry for entry in index['Models'] if entry['Config'] == name)
    assert entry['Metadata'] == counted
    readme = (recipe_files.ROOT / name).with_name('README.md').read_text()
    (line,) = (line for line in readme.splitlines() if f']({Path(name).name})' in line)
    assert f'| {counted["FLOPs"] / 1e9:.2f} G (' in line
    assert f'| {counted["Parameters"] / 1e6:.2f} M (' in line


@pytest.mark.slow
@pytest.mark.parametrize(
    'name',
    [
        'configs/dk/yolox_tiny-dk-c3-c5_8xb8-300e_coco.py',
        'configs/dk/faster-rcnn_r50-dw-dk-c3-c5_fpn_1x_coco.py',
    ],
    ids=lambda name: Path(name).stem,
)
def test_get_flops_counts_the_same_and_normalisation(name, monkeypatch):
    """One stage; and two, with as many boxes for the second as random weights find."""
    register_all_modules(init_default_scope=True)
    monkeypatch.setattr(coco_tables, 'tested_size', lambda config: (416, 416))
    model, data = coco_tables.tested(name)
    # As MMDetection's get_flops.py does it.
    model.forward = partial(model.forward, data_samples=data['data_samples'])
    options = dict(show_table=False, show_arch=False)
    theirs = get_model_complexity_info(model, None, data['inputs'], **options)['flops']
    ours = coco_tables.cost.__wrapped__(name)['FLOPs']  # not the cached one, of another size
    assert 0.99 * theirs < ours < theirs
