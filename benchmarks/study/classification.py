"""One training of a classifier of single digits, tested under deformations it has never seen.

Images are 32 x 32 pixels with one warped digit and noise. The strength of a deformation scales all
of its ranges: 1 is what training has, 0 none, and at 2 digits turn, slant and stretch up to twice
as far. Scans are split as in the detection set: those tested are never trained on.

    python -m benchmarks.study.classification R18-DW DK 0

prints the result as JSON.
"""

import json
import sys
import tempfile

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.runner import Runner
from sklearn.datasets import load_digits
from sklearn.utils import Bunch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from benchmarks.study.evaluation import evaluate
from benchmarks.study.networks import NETWORKS
from benchmarks.study.variants import VARIANTS, Variant, offset_learning, swap
from mmdk.detection.digits import (
    BACKGROUND,
    CLASSES,
    DigitsOptions,
    render_digit,
    split_scans,
    warp_matrix,
)

SIZE = 32  # pixels
SCALE = 2.3  # pixels per cell of a scan
# At strength 1, up to: a ratio of sizes, a ratio of axes, degrees, pixels per pixel.
DEFORMATION = dict(size=1.4, aspect=1.5, rotation=40.0, shear=0.4)
NOISE = 20.0  # grey levels
STRENGTHS = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0)

# What tells a training from others; `revision` grows when something else of it changes.
COMMON = dict(
    train_images=4041,
    test_images=900,
    scale=SCALE,
    deformation=DEFORMATION,
    noise=NOISE,
    batch_size=64,
    lr=2e-3,
    decay=0.05,
    revision=1,
)
# By network: MobileNetV2, deeper and narrower, learns next to nothing in its first epochs.
SETTINGS = {'R18-DW': COMMON | dict(epochs=8), 'MobileNetV2': COMMON | dict(epochs=16)}


def main() -> None:
    network, variant, seed = sys.argv[1:]
    torch.set_num_threads(1)
    print(json.dumps(train_and_test(network, VARIANTS[variant], int(seed))))


def train_and_test(network: str, variant: Variant, seed: int) -> dict:
    with tempfile.TemporaryDirectory() as work_dir:
        runner = prepare(network, variant, seed, work_dir)
        runner.train()
    source = load_digits()
    _, test_scans = split_scans(source.target, DigitsOptions())
    accuracy = {}
    for index, strength in enumerate(STRENGTHS, start=1):
        test_set = draw_set(source, test_scans, strength, COMMON['test_images'], seed=index)
        accuracy[strength] = evaluate(runner.model, loader(test_set), Accuracy())['accuracy']
    return {'accuracy': accuracy}


def prepare(network: str, variant: Variant, seed: int, work_dir: str) -> Runner:
    """A runner about to train."""
    source = load_digits()
    train_scans, _ = split_scans(source.target, DigitsOptions())
    torch.manual_seed(seed)
    model = Classifier(network, variant)
    train_set = draw_set(source, train_scans, 1.0, COMMON['train_images'], seed=0)
    return make_runner(model, train_set, variant, SETTINGS[network]['epochs'], seed, work_dir)


def loader(dataset: TensorDataset, **options) -> dict:
    """MMEngine's config of a data loader."""
    return dict(
        dataset=dataset,
        batch_size=COMMON['batch_size'],
        sampler=dict(type='DefaultSampler', shuffle=False),
        collate_fn=dict(type='default_collate'),
        **options,
    )


class Classifier(BaseModel):
    """A network, the mean over its positions, and a linear layer."""

    def __init__(self, network: str, variant: Variant):
        super().__init__()
        make, wider, stages = NETWORKS[network]
        self.network = make(wider if variant.wider else 1.0)
        self.classify = nn.Linear(self.network.channels, len(CLASSES))
        # Once, here: a runner initialises what has not been yet, and would spare the lifted layers.
        self.init_weights()
        swap(self.network, variant, [stages[stage] for stage in variant.stages])

    def forward(self, images: Tensor, labels: Tensor, mode: str) -> Tensor | dict[str, Tensor]:
        x = images.contiguous(memory_format=torch.channels_last)
        scores = self.classify(self.network(x).mean((2, 3)))
        return dict(loss=F.cross_entropy(scores, labels)) if mode == 'loss' else scores


class Accuracy(BaseMetric):
    """The share of digits whose class has the highest score."""

    def process(self, data_batch: list[Tensor], data_samples: list[Tensor]) -> None:
        _, labels = data_batch
        self.results += [
            score.argmax().item() == label.item()
            for score, label in zip(data_samples, labels, strict=True)
        ]

    def compute_metrics(self, results: list[bool]) -> dict[str, float]:
        return dict(accuracy=float(np.mean(results)))


def make_runner(
    model: Classifier,
    train_set: TensorDataset,
    variant: Variant,
    epochs: int,
    seed: int,
    work_dir: str,
) -> Runner:
    return Runner(
        model,
        work_dir,
        train_dataloader=loader(train_set, drop_last=True)
        | dict(sampler=dict(type='DefaultSampler', shuffle=True)),
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        optim_wrapper=dict(
            optimizer=dict(type='AdamW', lr=COMMON['lr'], weight_decay=COMMON['decay']),
            paramwise_cfg=offset_learning(variant),
        ),
        # Both scale what each parameter group starts from; OneCycleLR gives all groups one rate.
        param_scheduler=[
            dict(type='LinearLR', start_factor=0.01, end=1, convert_to_iter_based=True),
            dict(type='CosineAnnealingLR', begin=1, end=epochs, convert_to_iter_based=True),
        ],
        randomness=dict(seed=seed),
        default_hooks=dict(checkpoint=None),
        default_scope='mmengine',
        log_level='WARNING',
        experiment_name=f'{variant}-{seed}',
    )


def draw_set(
    source: Bunch, scans: np.ndarray, strength: float, images: int, seed: int
) -> TensorDataset:
    """Warped digits, each scan about as often as any other: (images, 1, H, W) and classes."""
    rng = np.random.default_rng(seed)
    pixels = np.empty((images, 1, SIZE, SIZE), np.float32)
    chosen = np.resize(scans, images)
    for image, scan in zip(pixels, chosen, strict=True):
        ink = render_digit(source.images[scan], draw_warp(rng, strength), SIZE)
        noise = rng.normal(scale=NOISE, size=(SIZE, SIZE))
        image[0] = (BACKGROUND + ink + noise - 100) / 60
    return TensorDataset(torch.from_numpy(pixels), torch.from_numpy(source.target[chosen]))


def draw_warp(rng: np.random.Generator, strength: float) -> np.ndarray:
    size, aspect, rotation, shear = rng.uniform(-strength, strength, 4)
    return warp_matrix(
        scale=SCALE * DEFORMATION['size'] ** size,
        aspect=DEFORMATION['aspect'] ** aspect,
        rotation=DEFORMATION['rotation'] * rotation,
        shear=DEFORMATION['shear'] * shear,
    )


if __name__ == '__main__':
    main()
