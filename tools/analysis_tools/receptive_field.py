r"""Draws the effective receptive field of a layer's unit, detector beside detector.

For example, a plain detector and one with deformable kernels, over two photographs:

    python tools/analysis_tools/receptive_field.py a.jpg b.jpg \
        --model plain plain.py plain.pth --model DK dk.py dk.pth --layer backbone.layer4

It writes a picture and, with the same name, a JSON file of the numbers in it.
"""

import argparse
import json
import sys
from pathlib import Path

import mmcv
import numpy as np
from mmdet.apis import init_detector

import mmdk  # noqa: F401  (registers the layers)
from mmdk.analysis import ReceptiveField, plot_receptive_fields
from mmdk.analysis.detectors import detector_receptive_field
from mmdk.analysis.receptive_field import PROBES


def main() -> None:
    args = parse_args()
    try:
        images = read_images(args.images, args.size)
        fields = {
            name: detector_receptive_field(
                init_detector(config, checkpoint, device=args.device),
                args.layer,
                images,
                tuple(args.position),
                call=args.call,
                probes=args.probes,
            )
            for name, config, checkpoint in args.model
        }
    except (OSError, ValueError) as error:
        sys.exit(f'receptive_field: {error}')
    args.out.parent.mkdir(parents=True, exist_ok=True)
    plot_receptive_fields(fields, mmcv.bgr2rgb(images[0])).savefig(args.out, dpi=150)
    numbers = {name: summary(field) for name, field in fields.items()}
    args.out.with_suffix('.json').write_text(json.dumps(numbers, indent=1) + '\n')
    for name, values in numbers.items():
        print(name, values)
    print(f'{args.out} and {args.out.with_suffix(".json").name} are written.')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('images', nargs='+', type=Path, help='averaged over')
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
        '--position',
        type=float,
        nargs=2,
        default=(0.5, 0.5),
        metavar=('Y', 'X'),
        help='the unit, as shares of height and width [0.5 0.5]',
    )
    parser.add_argument(
        '--size',
        type=int,
        nargs=2,
        default=(480, 640),
        metavar=('HEIGHT', 'WIDTH'),
        help='images are resized to it [480 640]',
    )
    parser.add_argument('--probes', type=int, default=PROBES, help='for each image [%(default)s]')
    parser.add_argument('--device', default='cpu', help='[%(default)s]')
    parser.add_argument(
        '--out', type=Path, default=Path('receptive_field.png'), help='[%(default)s]'
    )
    return parser.parse_args()


def read_images(paths: list[Path], size: tuple[int, int]) -> list[np.ndarray]:
    """(H, W, 3) uint8 BGR each.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A file is no image.
    """
    images = []
    for path in paths:
        image = mmcv.imread(path)
        if image is None:
            raise ValueError(f'{path} is no image that OpenCV reads.')
        images.append(mmcv.imresize(image, size[::-1]))
    return images


def summary(field: ReceptiveField) -> dict[str, float]:
    """Areas in pixels, axes in pixels (standard deviations), orientation in degrees."""
    most, least = field.axes
    return {
        'area_50': field.area(0.5),
        'area_90': field.area(0.9),
        'longest': round(float(most), 2),
        'shortest': round(float(least), 2),
        'orientation': round(field.orientation, 1),
        'eccentricity': round(field.eccentricity, 3),
    }


if __name__ == '__main__':
    main()
