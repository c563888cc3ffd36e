r"""Draws the size of effective receptive fields against the size of the objects they look at.

For example, a plain detector and one with deformable kernels, on 200 objects of a data set:

    python tools/analysis_tools/receptive_field_scale.py --objects 200 \
        --model plain plain.py plain.pth --model DK dk.py dk.pth --layer backbone.layer4

Of each object, it takes the layer's unit that lies nearest to the middle of the box, and the least
area that holds 50 % and 90 % of this unit's energy. The objects are of the test set (in COCO's
format) that the first config names, the same for all detectors, and images are resized as this
config says. It writes a picture and, with the same name, a JSON file of the numbers in it.
"""

import argparse
import dataclasses
import math

from mmdet.registry import DATASETS

import mmdk  # noqa: F401  (registers the layers)
from mmdk.analysis import ObjectField, plot_receptive_field_scale, rank_correlation
from mmdk.analysis.command_line import (
    add_model_arguments,
    add_output_arguments,
    check_output,
    errors_for_people,
    load_detectors,
    of_model,
    positive,
    save,
)
from mmdk.analysis.detectors import object_receptive_fields, pick_objects


def main() -> None:
    args = parse_args()
    with errors_for_people('receptive_field_scale'):
        check_output(args)
        detectors = load_detectors(args)
        dataset = DATASETS.build(next(iter(detectors.values())).cfg.test_dataloader.dataset)
        objects = pick_objects(dataset, args.objects, args.seed)
        fields = {}
        for name, detector in detectors.items():
            with of_model(name):
                fields[name] = object_receptive_fields(
                    detector, dataset, objects, args.layer, call=args.call, probes=args.probes
                )
        figure = plot_receptive_field_scale(fields)
        for name, each in fields.items():
            for area in ('area_50', 'area_90'):
                coefficient, _ = rank_correlation(each, area)
                print(f'{name}: rank correlation of {area} and scale {coefficient:.3f}')
        save(args, figure, {name: numbers(each) for name, each in fields.items()})


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_model_arguments(parser)
    parser.add_argument(
        '--objects', type=positive, default=200, help='how many at most [%(default)s]'
    )
    parser.add_argument('--seed', type=int, default=0, help='of their choice [%(default)s]')
    add_output_arguments(parser, 'receptive_field_scale.png')
    return parser.parse_args()


def numbers(fields: list[ObjectField]) -> dict:
    """Correlations, and of each object its scale and areas, pixels."""
    correlations = {}
    for area in ('area_50', 'area_90'):
        # JSON has no NaN, which is the correlation of what is all alike.
        both = (None if math.isnan(each) else each for each in rank_correlation(fields, area))
        correlations[area] = dict(zip(('coefficient', 'p'), both, strict=True))
    return {
        'rank_correlation': correlations,
        'objects': [dataclasses.asdict(field) for field in fields],
    }


if __name__ == '__main__':
    main()
