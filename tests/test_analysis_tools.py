"""The commands in tools/analysis_tools, on a narrow detector that was not trained."""

import importlib.util
import json
import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path

import mmcv
import numpy as np
import pytest
import torch

from tests.analysis import tiny_detector

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / 'docs/pictures.md'
TOOLS = ROOT / 'tools/analysis_tools'
COMMANDS = sorted(path.stem for path in TOOLS.glob('*.py'))


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """Configs and checkpoints by name, and the folder that they are in."""
    root = tmp_path_factory.mktemp('detectors')
    tiny_detector.make_data(root)
    layers = dict(plain=None, dk=dict(type='DK'), dcn=dict(type='FastDCN'))
    return dict(root=root) | {
        name: tiny_detector.make_detector(root, name, layer) for name, layer in layers.items()
    }


@pytest.fixture
def run(files, tmp_path, monkeypatch):
    """Runs a command where its pictures may lie; returns the numbers that it wrote."""
    monkeypatch.chdir(tmp_path)

    def run(command, *arguments):
        monkeypatch.setattr(sys, 'argv', [command, *map(str, arguments)])
        runpy.run_path(str(TOOLS / f'{command}.py'), run_name='__main__')
        assert mmcv.imread(tmp_path / f'{command}.png').std() > 5
        return json.loads((tmp_path / f'{command}.json').read_text())

    return run


@pytest.fixture
def fails(run):
    """Runs a command that has to end with a message; returns it."""

    def fails(*arguments):
        with pytest.raises(SystemExit) as ended:
            run(*arguments)
        assert isinstance(ended.value.code, str)
        return ended.value.code

    return fails


@pytest.fixture
def refuses(run, capsys):
    """Runs a command with an argument that its parser refuses; returns what it says."""

    def refuses(*arguments):
        with pytest.raises(SystemExit) as ended:
            run(*arguments)
        assert ended.value.code == 2
        return capsys.readouterr().err

    return refuses


