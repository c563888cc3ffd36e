r"""Draws the kernels that a detector's layers sample at points of an image, beside the rigid ones.

For example, at two points of a photograph, (y, x) in its pixels:

    python tools/analysis_tools/kernels.py my_config.py epoch_12.pth street.jpg \
        --at 240 320 --at 100 50 --layers 'backbone\.layer4'

Without --at, the image is shown, for its points to be clicked. It is resized and padded as in
testing. Layers of type DK, GlobalDK and DKDCN are drawn; in dense heads at the first pyramid level;
those of RoI heads, which see regions, are not. It writes a picture and, with the same name, a JSON
file of the numbers in it.
"""

import argparse
import re
from pathlib import Path

import mmcv
import numpy as np

import mmdk  # noqa: F401  (registers the layers)
from mmdk.analysis import (
    LayerKernels,
    over_the_image,
    plot_sampled_kernels,
    record_kernel_offsets,
    run_on_image,
    sampled_kernels,
)
from mmdk.analysis.command_line import (
    add_output_arguments,
    check_output,
    errors_for_people,
    load_detector,
    read_image,
    save,
)
from mmdk.analysis.detectors import pipeline_of_testing


def main() -> None:
    args = parse_args()
    with errors_for_people('kernels'):
        check_output(args, [args.image])
        image = read_image(args.image)
        detector = load_detector(args.config, args.checkpoint, args.device)
        at = args.at or clicked(image)
        data = pipeline_of_testing(detector)(dict(img_path=str(args.image), img_id=0))
        with record_kernel_offsets(detector) as records:
            seen = run_on_image(detector, data)
        points = [seen.point(tuple(point)) for point in at]
        layers = select(over_the_image(records), args.layers)
        kernels = sampled_kernels(detector, layers, points, seen.size)
        channel = args.channel and tuple(args.channel)
        figure = plot_sampled_kernels(seen.pixels, kernels, points, channel)
        save(args, figure, {layer.name: numbers(layer, channel) for layer in kernels})


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config')
    parser.add_argument('checkpoint')
    parser.add_argument('image', type=Path)
    parser.add_argument(
        '--at',
        action='append',
        nargs=2,
        type=float,
        metavar=('Y', 'X'),
        help='a point, pixels of the image file; may be given several times [clicked]',
    )
    parser.add_argument(
        '--layers',
        default='',
        metavar='PATTERN',
        help='regular expression that is found in the names of the layers to draw [all]',
    )
    parser.add_argument(
        '--channel',
        type=int,
        nargs=2,
        metavar=('OUT', 'IN'),
        help='the weights of one output channel for one input channel of its group; without it, '
        'the mean magnitude over all of them',
    )
    add_output_arguments(parser, 'kernels.png')
    return parser.parse_args()


def clicked(image: np.ndarray) -> list[tuple[float, float]]:
    """Points (y, x) that are clicked on an image, (H, W, 3) BGR, in a window.

    Raises:
        ValueError: No window opens, or nothing was clicked.
    """
    from matplotlib import pyplot  # it looks for a screen

    if pyplot.get_backend().lower() == 'agg':
        raise ValueError('no window can be opened here; name points by --at Y X.')
    height, width = image.shape[:2]
    pyplot.imshow(mmcv.bgr2rgb(image), extent=(0, width, height, 0))
    pyplot.title('Click points; then press Enter')
    points = [(y, x) for x, y in pyplot.ginput(-1, timeout=0)]
    pyplot.close()
    if not points:
        raise ValueError('no point was clicked.')
    return points


def select(records: list, pattern: str) -> list:
    """Those whose layer's name has the pattern in it.

    Raises:
        ValueError: There are none, or the pattern is no regular expression.
    """
    if not records:
        raise ValueError('the detector ran no layer with kernel offsets over the image.')
    try:
        selected = [record for record in records if re.search(pattern, record.name)]
    except re.error as error:
        raise ValueError(f'--layers {pattern!r} is no regular expression: {error}.') from error
    if not selected:
        names = ', '.join(record.name for record in records)
        raise ValueError(f'--layers {pattern!r} is in no name of a layer. There are: {names}.')
    return selected


def numbers(layer: LayerKernels, channel: tuple[int, int] | None) -> dict:
    """Kernels as they are drawn; where taps look the scope up, (y, x) cells, by offset group."""

    def drawn(weights: np.ndarray) -> list:
        return (np.abs(weights).mean((0, 1)) if channel is None else weights[channel]).tolist()

    return {
        'rigid': drawn(layer.rigid),
        'rigid_taps': layer.rigid_taps.tolist(),
        'points': [
            {'kernel': drawn(kernel), 'taps': taps.tolist()}
            for kernel, taps in zip(layer.kernels, layer.taps, strict=True)
        ],
    }


if __name__ == '__main__':
    main()
