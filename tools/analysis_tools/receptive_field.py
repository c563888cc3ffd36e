r"""Draws the effective receptive field of a layer's unit, detector beside detector.

For example, a plain detector and one with deformable kernels, over two photographs:

    python tools/analysis_tools/receptive_field.py a.jpg b.jpg --size 480 640 \
        --model plain plain.py plain.pth --model DK dk.py dk.pth --layer backbone.layer4

It writes a picture and, with the same name, a JSON file of the numbers in it.
"""

import argparse
from pathlib import Path

import mmcv
import numpy as np

import mmdk  # noqa: F401  (registers the layers)
from mmdk.analysis import plot_receptive_fields
from mmdk.analysis.command_line import (
    add_model_arguments,
    add_output_arguments,
    check_output,
    errors_for_people,
    load_detectors,
    of_model,
    positive,
    read_image,
    save,
)
from mmdk.analysis.detectors import detector_receptive_field


def main() -> None:
    args = parse_args()
    with errors_for_people('receptive_field'):
        check_output(args, args.images)
        images = read_images(args.images, args.size)
        fields = {}
        for name, detector in load_detectors(args).items():
            with of_model(name):
                fields[name] = detector_receptive_field(
                    detector,
                    args.layer,
                    images,
                    tuple(args.position),
                    call=args.call,
                    probes=args.probes,
                )
        numbers = {name: field.numbers() for name, field in fields.items()}
        for name, values in numbers.items():
            print(name, values)
        save(args, plot_receptive_fields(fields, mmcv.bgr2rgb(images[0])), numbers)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('images', nargs='+', type=Path, help='averaged over; the first is drawn')
    add_model_arguments(parser)
    parser.add_argument(
        '--position',
        type=share,
        nargs=2,
        default=(0.5, 0.5),
        metavar=('Y', 'X'),
        help='the unit, as shares of height and width [0.5 0.5]',
    )
    parser.add_argument(
        '--size',
        type=positive,
        nargs=2,
        metavar=('HEIGHT', 'WIDTH'),
        help='images are resized to it, whatever their aspect; without it, they have to be of one '
        'size and stay as they are',
    )
    add_output_arguments(parser, 'receptive_field.png')
    return parser.parse_args()


def share(text: str) -> float:
    """For `type` of an argument."""
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f'must be from 0 to below 1, got {text}')
    return value


def read_images(paths: list[Path], size: tuple[int, int] | None) -> list[np.ndarray]:
    """(H, W, 3) uint8 BGR each, of one size.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A file is no image; or sizes differ.
    """
    images = [read_image(path) for path in paths]
    if size is not None:
        return [mmcv.imresize(image, size[::-1]) for image in images]
    if len({image.shape for image in images}) > 1:
        sizes = ', '.join(f'{image.shape[0]} x {image.shape[1]}' for image in images)
        raise ValueError(f'the images are of different sizes ({sizes}); give --size.')
    return images


if __name__ == '__main__':
    main()
