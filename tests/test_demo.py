import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from mmdet.registry import DATASETS, MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from PIL import Image
from torch import nn

from mmdk.detection.digits import DigitsOptions, make_digits
from mmdk.layers import DeformKernel2d

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / 'tools/demo.py'
CONFIGS = sorted((ROOT / 'configs/dk').glob('*_digits.py'))


def load_demo():
    spec = importlib.util.spec_from_file_location('demo', SCRIPT)
    demo = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(demo)
    return demo


demo = load_demo()


def build_model(path):
    init_default_scope('mmdet')
    model = MODELS.build(Config.fromfile(path).model)
    model.init_weights()
    return model


class TestConfigs:
    @pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
    def test_model_builds_without_downloading(self, path, monkeypatch):
        monkeypatch.setattr('mmengine.runner.checkpoint.load_from_http', pytest.fail)
        assert build_model(path).bbox_head.num_classes == 10

    def test_demo_replaces_two_stages_and_the_tower(self):
        names = [
            name
            for name, module in build_model(demo.CONFIG).named_modules()
            if isinstance(module, DeformKernel2d)
        ]
        expected = [
            *(f'backbone.layer3.{block}.conv2' for block in range(6)),
            *(f'backbone.layer4.{block}.conv2' for block in range(3)),
            *(
                f'bbox_head.{branch}_convs.{conv}.conv'
                for branch in ('cls', 'reg')
                for conv in range(2)
            ),
        ]
        assert names == expected

    def test_plain_twin_differs_in_those_layers_alone(self):
        (twin,) = (path for path in CONFIGS if path != demo.CONFIG)
        plain, dk = (
            {
                name: type(module)
                for name, module in build_model(path).named_modules()
                if 'conv_offset' not in name
            }
            for path in (twin, demo.CONFIG)
        )
        assert plain.keys() == dk.keys()
        assert {(plain[name], dk[name]) for name in plain if plain[name] != dk[name]} == {
            (nn.Conv2d, DeformKernel2d)
        }

    def test_offsets_learn_slower(self):
        from mmengine.optim import build_optim_wrapper

        cfg = Config.fromfile(demo.CONFIG)
        model = build_model(demo.CONFIG)
        optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
        rates = {id(group['params'][0]): group['lr'] for group in optimizer.param_groups}
        multiplier = cfg.optim_wrapper.paramwise_cfg.custom_keys.conv_offset.lr_mult
        assert multiplier < 1
        for name, parameter in model.named_parameters():
            slowed = multiplier if 'conv_offset' in name else 1
            assert rates[id(parameter)] == pytest.approx(cfg.optim_wrapper.optimizer.lr * slowed)

    def test_data_set_builds(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        make_digits('data/digits', DigitsOptions(train_images=3, val_images=2))
        init_default_scope('mmdet')
        dataset = DATASETS.build(Config.fromfile(demo.CONFIG).test_dataloader.dataset)
        assert len(dataset) == 2
        assert dataset[0]['inputs'].shape == (3, 128, 128)
        assert len(dataset[0]['data_samples'].gt_instances) > 0


class TestSteps:
    @pytest.fixture
    def calls(self, monkeypatch):
        """What would be run instead of running it."""
        calls = []
        monkeypatch.setattr(demo, 'run_mmdet', lambda *args: calls.append(args))
        return calls

    def half_trained(self, folder, text='model = dict(depth=50)'):
        """A work dir as mmengine leaves it after two of three epochs, moved since."""
        folder.mkdir(exist_ok=True)
        (folder / 'mine.py').write_text(text)
        (folder / 'last_checkpoint').write_text('/moved/since/epoch_2.pth')
        return folder

    def train(self, folder, epochs, depth=50):
        cfg = Config(dict(model=dict(depth=depth), train_cfg=dict(max_epochs=epochs)))
        return demo.train(Path('mine.py'), cfg, folder)

    def test_training_under_another_name_is_refused(self, tmp_path):
        self.half_trained(tmp_path)
        (tmp_path / 'mine.py').rename(tmp_path / 'other.py')
        with pytest.raises(FileExistsError, match='another config than mine.py is now'):
            self.train(tmp_path, epochs=3)

    def test_training_of_an_edited_config_is_refused(self, tmp_path):
        with pytest.raises(FileExistsError, match='another config than mine.py is now'):
            self.train(self.half_trained(tmp_path), epochs=3, depth=101)

    def test_finished_training_is_not_repeated(self, tmp_path, calls):
        assert self.train(self.half_trained(tmp_path), epochs=2) == tmp_path / 'epoch_2.pth'
        assert not calls

    def test_unfinished_training_goes_on(self, tmp_path, calls):
        self.train(self.half_trained(tmp_path), epochs=3)
        last = tmp_path / 'epoch_2.pth'
        assert calls == [('train.py', Path('mine.py'), '--work-dir', tmp_path, '--resume', last)]

    def test_failing_tool_ends_the_demo_with_its_name(self, tmp_path):
        broken = tmp_path / 'broken.py'
        broken.write_text(f"_base_ = '{demo.CONFIG}'\nmodel = dict(type='NoSuchDetector')\n")
        ran = run_demo(broken, tmp_path)
        assert ran.returncode != 0
        assert 'demo: train.py failed with exit status 1' in ran.stderr

    def test_config_without_digits_is_told_what_it_lacks(self, tmp_path):
        config = tmp_path / 'coco.py'
        config.write_text("data_root = 'data/coco/'\n")
        ran = run_demo(config, tmp_path)
        assert ran.returncode == 1 and ran.stderr.count('\n') == 1
        assert 'demo: ' in ran.stderr and 'coco.py has no `digits`' in ran.stderr


def run_demo(config, cwd, *options):
    return subprocess.run(
        [sys.executable, SCRIPT, '--config', config, *options],
        cwd=cwd,
        capture_output=True,
        text=True,
    )


def tiny_config(folder, epochs):
    config = folder / 'tiny.py'
    # The score threshold lets boxes of a hardly trained detector through to the table.
    config.write_text(f"""
_base_ = '{demo.CONFIG}'
model = dict(test_cfg=dict(score_thr=0.0))
train_cfg = dict(max_epochs={epochs}, val_interval=1)
train_dataloader = dict(dataset=dict(indices=16))
val_dataloader = dict(dataset=dict(indices=8))
test_dataloader = dict(dataset=dict(indices=8))
default_hooks = dict(logger=dict(interval=1))
""")
    return config


@pytest.mark.slow
def test_from_nothing_to_pictures_then_again_then_further(tmp_path):
    results = tmp_path / 'work_dirs/demo'

    ran = run_demo(tiny_config(tmp_path, epochs=1), tmp_path)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert 'Average Precision' in ran.stdout
    assert 0 <= json.loads((results / 'metrics.json').read_text())['coco/bbox_mAP'] <= 1
    for name in 'detections', 'training_curve', 'kernel_offsets':
        assert np.asarray(Image.open(results / f'{name}.png').convert('L')).std() > 5
        assert f'{name}.png' in ran.stdout

    kept = (results / 'epoch_1.pth', results / 'metrics.json')
    before = [path.stat().st_mtime_ns for path in kept]
    ran = run_demo(tiny_config(tmp_path, epochs=1), tmp_path)
    assert ran.stdout.count('It is done already') == 2
    assert before == [path.stat().st_mtime_ns for path in kept]

    ran = run_demo(tiny_config(tmp_path, epochs=2), tmp_path)
    assert 'resumed epoch: 1' in ran.stdout
    assert (results / 'epoch_2.pth').exists()


@pytest.mark.slow
def test_weights_by_name_need_no_training(tmp_path):
    name = 'retinanet_r50-dw-w16-dk-c3-c5-head_fpn_1e_digits'
    config = tmp_path / f'{name}.py'
    config.write_text(f"""
_base_ = '{ROOT}/configs/digits/{name}.py'
digits = dict(train_images=1, val_images=12)
""")
    ran = run_demo(config, tmp_path, '--weights', f'mmdk://{name}')
    assert ran.returncode == 0, ran.stdout + ran.stderr
    results = tmp_path / 'work_dirs' / name
    assert json.loads((results / 'metrics.json').read_text())['coco/bbox_mAP_50'] > 0.6
    pictures = {path.name for path in results.glob('*.png')}
    assert pictures == {'detections.png', 'kernel_offsets.png'}
    assert all(picture in ran.stdout for picture in pictures)
