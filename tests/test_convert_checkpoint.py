"""tools/convert_checkpoint.py: from a file and a config to a file."""

import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.registry import MODELS
from mmengine.runner import load_checkpoint
from torch import nn

from mmdk import modules

ROOT = Path(__file__).resolve().parents[1]
TOOL = ROOT / 'tools/convert_checkpoint.py'
# A stock detector, narrow, as a plain one; DK is added by the second part.
PLAIN = """
_base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'
model = dict(
    backbone=dict(base_channels=4, init_cfg=None),
    neck=dict(in_channels=[16, 32, 64, 128], out_channels=16),
    bbox_head=dict(in_channels=16, feat_channels=16, num_classes=3),
)
"""
WITH_DK = """
custom_imports = dict(imports=['mmdk'], allow_failed_imports=False)
model['backbone'].update(dcn=dict(type='DK'), stage_with_dcn=(False, True, True, True))
"""


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """The configs, and the plain detector's checkpoint as MMEngine writes it."""
    folder = tmp_path_factory.mktemp('files')
    (folder / 'plain.py').write_text(PLAIN)
    (folder / 'dk.py').write_text(PLAIN + WITH_DK)
    plain = build(folder / 'plain.py')
    for parameter in plain.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    torch.save(
        dict(
            meta=dict(epoch=12, dataset_meta=dict(classes=('a', 'b', 'c'))),
            state_dict=plain.state_dict(),
            optimizer=dict(state={}, param_groups=[]),
        ),
        folder / 'plain.pth',
    )
    return folder


@pytest.fixture
def folder(files, tmp_path, monkeypatch):
    """The current one, with these files in it."""
    monkeypatch.chdir(shutil.copytree(files, tmp_path / 'here'))
    return Path.cwd()


def build(config):
    register_all_modules(init_default_scope=True)
    return MODELS.build(Config.fromfile(config).model)


def convert(*arguments, monkeypatch):
    """The command, in this process."""
    monkeypatch.setattr(sys, 'argv', [str(TOOL), *map(str, arguments)])
    runpy.run_path(str(TOOL), run_name='__main__')


@pytest.fixture
def command(monkeypatch):
    return lambda *arguments: convert(*arguments, monkeypatch=monkeypatch)


def refusal(command, *arguments):
    with pytest.raises(SystemExit) as exit:
        command(*arguments)
    assert str(exit.value).startswith('convert_checkpoint: ')
    return str(exit.value)


def assert_computes_the_same(actual, expected):
    x = torch.randn(1, 3, 64, 64)
    actual.eval(), expected.eval()
    with torch.no_grad():
        for a, e in zip(sum(actual(x), []), sum(expected(x), []), strict=True):
            torch.testing.assert_close(a, e, rtol=1e-4, atol=1e-4)


def loaded(config, path, part=''):
    model = build(config)
    load_checkpoint(model.get_submodule(part), str(path), strict=True)
    return model


@pytest.mark.slow
def test_a_detector(folder, command, capsys):
    before = Path('plain.pth').read_bytes()
    command('dk.py', 'plain.pth', 'dk.pth')
    assert Path('plain.pth').read_bytes() == before

    report = capsys.readouterr().out
    assert '13 lifted from plain convolutions: backbone.layer2.0.conv2, ' in report
    assert 'dropped, of the run that wrote plain.pth: optimizer' in report
    assert 'wrote dk.pth' in report
    checkpoint = torch.load('dk.pth', weights_only=True)
    assert sorted(checkpoint) == ['meta', 'state_dict']
    assert checkpoint['meta'] == dict(epoch=12, dataset_meta=dict(classes=('a', 'b', 'c')))
    assert_computes_the_same(loaded('dk.py', 'dk.pth'), loaded('plain.py', 'plain.pth'))


