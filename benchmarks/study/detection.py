"""One training of the study's detector, tested on deformations as in training and stronger.

    python -m benchmarks.study.detection R50-DW DK 0

prints the result as JSON, and keeps the weights in work_dirs/study if the seed is 0.
"""

import copy
import dataclasses
import json
import sys
import tempfile
from pathlib import Path

import torch
from mmengine.config import Config, ConfigDict
from mmengine.runner import Runner

from benchmarks.study.evaluation import evaluate
from benchmarks.study.variants import VARIANTS, Variant, offset_learning, swap
from mmdk.detection.digits import DigitsOptions, make_digits

ROOT = Path(__file__).parents[2]
CONFIG = Config.fromfile(ROOT / 'configs/digits/retinanet_r50-dw-w16_fpn_1e_digits.py')
WEIGHTS = Path('work_dirs/study')
KEPT_SEED = 0  # the one whose weights are kept

DIGITS = DigitsOptions(**CONFIG.digits)
# Smaller at most than in training: stretched digits have to fit into the image. The seed is that of
# training, because it splits the scans: another one would test on digits that were trained on.
HARDER = dataclasses.replace(
    DIGITS, train_images=1, scale=(2.0, 4.0), rotation=60.0, aspect=1.6, shear=0.6
)
SETS = {'as trained': DIGITS, 'harder': HARDER}
FOLDERS = {'as trained': Path(CONFIG.data_root), 'harder': Path('data/digits-96-harder')}

BACKBONES = {'R50': 'ResNet', 'R50-DW': 'ResNetDW'}
WIDER = 1.25  # the width of all its parts at which either costs about as many FLOPs as with DK
# What tells a training from others; `revision` grows when something else of it changes.
SETTINGS = dict.fromkeys(
    BACKBONES,
    dict(
        epochs=CONFIG.max_epochs,
        sets={name: dataclasses.asdict(digits) for name, digits in SETS.items()},
        revision=2,
    ),
)
METRICS = ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m')


def main() -> None:
    network, variant, seed = sys.argv[1:]
    torch.set_num_threads(1)
    weights = WEIGHTS / f'{network}, {variant}.pth' if int(seed) == KEPT_SEED else None
    print(json.dumps(train_and_test(network, VARIANTS[variant], int(seed), weights)))


def train_and_test(network: str, variant: Variant, seed: int, weights: Path | None = None) -> dict:
    """AP on every set.

    Args:
        network: A key of `BACKBONES`.
        variant: What its convolutions become.
        seed: Of initial weights and of the order of images.
        weights: File for the trained weights, in half precision.
    """
    with tempfile.TemporaryDirectory() as work_dir:
        runner = prepare(network, variant, seed, work_dir)
        runner.train()
        if weights:
            save_weights(runner, weights)
        return {'AP': {name: precisions(runner, folder) for name, folder in FOLDERS.items()}}


def prepare(network: str, variant: Variant, seed: int, work_dir: str) -> Runner:
    """A runner about to train; its data are made if they are not there."""
    for name, digits in SETS.items():
        make_digits(FOLDERS[name], digits)
    runner = Runner.from_cfg(make_config(network, variant, seed, work_dir))
    runner.model.init_weights()
    swap(runner.model, variant, replaced(variant))
    runner.model.to(memory_format=torch.channels_last)  # with `fused` below: a sixth less time
    return runner


def replaced(variant: Variant) -> list[str]:
    """Which convolutions: the backbone's 3 x 3, and those of the head that lead to its outputs."""
    stages = ''.join(map(str, variant.stages))
    head = [r'bbox_head\.(cls|reg)_convs\.\d\.conv'] if variant.head else []
    return [rf'backbone\.layer[{stages}].*conv2', *head]


def make_config(network: str, variant: Variant, seed: int, work_dir: str) -> Config:
    config = copy.deepcopy(CONFIG)
    config.work_dir = work_dir
    config.model.backbone.type = BACKBONES[network]
    if variant.wider:
        widen(config.model)
    for loader in (config.train_dataloader, config.test_dataloader):
        loader.update(num_workers=0, persistent_workers=False)  # one thread, as all of a training
    config.optim_wrapper.paramwise_cfg.update(offset_learning(variant))
    config.optim_wrapper.optimizer.fused = True
    config.val_cfg = config.val_dataloader = config.val_evaluator = None
    config.randomness = dict(seed=seed)
    config.default_hooks.checkpoint = None
    config.log_level = 'WARNING'
    return config


def widen(model: ConfigDict) -> None:
    neck, head = model.neck, model.bbox_head
    model.backbone.base_channels = int(model.backbone.base_channels * WIDER)
    neck.in_channels = [int(channels * WIDER) for channels in neck.in_channels]
    neck.out_channels = head.in_channels = head.feat_channels = int(neck.out_channels * WIDER)


def save_weights(runner: Runner, path: Path) -> None:
    """A checkpoint without optimizer, as MMEngine's loaders want it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {
        name: value.half() if value.is_floating_point() else value
        for name, value in runner.model.state_dict().items()
    }
    meta = {'dataset_meta': runner.train_dataloader.dataset.metainfo}
    torch.save({'state_dict': state, 'meta': meta}, path)


def precisions(runner: Runner, folder: Path) -> dict[str, float]:
    loader = copy.deepcopy(runner.cfg.test_dataloader)
    loader.dataset.data_root = f'{folder}/'
    metric = dict(runner.cfg.test_evaluator, ann_file=f'{folder}/annotations/val.json')
    metrics = evaluate(runner.model, loader, metric)
    # Where nothing at all is detected, CocoMetric has no metrics.
    return {name: metrics.get(f'coco/bbox_{name}', 0.0) for name in METRICS}


if __name__ == '__main__':
    main()
