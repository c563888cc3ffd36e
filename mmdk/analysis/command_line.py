"""What the commands in tools/analysis_tools share."""

import argparse
import contextlib
import importlib.util
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import mmcv
import numpy as np
import torch
from matplotlib.figure import Figure
from mmengine.model import BaseModel
from mmengine.runner import CheckpointLoader, load_checkpoint
from mmengine.visualization import Visualizer

from mmdk.analysis.figures import add_figure
from mmdk.analysis.receptive_field import PROBES

__all__ = [
    'add_model_arguments',
    'add_output_arguments',
    'add_picture_arguments',
    'check_output',
    'errors_for_people',
    'load_detector',
    'load_detectors',
    'of_model',
    'positive',
    'read_image',
    'save',
]

DPI = 150


def add_output_arguments(parser: argparse.ArgumentParser, picture: str) -> None:
    """Adds `--out`, `--tensorboard` and `--device`."""
    parser.add_argument('--device', default='cpu', help='[%(default)s]')
    add_picture_arguments(parser, picture)


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds `--model`, which :func:`load_detectors` reads, and which units of them are meant."""
    parser.add_argument(
        '--model',
        action='append',
        nargs=3,
        required=True,
        metavar=('NAME', 'CONFIG', 'CHECKPOINT'),
        help='may be given several times',
    )
    parser.add_argument('--layer', default='backbone.layer4', help='[%(default)s]')
    parser.add_argument(
        '--call', type=int, default=0, help='which call of the layer, in heads: which level [0]'
    )
    parser.add_argument(
        '--probes',
        type=positive,
        default=PROBES,
        help='gradients a unit; exact from the number of channels on; with fewer, areas come out a '
        'little too small [%(default)s]',
    )


def add_picture_arguments(parser: argparse.ArgumentParser, picture: str) -> None:
    """Adds `--out` and `--tensorboard`, which :func:`save` reads."""
    parser.add_argument(
        '--out',
        type=_png,
        default=Path(picture),
        metavar='PNG',
        help='the picture; the numbers in it are written beside it, as .json [%(default)s]',
    )
    parser.add_argument(
        '--tensorboard', type=Path, metavar='FOLDER', help='add the picture to this log as well'
    )


def positive(text: str) -> int:
    """For `type` of an argument."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'must be at least 1, got {text}')
    return int(text)


def _png(text: str) -> Path:
    path = Path(text)
    if path.suffix.lower() != '.png':
        raise argparse.ArgumentTypeError(f'{text!r} does not end in .png')
    return path


@contextlib.contextmanager
def errors_for_people(command: str) -> Iterator[None]:
    """Ends the program with a message where files, names or numbers given to it are wrong."""
    try:
        yield
    except (OSError, ValueError) as error:
        sys.exit(f'{command}: {error}')


def load_detector(config: str, checkpoint: str, device: str) -> BaseModel:
    """A detector in evaluation mode, with all of its weights.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The checkpoint is none, or another model's; the config names what there is not,
            or an option that it does not have; there is no such device.
    """
    # Commands that need no detector work without MMDetection.
    from mmdet.apis import init_detector

    try:
        torch.empty(0, device=device)
    except (AssertionError, RuntimeError) as error:  # PyTorch without CUDA asserts that it has it
        raise ValueError(f'--device {device} cannot be used: {error}') from error
    try:
        CheckpointLoader.load_checkpoint(checkpoint, 'cpu')
    except OSError:
        raise
    except Exception as error:  # what unpickling raises, depends on the file
        raise ValueError(f'{checkpoint} is no checkpoint: {error}') from error
    try:
        detector = init_detector(config, checkpoint, device=device)
    except (KeyError, TypeError) as error:  # of a registry, of a constructor
        raise ValueError(f'{config}: {error.args[0]}') from error
    try:
        # What init_detector does not find, it leaves as it is, and only logs it.
        load_checkpoint(detector, checkpoint, map_location='cpu', strict=True, logger='silent')
    except RuntimeError as error:
        raise ValueError(f'{checkpoint} does not fit {config}: {error}') from error
    return detector


def load_detectors(args: argparse.Namespace) -> dict[str, BaseModel]:
    """Those of `--model`, by name.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Two have one name; or as :func:`load_detector`.
    """
    names = [name for name, _, _ in args.model]
    if len(set(names)) < len(names):
        raise ValueError(f'--model: each needs a name of its own, got {", ".join(names)}.')
    return {name: load_detector(*files, args.device) for name, *files in args.model}


@contextlib.contextmanager
def of_model(name: str) -> Iterator[None]:
    """Says of what is wrong with one of several models which one it is."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f'--model {name}: {error}') from error


def read_image(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 BGR.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no image.
    """
    image = mmcv.imread(path)
    if image is None:
        raise ValueError(f'{path} is no image that OpenCV reads.')
    return image


def check_output(args: argparse.Namespace, inputs: Sequence[Path] = ()) -> None:
    """Checks, before anything takes time, that :func:`save` will be able to do its work.

    Args:
        args: Of :func:`add_picture_arguments`.
        inputs: Files that are to be read.

    Raises:
        ValueError: The picture would be written over an input, or the numbers over a file that
            belongs to no picture; or there is no TensorBoard.
    """
    out, beside = args.out, _numbers_file(args.out)
    if out.exists() and any(path.exists() and out.samefile(path) for path in inputs):
        raise ValueError(f'--out {out} is an image to be read; name another file.')
    if beside.exists() and not out.exists():
        raise ValueError(
            f'--out {out} would write its numbers over {beside}, which belongs to no picture; name '
            'another file.'
        )
    if args.tensorboard and not importlib.util.find_spec('tensorboard'):
        raise ValueError('--tensorboard needs TensorBoard: pip install tensorboard')


def _numbers_file(picture: Path) -> Path:
    return picture.with_suffix('.json')


def save(args: argparse.Namespace, figure: Figure, numbers: object) -> None:
    """Writes the picture and the numbers in it, and says where they are."""
    args.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out, dpi=DPI)
    beside = _numbers_file(args.out)
    beside.write_text(json.dumps(numbers, indent=1) + '\n')
    print(f'{args.out} and {beside.name} are written.')
    if args.tensorboard:
        visualizer = Visualizer(
            name=str(args.tensorboard),
            vis_backends=[dict(type='TensorboardVisBackend')],
            save_dir=str(args.tensorboard),
        )
        add_figure(visualizer, args.out.stem, figure)
        visualizer.close()
        print(f'The picture is in {args.tensorboard}/vis_data for TensorBoard.')
