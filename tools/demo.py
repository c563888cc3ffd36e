"""Trains, tests and pictures a DK detector on handwritten digits, with MMDetection's own tools.

Run it again to go on after an interruption; what is done is not done again. With --weights, which
takes the names of mmdk's own checkpoints as well, nothing is trained:

    NAME=retinanet_r50-dw-w16-dk-c3-c5-head_fpn_1e_digits
    python tools/demo.py --config configs/digits/$NAME.py --weights mmdk://$NAME
"""

import argparse
import importlib.util
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch
from mmdet.apis import init_detector
from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from torch import nn

from mmdk.analysis import (
    LayerOffsets,
    over_the_image,
    plot_detections,
    plot_kernel_offsets,
    plot_training_curve,
    read_scalars,
    record_kernel_offsets,
)
from mmdk.detection.digits import DigitsOptions, make_digits

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / 'configs/dk/retinanet_r50-w16-dk-c4-c5_fpn_dk-head_8e_digits.py'

DEFINES_TRAINING = ('model', 'train_dataloader', 'optim_wrapper')

PICTURED_IMAGES = 12
POINTS = 3  # digits of one image at which the kernel offsets are drawn


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--config', type=Path, default=CONFIG, help='config to train [%(default)s]')
    parser.add_argument(
        '--weights', metavar='CHECKPOINT', help='test and picture these instead of training'
    )
    parser.add_argument(
        '--work-dir',
        type=Path,
        help="folder of all results [work_dirs/demo; with --weights work_dirs/CONFIG'S NAME]",
    )
    args = parser.parse_args()
    if args.work_dir is None:
        args.work_dir = Path('work_dirs', args.config.stem if args.weights else 'demo')
    return args


def main() -> None:
    args = parse_args()
    start = time.perf_counter()
    try:
        results = run_demo(args.config, args.work_dir, args.weights)
    except KeyboardInterrupt:
        sys.exit('\nInterrupted. Run the same command again to go on from the last epoch.')
    except subprocess.CalledProcessError as error:
        sys.exit(
            f'demo: {Path(error.cmd[1]).name} failed with exit status {error.returncode}; '
            'its own message is above.'
        )
    except (OSError, ValueError) as error:
        sys.exit(f'demo: {error}')
    print(f'\nDone in {(time.perf_counter() - start) / 60:.1f} minutes.')
    for label, path in results:
        print(f'  {label:<11}{path}')


def run_demo(
    config: Path, work_dir: Path, weights: str | None = None
) -> list[tuple[str, Path | str]]:
    """Takes all steps; returns what lies where, as (label, path) pairs.

    Args:
        config: Of the detector.
        work_dir: Folder of all results.
        weights: A checkpoint, by its path or name; without, the detector is trained.
    """
    cfg = Config.fromfile(config)
    metrics = work_dir / 'metrics.json'
    announce(1, f'data: {cfg.data_root}')
    make_data(cfg)
    if weights:
        announce(2, 'no training')
        checkpoint, logs = weights, []
    else:
        announce(2, f"training {cfg.train_cfg.max_epochs} epochs with MMDetection's train.py")
        checkpoint = train(config, cfg, work_dir)
        logs = [('log', newest_log(work_dir))]
    announce(3, f"testing {checkpoint} with MMDetection's test.py")
    if not weights and is_newer(metrics, checkpoint):
        print('It is done already.')
    else:
        test(config, work_dir, checkpoint, metrics)
    announce(4, 'pictures')
    pictures = draw(config, work_dir, checkpoint, with_training=not weights)
    return [
        ('metrics', metrics),
        ('checkpoint', checkpoint),
        *logs,
        *(('picture', picture) for picture in pictures),
    ]


def announce(step: int, text: str) -> None:
    print(f'\n[{step}/4] {text}', flush=True)


def make_data(cfg: Config) -> None:
    if 'digits' not in cfg:
        raise ValueError(
            f'{cfg.filename} has no `digits`: the demo draws the data set itself. Inherit one of '
            'the configs named digits, or set digits=dict(...) to options of mmdk.detection.digits.'
        )
    if not make_digits(cfg.data_root, DigitsOptions(**cfg.digits)):
        print('It is there already.')