@pytest.mark.slow
def test_commands_in_the_documentation(files, tmp_path, monkeypatch, capsys):
    """As a reader's shell would take them, in this process."""
    monkeypatch.chdir(tmp_path)
    for name, (config, checkpoint) in dict(
        plain=files['plain'], my_config=files['dk'], epoch_12=files['dk']
    ).items():
        shutil.copy(config, f'{name}.py')
        shutil.copy(checkpoint, f'{name}.pth')
    mmcv.imwrite(np.random.default_rng(0).integers(0, 255, (256, 352, 3), np.uint8), 'street.jpg')
    write_offsets(tmp_path / 'work_dirs/my_config')
    blocks = re.findall(r'^```shell\n(.*?)^```$', DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    (block,) = (block for block in blocks if 'PICTURES=' in block)
    (folder, *lines) = block.replace('\\\n', ' ').splitlines()
    commands = []
    for line in lines:
        python, program, *arguments = shlex.split(line.replace('$PICTURES', folder.split('=')[1]))
        assert python == '.venv/bin/python'
        monkeypatch.setattr(sys, 'argv', [program, *arguments])
        runpy.run_path(str(ROOT / program), run_name='__main__')
        commands.append(Path(program).stem)
        assert f'{commands[-1]}.png and {commands[-1]}.json are written' in capsys.readouterr().out
    assert sorted(commands) == COMMANDS


def write_offsets(work_dir):
    """What OffsetHook leaves behind."""
    folder = work_dir / '20260101_000000/vis_data'
    folder.mkdir(parents=True)
    records = [{'kernel_offset/layer/mean_abs': step / 100, 'step': step} for step in (10, 20, 30)]
    (folder / 'scalars.json').write_text('\n'.join(map(json.dumps, records)) + '\n')


def models(files, *names):
    return [word for name in names for word in ('--model', name, *files[name])]


@pytest.mark.parametrize('command', COMMANDS)
def test_help_has_an_example_of_the_command(command, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', [command, '--help'])
    with pytest.raises(SystemExit):
        runpy.run_path(str(TOOLS / f'{command}.py'), run_name='__main__')
    assert f'python tools/analysis_tools/{command}.py' in capsys.readouterr().out


class TestKernels:
    def test_points_and_layers(self, run, files):
        numbers = run(
            'kernels', *files['dk'], files['root'] / 'one.png', '--at', 3, 60, '--at', 32, 32,
            '--layers', r'layer[34]\.0'
        )  # fmt: skip
        assert list(numbers) == ['backbone.layer3.0.conv2', 'backbone.layer4.0.conv2']
        layer = numbers['backbone.layer3.0.conv2']
        assert np.shape(layer['rigid']) == (3, 3) and len(layer['points']) == 2
        assert np.shape(layer['points'][0]['taps']) == (1, 3, 3, 2)
        assert np.abs(np.subtract(layer['points'][0]['kernel'], layer['rigid'])).max() > 1e-3

    def test_one_channel(self, run, files):
        arguments = (*files['dk'], files['root'] / 'one.png', '--at', 3, 60, '--layers', r'r2\.0')
        one = run('kernels', *arguments, '--channel', 1, 0)['backbone.layer2.0.conv2']
        assert np.min(one['rigid']) < 0 < np.max(one['rigid'])

    @pytest.mark.slow
    def test_clicks(self, run, files, monkeypatch):
        from matplotlib import pyplot

        arguments = (*files['dk'], files['root'] / 'one.png', '--layers', 'layer4')
        given = run('kernels', *arguments, '--at', 3, 60)
        monkeypatch.setattr(pyplot, 'get_backend', lambda: 'QtAgg')
        monkeypatch.setattr(pyplot, 'ginput', lambda n, timeout: [(60, 3)])
        assert run('kernels', *arguments) == given

    @pytest.mark.parametrize(
        'image, arguments, message',
        [
            ('one.png', ['--at', 64, 0], 'y=64, x=0 is outside the image, which is 64 pixels high'),
            ('none.png', ['--at', 1, 1], 'none.png'),
            ('annotations.json', ['--at', 1, 1], 'annotations.json is no image'),
            ('one.png', ['--at', 1, 1, '--layers', 'layer7'], 'There are: backbone.layer2.0.conv2'),
            ('one.png', ['--at', 1, 1, '--layers', '('], 'is no regular expression'),
            ('one.png', ['--at', 1, 1, '--channel', 99, 0], 'output channels'),
            ('one.png', [], 'no window can be opened here; name points by --at Y X'),
        ],
    )
    def test_errors(self, fails, files, image, arguments, message):
        assert message in fails('kernels', *files['dk'], files['root'] / image, *arguments)

    def test_detectors_without_kernel_offsets(self, fails, files):
        message = fails('kernels', *files['dcn'], files['root'] / 'one.png', '--at', 1, 1)
        assert 'ran no layer with kernel offsets' in message

    def test_checkpoints_of_other_detectors(self, fails, files):
        config, _ = files['plain']
        _, checkpoint = files['dk']
        message = fails('kernels', config, checkpoint, files['root'] / 'one.png', '--at', 1, 1)
        assert f'{checkpoint} does not fit {config}' in message and 'conv_offset' in message

    def test_images_are_not_written_over(self, fails, files):
        image = files['root'] / 'one.png'
        before = image.read_bytes()
        message = fails('kernels', *files['dk'], image, '--at', 1, 1, '--out', image)
        assert 'is an image to be read' in message and image.read_bytes() == before

    def test_a_file_of_somebody_else_is_not_written_over(self, fails, files, tmp_path):
        (tmp_path / 'kernels.json').write_text('annotations')
        message = fails('kernels', *files['dk'], files['root'] / 'one.png', '--at', 1, 1)
        assert 'kernels.json, which belongs to no picture; name another file' in message
        assert (tmp_path / 'kernels.json').read_text() == 'annotations'

    @pytest.mark.parametrize(
        'change, message',
        [
            ("['type'] = 'ResNot'", 'ResNot is not in the mmdet::model registry'),
            ("['dcn']['scopes'] = 4", 'scopes'),
        ],
    )
    def test_configs_of_what_there_is_not(self, fails, files, tmp_path, change, message):
        config, checkpoint = files['dk']
        text = Path(config).read_text()
        (tmp_path / 'typo.py').write_text(f"{text}\nmodel['backbone']{change}\n")
        image = files['root'] / 'one.png'
        found = fails('kernels', tmp_path / 'typo.py', checkpoint, image, '--at', 1, 1)
        assert 'typo.py: ' in found and message in found

    def test_files_that_are_no_checkpoints(self, fails, files):
        config, _ = files['dk']
        image = files['root'] / 'one.png'
        message = fails('kernels', config, config, image, '--at', 1, 1)
        assert f'{config} is no checkpoint' in message

    @pytest.mark.skipif(torch.cuda.is_available(), reason='of machines without a GPU')
    def test_devices_that_there_are_not(self, fails, files):
        arguments = (files['root'] / 'one.png', '--at', 1, 1, '--device', 'cuda')
        message = fails('kernels', *files['dk'], *arguments)
        assert '--device cuda cannot be used: ' in message


class TestOffsetHistograms:
    def test_test_set(self, run, files):
        layers = run('offset_histograms', *files['dk'])
        assert {layer['kind'] for layer in layers} == {'kernel_offset'}
        assert len(layers) == 13  # 3 x 3 convolutions in the last three stages
        # Two images, and 12 x 12 positions of 9 taps.
        assert layers[0]['layer'] == 'backbone.layer2.0.conv2'
        assert layers[0]['offsets'] == 2 * 12 * 12 * 9
        assert layers[0]['y']['0.05'] < layers[0]['y']['0.95']

    def test_given_images_of_image_offsets(self, run, files):
        layers = run('offset_histograms', *files['dcn'], files['root'] / 'one.png')
        assert {layer['kind'] for layer in layers} == {'image_offset'}
        assert layers[0]['offsets'] == 12 * 12 * 9

    def test_errors(self, fails, files):
        message = fails('offset_histograms', *files['plain'])
        assert 'has no layer with offsets, that is, of type DK' in message

    def test_no_images(self, refuses, files):
        message = refuses('offset_histograms', *files['dk'], '--images', 0)
        assert 'argument --images: must be at least 1, got 0' in message


class TestOffsetCurves:
    @pytest.fixture
    def work_dir(self, tmp_path):
        write_offsets(tmp_path / 'run')
        return tmp_path / 'run'

    def test_curves(self, run, work_dir):
        curves = run('offset_curves', work_dir)
        expected = {'10': 0.1, '20': 0.2, '30': 0.3}
        assert curves == {'kernel_offset/mean_abs': {'layer': expected}}

    def test_into_tensorboard(self, run, work_dir, tmp_path):
        events = pytest.importorskip('tensorboard.backend.event_processing.event_accumulator')
        run('offset_curves', work_dir, '--tensorboard', tmp_path / 'board')
        log = events.EventAccumulator(str(tmp_path / 'board/vis_data')).Reload()
        assert log.Tags()['images'] == ['offset_curves']

    def test_no_tensorboard(self, fails, work_dir, monkeypatch):
        monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
        message = fails('offset_curves', work_dir, '--tensorboard', 'board')
        assert '--tensorboard needs TensorBoard: pip install tensorboard' in message

    def test_no_training(self, fails, tmp_path):
        assert 'expected the work_dir of a training' in fails('offset_curves', tmp_path)

    def test_other_formats(self, refuses, work_dir):
        message = refuses('offset_curves', work_dir, '--out', 'curves.json')
        assert "'curves.json' does not end in .png" in message


class TestReceptiveField:
    def arguments(self, files, *names):
        return (*models(files, *names), '--layer', 'backbone.layer2', '--probes', 1)

    def test_side_by_side(self, run, files):
        image = files['root'] / 'one.png'
        numbers = run('receptive_field', image, image, *self.arguments(files, 'plain', 'dk'))
        assert list(numbers) == ['plain', 'dk'] and numbers['plain'] != numbers['dk']
        assert 0 < numbers['dk']['area_50'] < numbers['dk']['area_90'] < 64 * 64

    @pytest.mark.parametrize(
        'arguments, message',
        [
            (['--call', 5], 'call=5 is none of them'),
            (['wide.png'], 'of different sizes (64 x 64, 20 x 30); give --size'),
        ],
    )
    def test_errors(self, fails, files, tmp_path, arguments, message):
        mmcv.imwrite(np.zeros((20, 30, 3), np.uint8), str(tmp_path / 'wide.png'))
        image = files['root'] / 'one.png'
        found = fails('receptive_field', image, *arguments, *self.arguments(files, 'dk'))
        assert message in found

    @pytest.mark.parametrize(
        'arguments, message',
        [
            (['--position', 1, 0], 'argument --position: must be from 0 to below 1, got 1'),
            (['--size', 0, 9], 'argument --size: must be at least 1, got 0'),
            (['--probes', '-3'], 'argument --probes: must be at least 1, got -3'),
        ],
    )
    def test_numbers_out_of_range(self, refuses, files, arguments, message):
        image = files['root'] / 'one.png'
        assert message in refuses(
            'receptive_field', image, *self.arguments(files, 'dk'), *arguments
        )

    def test_errors_say_of_which_model_they_are(self, fails, files):
        arguments = (
            *models(files, 'plain', 'dk'),
            '--layer',
            'backbone.layer2.0.conv2.conv_offset',
        )
        message = fails('receptive_field', files['root'] / 'one.png', *arguments)
        assert "--model plain: layer='backbone.layer2.0.conv2.conv_offset' is not" in message

    def test_two_of_one_name(self, fails, files):
        arguments = self.arguments(files, 'dk', 'dk')
        message = fails('receptive_field', files['root'] / 'one.png', *arguments)
        assert 'each needs a name of its own, got dk, dk' in message


class TestReceptiveFieldScale:
    def arguments(self, files, *names):
        return (*models(files, *names), '--layer', 'backbone.layer2', '--probes', 1)

    def test_side_by_side(self, run, files):
        numbers = run('receptive_field_scale', *self.arguments(files, 'plain', 'dk'))
        for each in numbers.values():
            assert len(each['objects']) == tiny_detector.OBJECTS
            assert -1 <= each['rank_correlation']['area_50']['coefficient'] <= 1
        plain, dk = ([field['scale'] for field in each['objects']] for each in numbers.values())
        assert plain == dk

    @pytest.mark.slow
    def test_seeded(self, run, files):
        arguments = (*self.arguments(files, 'dk'), '--objects', 3)
        assert run('receptive_field_scale', *arguments) == run('receptive_field_scale', *arguments)

    def test_too_few(self, fails, files):
        message = fails('receptive_field_scale', *self.arguments(files, 'dk'), '--objects', 2)
        assert 'at least 3 objects, got 2' in message
