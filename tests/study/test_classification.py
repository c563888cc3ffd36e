"""Classifiers, and the digits that they see."""

import dataclasses

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from sklearn.datasets import load_digits
from torch.utils.data import TensorDataset

from benchmarks.study import classification
from benchmarks.study.classification import Classifier, draw_set
from benchmarks.study.networks import NETWORKS
from benchmarks.study.variants import COMPARED, VARIANTS
from mmdk.detection.digits import render_digit
from mmdk.layers.conv_base import ConvBase


@pytest.mark.parametrize('network', NETWORKS)
@pytest.mark.parametrize('variant', [name for name in COMPARED if name != 'plain, wider'])
def test_variants_of_a_seed_first_compute_the_same(network, variant, tmp_path):
    """With the weights that a training begins with, which a runner may have initialised anew."""
    plain, swapped = [], []
    images = torch.randn(8, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    for outputs, name in ((plain, 'plain'), (swapped, variant)):
        runner = classification.prepare(network, VARIANTS[name], 3, str(tmp_path))
        runner._init_model_weights()
        # In evaluation, untrained normalisation lets next to nothing through to the scores.
        outputs.append(runner.model.train()(images, None, 'tensor'))
    layers = sum(isinstance(part, ConvBase) for part in runner.model.modules())
    assert layers == (0 if variant == 'plain' else {'R18-DW': 12, 'MobileNetV2': 14}[network])
    assert plain[0].std() > 0.05
    torch.testing.assert_close(swapped[0], plain[0], rtol=1e-3, atol=1e-3)


# Of what trains with each revision of the settings: raise the revision with whatever changes this.


def test_offsets_learn_slower_all_the_way(tmp_path):
    """Some schedulers, OneCycleLR among them, give all parameter groups one learning rate."""
    variant = dataclasses.replace(VARIANTS['DK'], stages=(4,), offset_lr=0.25)
    model = Classifier('R18-DW', variant)
    images = TensorDataset(torch.randn(192, 1, 32, 32), torch.zeros(192, dtype=torch.long))
    runner = classification.make_runner(model, images, variant, 2, 0, str(tmp_path))
    rates = LearningRates(model)
    runner.register_hook(rates)
    runner.train()
    assert len(rates.of_weights) == 6 and len(set(rates.of_weights)) > 1
    assert rates.of_offsets == pytest.approx([rate / 4 for rate in rates.of_weights])


class LearningRates(Hook):
    """Of a layer's offsets and of its weight, iteration by iteration."""

    def __init__(self, model):
        layer = next(part for part in model.modules() if isinstance(part, ConvBase))
        self.parameters = (layer.conv_offset.weight, layer.weight)
        self.of_offsets, self.of_weights = [], []

    def after_train_iter(self, runner, *args, **kwargs):
        groups = runner.optim_wrapper.param_groups
        for parameter, rates in zip(
            self.parameters, (self.of_offsets, self.of_weights), strict=True
        ):
            (group,) = (each for each in groups if each['params'][0] is parameter)
            rates.append(group['lr'])


def test_tested_scans_are_other_images_at_every_strength():
    source = load_digits()
    members = torch.arange(10).numpy()
    weak, strong = (draw_set(source, members, strength, 20, seed=1) for strength in (0.0, 3.0))
    assert weak.tensors[0].shape == (20, 1, 32, 32)
    assert torch.equal(weak.tensors[1], strong.tensors[1])
    assert not torch.equal(weak.tensors[0], strong.tensors[0])


@pytest.mark.parametrize('strength, share', [(1.0, 0.0), (1.5, 0.04), (2.0, 0.14), (3.0, 0.3)])
def test_digits_that_leave_the_image_are_as_many_as_the_page_says(strength, share):
    source = load_digits()
    rng = np.random.default_rng(0)
    inside = []
    for scan in source.images[:900]:
        warp = classification.draw_warp(rng, strength)
        ink, all_ink = (render_digit(scan, warp, size).sum() for size in (32, 96))
        inside.append(ink / all_ink)
    assert np.mean(np.array(inside) < 0.95) == pytest.approx(share, abs=0.03)