def train(config: Path, cfg: Config, work_dir: Path) -> Path:
    """Trains, or goes on with an interrupted training; returns the last checkpoint's path."""
    last = last_checkpoint(work_dir)
    if last and not is_training_of(cfg, work_dir / config.name):
        raise FileExistsError(
            f'{work_dir} holds a training of another config than {config} is now. '
            'Name another --work-dir, or move it away.'
        )
    if last and last.stem == f'epoch_{cfg.train_cfg.max_epochs}':
        print(f'It is done already. To train anew, move {work_dir} away.')
        return last
    resume = ['--resume', last] if last else []
    run_mmdet('train.py', config, '--work-dir', work_dir, *resume)
    return last_checkpoint(work_dir)


def is_training_of(cfg: Config, dumped: Path) -> bool:
    """Whether a work dir's own copy of its config describes the same training, but for its length.

    mmengine wrote the copy when the training began.
    """
    if not dumped.exists():
        return False
    trained = Config.fromfile(dumped)
    return all(trained.get(key) == cfg.get(key) for key in DEFINES_TRAINING)


def last_checkpoint(work_dir: Path) -> Path | None:
    """The checkpoint that mmengine saved last, or None."""
    # mmengine writes this note only after the checkpoint is wholly on the disk.
    note = work_dir / 'last_checkpoint'
    return work_dir / Path(note.read_text()).name if note.exists() else None


def is_newer(metrics: Path, checkpoint: Path) -> bool:
    return metrics.exists() and metrics.stat().st_mtime > checkpoint.stat().st_mtime


def test(config: Path, work_dir: Path, checkpoint: Path | str, metrics: Path) -> None:
    """Tests the checkpoint, and keeps the metrics under MMDetection's own keys."""
    test_dir = work_dir / 'test'
    run_mmdet('test.py', config, checkpoint, '--work-dir', test_dir)
    newest = max(test_dir.glob('*/*.json'), key=lambda path: path.stat().st_mtime)
    shutil.copyfile(newest, metrics)


def run_mmdet(tool: str, *args: str | Path) -> None:
    """Runs a tool that MMDetection ships, as its users do."""
    mmdet = Path(importlib.util.find_spec('mmdet').origin).parent
    subprocess.run([sys.executable, mmdet / '.mim/tools' / tool, *args], check=True)


def newest_log(work_dir: Path) -> Path:
    return max(work_dir.glob('*/*.log'), key=lambda path: path.stat().st_mtime)


def draw(config: Path, work_dir: Path, checkpoint: Path | str, with_training: bool) -> list[Path]:
    """Draws what was learnt; returns the pictures' paths."""
    model = init_detector(config, str(checkpoint), device='cpu')
    dataset = DATASETS.build(model.cfg.test_dataloader.dataset)
    images = [dataset[index] for index in range(min(PICTURED_IMAGES, len(dataset)))]
    with torch.no_grad():
        samples = model.test_step(pseudo_collate(images))
    figures = {'detections.png': plot_detections(samples, model.dataset_meta['classes'])}
    if with_training:
        figures['training_curve.png'] = plot_training_curve(*read_scalars(work_dir))
    fullest = max(images, key=lambda image: len(image['data_samples'].gt_instances))
    layers = kernel_offsets(model, fullest)
    if layers:
        boxes = fullest['data_samples'].gt_instances.bboxes
        figures['kernel_offsets.png'] = plot_kernel_offsets(
            fullest['inputs'].flip(0).permute(1, 2, 0).numpy(),  # BGR to RGB
            layers,
            [(y, x) for x, y in boxes[:POINTS].centers.tolist()],
        )
    for name, figure in figures.items():
        figure.savefig(work_dir / name, dpi=120)
    return [work_dir / name for name in figures]


def kernel_offsets(model: nn.Module, image: dict) -> list[LayerOffsets]:
    """One record for each DK layer: its first call, which has the finest resolution."""
    with torch.no_grad(), record_kernel_offsets(model) as records:
        model.test_step(pseudo_collate([image]))
    return over_the_image(records)


if __name__ == '__main__':
    main()