@pytest.mark.slow
@pytest.mark.parametrize('source', ['of torchvision', 'of a detector'])
def test_a_backbone(source, folder, command, capsys):
    plain = loaded('plain.py', 'plain.pth')
    if source == 'of torchvision':
        state = {**plain.backbone.state_dict(), 'fc.weight': torch.ones(1000, 128)}
        torch.save(state, 'backbone.pth')
        command('dk.py', 'backbone.pth', 'dk.pth', '--part', 'backbone')
        assert '1 left out of what was read: fc.weight' in capsys.readouterr().out
        assert list(torch.load('dk.pth', weights_only=True)) == ['state_dict']
    else:
        command('dk.py', 'plain.pth', 'dk.pth', '--part', 'backbone', '--prefix', 'backbone.')
    model = loaded('dk.py', 'dk.pth', 'backbone')
    x = torch.randn(1, 3, 64, 64)
    model.eval(), plain.eval()
    for actual, expected in zip(model.backbone(x), plain.backbone(x), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_options_of_the_config(folder, command):
    """A model that is defined by --cfg-options in training is so here."""
    command(
        'plain.py',
        'plain.pth',
        'dk.pth',
        '--cfg-options',
        'model.backbone.dcn.type=DK',
        'model.backbone.stage_with_dcn=(False,True,True,True)',
    )
    assert_computes_the_same(loaded('dk.py', 'dk.pth'), loaded('plain.py', 'plain.pth'))


@pytest.mark.slow
def test_a_head_that_is_left_out(folder, command, capsys):
    changes = ['--cfg-options', 'model.bbox_head.num_classes=7']
    message = refusal(command, 'dk.py', 'plain.pth', 'dk.pth', *changes)
    assert 'size mismatch for bbox_head.retina_cls.weight' in message and '--leave-out' in message
    assert not Path('dk.pth').exists()
    command('dk.py', 'plain.pth', 'dk.pth', '--leave-out', r'bbox_head\.retina_cls\..*', *changes)
    assert '2 not in what was read, and not written: bbox_head' in capsys.readouterr().out


def test_modules_of_the_released_code(tmp_path, command, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path('their_network.py').write_text(
        'from mmdk import layers\n'
        'from mmengine.registry import MODELS\n'
        'from torch import nn\n'
        '@MODELS.register_module(force=True)\n'
        'class TheirNetwork(nn.Sequential):\n'
        '    def __init__(self):\n'
        '        super().__init__(nn.Conv2d(3, 4, 1),\n'
        '                         layers.DeformKernel2d(4, 4, 3, 1, 1, groups=4, bias=False))\n'
    )
    Path('config.py').write_text(
        "custom_imports = dict(imports=['their_network'], allow_failed_imports=False)\n"
        "model = dict(type='TheirNetwork')\n"
    )
    old = nn.Sequential(nn.Conv2d(3, 4, 1), modules.DeformKernel2d((4, 4), 4, 4, 3, 1, 1, groups=4))
    nn.init.normal_(old[1].rotation_conv.weight, std=0.2)
    torch.save(dict(old.state_dict()), 'old.pth')
    command('config.py', 'old.pth', 'new.pth')
    assert "1 converted from the released code's modules: 1" in capsys.readouterr().out
    new = MODELS.build(Config.fromfile('config.py').model)
    load_checkpoint(new, 'new.pth', strict=True)
    x = torch.randn(1, 3, 6, 7)
    torch.testing.assert_close(new(x), old(x), rtol=1e-5, atol=1e-5)


def test_help(command, capsys):
    with pytest.raises(SystemExit):
        command('--help')
    output = capsys.readouterr().out
    assert '--part NAME' in output and 'convert_checkpoint.py my_config.py' in output


@pytest.mark.slow
def test_refusals(folder, command):
    Path('empty.py').write_text('a = 1\n')
    Path('broken.py').write_text('a = \n')
    Path('unknown.py').write_text("model = dict(type='NoSuchModel')\n")
    Path('text.pth').write_text('weights')
    for arguments, message in {
        ('dk.py', 'absent.pth', 'out.pth'): 'There is no file absent.pth',
        ('dk.py', 'text.pth', 'out.pth'): 'text.pth is no checkpoint',
        ('dk.py', 'plain.pth', './plain.pth', '--overwrite'): 'never overwritten',
        ('dk.py', 'plain.pth', './dk.py', '--overwrite'): './dk.py is what is read, dk.py',
        ('dk.py', 'plain.pth', 'text.pth'): 'text.pth exists',
        ('dk.py', 'plain.pth', 'absent/out.pth'): 'There is no folder',
        ('absent.py', 'plain.pth', 'out.pth'): 'The config absent.py cannot be read',
        ('broken.py', 'plain.pth', 'out.pth'): 'The config broken.py cannot be read',
        ('empty.py', 'plain.pth', 'out.pth'): 'has no model; it has a',
        ('unknown.py', 'plain.pth', 'out.pth'): 'The model of unknown.py cannot be built: ',
        ('plain.py', 'plain.pth', 'out.pth'): 'RetinaNet has no deformable layers',
        ('dk.py', 'plain.pth', 'out.pth', '--part', 'backbones'): "'backbones'. Closest: backbone",
        ('dk.py', 'plain.pth', 'out.pth', '--part', 'backbone'): "'backbone.' (--prefix)",
    }.items():
        assert message in refusal(command, *arguments), arguments
    assert not Path('out.pth').exists()
    assert Path('text.pth').read_text() == 'weights'
    assert Path('dk.py').read_text() == PLAIN + WITH_DK
    assert not list(folder.glob('.*'))


@pytest.mark.slow
def test_as_it_is_installed(folder):
    """A copy elsewhere, as in the folder that MIM looks into."""
    Path('tools').mkdir()
    script = shutil.copy(TOOL, 'tools')
    environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
    arguments = ['dk.py', 'plain.pth', 'dk.pth']
    subprocess.run([sys.executable, script, *arguments], env=environment, check=True)
    assert_computes_the_same(loaded('dk.py', 'dk.pth'), loaded('plain.py', 'plain.pth'))
