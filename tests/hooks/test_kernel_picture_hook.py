"""KernelPictureHook in runs of a tiny model."""

from pathlib import Path

import mmcv
import numpy as np
import pytest
import torch
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.hooks import EMAHook
from mmengine.model import BaseModel, ImgDataPreprocessor
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from PIL import Image
from torch import nn

from mmdk.analysis import kernel_pictures
from mmdk.hooks import KernelPictureHook
from mmdk.layers import DeformConv2d, DeformKernel2d

ALL = ['kernel_offsets', 'offset_histograms', 'sampled_kernels']


class Model(BaseModel):
    def __init__(self, layer=DeformKernel2d):
        super().__init__(ImgDataPreprocessor(mean=[0] * 3, std=[255] * 3, pad_size_divisor=16))
        self.layer = layer(3, 3, 3, padding=1)
        self.modes = []

    def forward(self, inputs, data_samples=None, mode='tensor'):
        self.modes.append((mode, self.training))
        y = self.layer(inputs)
        return dict(loss=y.square().mean()) if mode == 'loss' else list(y)


class Data(torch.utils.data.Dataset):
    """Two grey images of 12 x 20 pixels, the second one lighter."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return self.packed(np.full((12, 20, 3), 80 * (index + 1), np.uint8))

    def pipeline(self, results):
        assert results['img_id'] == 0
        return self.packed(mmcv.imread(results['img_path']))

    def packed(self, pixels):
        sample = BaseDataElement(metainfo=dict(scale_factor=(1.0, 1.0)))
        return dict(inputs=torch.from_numpy(pixels).permute(2, 0, 1), data_samples=sample)


class Metric(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        return dict(images=len(results))


def runner(work_dir, model=None, train_cfg=None, others=(), val=True, **hook):
    loader = dict(dataset=Data(), batch_size=1, sampler=dict(type='DefaultSampler', shuffle=False))
    validation = (
        dict(val_dataloader=loader, val_cfg=dict(), val_evaluator=Evaluator([Metric()]))
        if val
        else {}
    )
    return Runner(
        model=model or Model(),
        work_dir=str(work_dir),
        train_dataloader=loader,
        train_cfg=train_cfg or dict(by_epoch=True, max_epochs=2),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=1e-3)),
        custom_hooks=[dict(type='KernelPictureHook', **hook), *others],
        experiment_name=work_dir.name,
        **validation,
    )


def drawn(runner):
    return sorted(path.stem for path in Path(runner.log_dir).glob('vis_data/vis_image/*.png'))


def steps(*numbers):
    return sorted(f'{name}_{number}' for name in ALL for number in numbers)


def test_after_each_validation(tmp_path):
    run = runner(tmp_path)
    run.train()
    assert drawn(run) == steps(1, 2)
    for path in Path(run.log_dir).glob('vis_data/vis_image/*.png'):
        assert mmcv.imread(path).std() > 5
    assert run.model.modes[-1] == ('predict', False)
    assert not run.model.layer._forward_hooks


def test_every_second_validation(tmp_path):
    run = runner(tmp_path, interval=2)
    run.train()
    assert drawn(run) == steps(2)


def test_iterations_where_training_counts_them(tmp_path):
    run = runner(tmp_path, train_cfg=dict(by_epoch=False, max_iters=2, val_interval=2))
    run.train()
    assert drawn(run) == steps(2)


def test_validation_alone(tmp_path):
    run = runner(tmp_path)
    run.val()
    assert drawn(run) == steps(0)


def test_layers_without_kernel_offsets_have_histograms(tmp_path):
    run = runner(tmp_path, Model(DeformConv2d), dict(by_epoch=True, max_epochs=1))
    run.train()
    assert drawn(run) == ['offset_histograms_1']


@pytest.mark.parametrize('image, at, mark', [('red.png', [(9, 29)], [29, 9]), (1, None, [10, 6])])
def test_image_and_points_are_those_asked_for(tmp_path, image, at, mark):
    Image.fromarray(np.full((10, 30, 3), (255, 0, 0), np.uint8)).save(tmp_path / 'red.png')
    image = tmp_path / image if isinstance(image, str) else image
    data = KernelPictureHook(image, at)._data(runner(tmp_path))
    figure = kernel_pictures(Model().eval(), data, at)['kernel_offsets']
    (axis,) = (axis for axis in figure.axes if len(axis.images) == 2)
    seen = axis.images[0].get_array()
    if at:
        assert seen.shape == (16, 32) and (seen[:10, :30] == 85).all(), 'the red of 255, in grey'
    else:
        assert seen.shape == (16, 32) and (seen[:12, :20] == 160).all()
    assert axis.lines[0].get_xydata().tolist() == [mark]


@pytest.mark.parametrize('priority', ['NORMAL', 49])
def test_draws_the_weights_that_were_validated(tmp_path, priority):
    """MMDetection's recipes give EMAHook priority 49."""
    run = runner(tmp_path, others=[dict(type='EMAHook', priority=priority)])
    kinds = [type(hook) for hook in run.hooks]
    assert kinds.index(KernelPictureHook) < kinds.index(EMAHook)


@pytest.mark.parametrize(
    'hook, error, message',
    [
        (dict(image=2), ValueError, 'image=2 is not in the validation set of 2 images'),
        (dict(image='none.jpg'), FileNotFoundError, "there is no image 'none.jpg'"),
        (dict(at=[(12, 0)]), ValueError, 'outside the image, which is 12 pixels high'),
    ],
)
def test_what_does_not_fit_is_told_before_training(tmp_path, hook, error, message):
    run = runner(tmp_path, **hook)
    with pytest.raises(error, match=message):
        run.train()
    assert run.model.modes == []


def test_files_need_a_pipeline(tmp_path, monkeypatch):
    monkeypatch.delattr(Data, 'pipeline')
    Image.new('RGB', (20, 12)).save(tmp_path / 'image.png')
    with pytest.raises(ValueError, match='a Data as the validation set has no pipeline'):
        runner(tmp_path, image=tmp_path / 'image.png').train()


def test_models_without_offsets(tmp_path):
    run = runner(tmp_path, Model(nn.Conv2d))
    with pytest.raises(ValueError, match='the model has no layer with offsets'):
        run.train()


def test_training_without_validation(tmp_path):
    with pytest.raises(ValueError, match='after validation, and this run has none'):
        runner(tmp_path, val=False).train()


@pytest.mark.parametrize(
    'cfg, message',
    [
        (dict(interval=0), 'interval must be an int of at least 1, got 0'),
        (dict(image=None), 'image must be a path or an index, got None'),
        (dict(image=True), 'image must be a path or an index, got True'),
        (dict(at=[]), 'at is empty'),
        (dict(at=(3, 4)), r'at must hold points \(y, x\) in pixels, got 3'),
        (dict(at=[(3, 4, 5)]), r'at must hold points \(y, x\) in pixels, got \(3, 4, 5\)'),
        (dict(at=[('3', 4)]), 'at must hold points'),
    ],
)
def test_bad_arguments(cfg, message):
    with pytest.raises(ValueError, match=message):
        KernelPictureHook(**cfg)
