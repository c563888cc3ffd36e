r"""Draws histograms of the offsets of a detector's layers, over given images or its test set.

For example, over 50 images of the test set that the config names, then over two photographs:

    python tools/analysis_tools/offset_histograms.py my_config.py epoch_12.pth --images 50
    python tools/analysis_tools/offset_histograms.py my_config.py epoch_12.pth a.jpg b.jpg

Kernel offsets are in scope cells, image offsets (DKDCN, FastDCN) in pixels of the layer's input.
Images are resized and padded as in testing. It writes a picture and, with the same name, a JSON
file of quantiles.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from mmdet.registry import DATASETS
from mmengine.model import BaseModel
from mmengine.utils import track_iter_progress

import mmdk  # noqa: F401  (registers the layers)
from mmdk.analysis import (
    OffsetHistogram,
    plot_offset_histograms,
    record_offset_histograms,
    run_on_image,
)
from mmdk.analysis.command_line import (
    add_output_arguments,
    check_output,
    errors_for_people,
    load_detector,
    positive,
    read_image,
    save,
)
from mmdk.analysis.detectors import pipeline_of_testing

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


def main() -> None:
    args = parse_args()
    with errors_for_people('offset_histograms'):
        check_output(args, args.files)
        for path in args.files:
            read_image(path)  # what a pipeline says of a file that is no image, helps nobody
        detector = load_detector(args.config, args.checkpoint, args.device)
        with record_offset_histograms(detector) as histograms:
            for data in images(detector, args):
                run_on_image(detector, data)
        save(args, plot_offset_histograms(histograms), [numbers(each) for each in histograms])


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config')
    parser.add_argument('checkpoint')
    parser.add_argument('files', nargs='*', type=Path, help='images; without any, of the test set')
    parser.add_argument(
        '--images', type=positive, default=50, help='how many of the test set at most [%(default)s]'
    )
    parser.add_argument('--seed', type=int, default=0, help='of their choice [%(default)s]')
    add_output_arguments(parser, 'offset_histograms.png')
    return parser.parse_args()


def images(detector: BaseModel, args: argparse.Namespace) -> Iterator[dict]:
    """What the test pipeline makes of the images."""
    if args.files:
        pipeline = pipeline_of_testing(detector)
        for path in track_iter_progress(args.files):
            yield pipeline(dict(img_path=str(path), img_id=0))
        return
    dataset = DATASETS.build(detector.cfg.test_dataloader.dataset)
    chosen = np.random.default_rng(args.seed).permutation(len(dataset))[: args.images]
    for index in track_iter_progress(sorted(chosen.tolist())):
        yield dataset[index]


def numbers(histogram: OffsetHistogram) -> dict:
    """Quantiles, to half a bin, by their share."""
    by_axis = zip('yx', histogram.quantiles(QUANTILES).tolist(), strict=True)
    return {
        'layer': histogram.name,
        'kind': histogram.kind,
        'offsets': histogram.counts[0].total(),
        'bin_width': histogram.width,
        **{axis: dict(zip(QUANTILES, values, strict=True)) for axis, values in by_axis},
    }


if __name__ == '__main__':
    main()
