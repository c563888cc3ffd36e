"""Draws the pictures of docs/gallery.md, and writes the numbers in them beside them.

    python docs/figures/draw_gallery.py

The detectors are those that come with mmdk; their data set is made where it is not there yet.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import mmcv
import numpy as np
import torch
from cells import IMAGES
from gallery import IMAGES_OF_MANY, Gallery, Points
from matplotlib.figure import Figure
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import bbox_overlaps
from mmengine.dataset import pseudo_collate
from PIL import Image

from mmdk.analysis import (
    ObjectField,
    compare_detections,
    plot_kernel_offsets,
    plot_offset_histograms,
    plot_receptive_field_scale,
    plot_receptive_fields,
    plot_sampled_kernels,
    rank_correlation,
    record_offset_histograms,
    render,
    run_on_image,
    sampled_kernels,
)
from mmdk.analysis.detectors import (
    detector_receptive_field,
    object_receptive_fields,
    pick_objects,
)
from mmdk.analysis.receptive_field_scale import binned_medians
from mmdk.analysis.units import nearest_unit

DETECTED = (26, 53, 98, 161, 275, 290)  # indices in the validation set
SCORE = 0.4
BACKGROUND = (80.0, 62.0)  # (y, x), a point of the pictured image beside digits
BACKBONE = 'backbone.layer3'
HEAD = 'bbox_head.cls_convs.1.conv'  # the last before classes; its first call is at stride 8
LAST_LAYERS = (  # of each stage, and of the head
    'backbone.layer2.3.conv2',
    'backbone.layer3.5.conv2',
    'backbone.layer4.2.conv2',
    HEAD,
)
PROBES = {BACKBONE: 256, HEAD: 64}  # as many as channels, so that fields are exact

PHOTOGRAPH_POINTS = ((20.0, 150.0), (64.0, 92.0), (106.0, 24.0))  # (y, x): sky, roof, trees
DPI = 100

Drawn = tuple[Figure, object]  # and the numbers in it


def main() -> None:
    args = parse_args()
    gallery = Gallery(args.objects)
    args.out.mkdir(parents=True, exist_ok=True)
    numbers = {}
    for draw in PICTURES:
        figure, numbers[draw.__name__] = draw(gallery)
        write(figure, args.out / f'{draw.__name__}.png')
        print(f'{draw.__name__}.png')
    (args.out / 'numbers.json').write_text(json.dumps(numbers, indent=1) + '\n')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--out', type=Path, default=IMAGES / 'gallery', help='[%(default)s]')
    parser.add_argument(
        '--objects',
        type=int,
        default=100,
        help='digits whose receptive fields are measured [%(default)s]',
    )
    return parser.parse_args()


def write(figure: Figure, path: Path) -> None:
    """With 256 colours: noise of 96 x 96 pixels, drawn large, would make files of megabytes."""
    pixels = Image.fromarray(render(figure, DPI))
    # The default method loses colours that are rare, as those of boxes.
    pixels.quantize(256, method=Image.Quantize.FASTOCTREE).save(path, optimize=True)


def detections(gallery: Gallery) -> Drawn:
    images = [gallery.dataset[index] for index in DETECTED]
    found = {}
    for name, detector in gallery.detectors.items():
        with torch.no_grad():
            found[name] = detector.test_step(pseudo_collate(images))
    numbers = {name: found_right(samples) for name, samples in found.items()}
    return compare_detections(found, gallery.dataset.metainfo['classes'], SCORE), numbers


def found_right(samples: Sequence[DetDataSample]) -> str:
    """Of how many digits the surest of the boxes that are drawn over it has the right class."""
    right, digits = 0, 0
    for sample in samples:
        truth, drawn = sample.gt_instances, sample.pred_instances
        drawn = drawn[drawn.scores >= SCORE]
        digits += len(truth)
        for box, label in zip(truth.bboxes, truth.labels, strict=True):
            over = drawn[bbox_overlaps(drawn.bboxes, box[None])[:, 0] >= 0.5]
            right += len(over) and int(over.labels[over.scores.argmax()] == label)
    return f'{right} of {digits}'


def receptive_fields(gallery: Gallery) -> Drawn:
    data, middles = gallery.digits()
    return fields_at(gallery, data, [*middles, BACKGROUND])


def scale_backbone(gallery: Gallery) -> Drawn:
    return field_scale(gallery, BACKBONE)


def scale_head(gallery: Gallery) -> Drawn:
    return field_scale(gallery, HEAD)


def kernel_offsets(gallery: Gallery) -> Drawn:
    data, _ = gallery.digits()
    figure, _ = offset_maps(gallery, data)
    return figure, offsets_on_digits(gallery)


def kernels(gallery: Gallery) -> Drawn:
    data, middles = gallery.digits()
    points = [*middles, BACKGROUND]
    image, layers = gallery.kernel_offsets(data)
    shown = [layer for layer in layers if layer.name in LAST_LAYERS]
    sampled = sampled_kernels(gallery.detectors['DK'], shown, points, image.size)
    changes = {
        layer.name: [
            round(float(np.linalg.norm(kernel - layer.rigid) / np.linalg.norm(layer.rigid)), 2)
            for kernel in layer.kernels
        ]
        for layer in sampled
    }
    return plot_sampled_kernels(image.pixels, sampled, points), changes


def offset_histograms_dk(gallery: Gallery) -> Drawn:
    return histograms_of(gallery, 'DK')


def offset_histograms_dcn(gallery: Gallery) -> Drawn:
    return histograms_of(gallery, 'DCN')


def photograph_offsets(gallery: Gallery) -> Drawn:
    return offset_maps(gallery, gallery.photograph(like_digits=False))


def photograph_offsets_like_digits(gallery: Gallery) -> Drawn:
    return offset_maps(gallery, gallery.photograph(like_digits=True))


def photograph_fields(gallery: Gallery) -> Drawn:
    return fields_at(gallery, gallery.photograph(like_digits=True), PHOTOGRAPH_POINTS)


def field_scale(gallery: Gallery, layer: str) -> Drawn:
    objects = pick_objects(gallery.dataset, gallery.objects)
    fields = {
        name: object_receptive_fields(
            detector, gallery.dataset, objects, layer, probes=PROBES[layer]
        )
        for name, detector in gallery.detectors.items()
    }
    numbers = {name: against_scale(each) for name, each in fields.items()}
    return plot_receptive_field_scale(fields), numbers


def against_scale(fields: Sequence[ObjectField]) -> dict:
    """Rank correlations, and where the lines begin and end: sides of objects and of fields."""
    scales = np.array([field.scale for field in fields])
    numbers = {}
    for area in ('area_50', 'area_90'):
        sides = np.sqrt([getattr(field, area) for field in fields])
        scale, side = binned_medians(scales, sides)
        numbers[area] = dict(
            rank_correlation=round(rank_correlation(fields, area)[0], 2),
            smallest_objects=[round(float(scale[0]), 1), round(float(side[0]), 1)],
            largest_objects=[round(float(scale[-1]), 1), round(float(side[-1]), 1)],
        )
    return numbers


def fields_at(gallery: Gallery, data: dict, points: Points) -> Drawn:
    image = data['inputs'].permute(1, 2, 0).numpy()  # BGR
    fields = {
        name: [
            detector_receptive_field(
                detector,
                HEAD,
                [image],
                tuple(np.divide(point, image.shape[:2])),
                probes=PROBES[HEAD],
            )
            for point in points
        ]
        for name, detector in gallery.detectors.items()
    }
    numbers = {
        name: [dict(unit=field.unit, **field.numbers()) for field in each]
        for name, each in fields.items()
    }
    return plot_receptive_fields(fields, mmcv.bgr2rgb(image)), numbers


def offset_maps(gallery: Gallery, data: dict) -> Drawn:
    image, layers = gallery.kernel_offsets(data)
    means = {layer.name: round(float(layer.distance.mean()), 3) for layer in layers}
    return plot_kernel_offsets(image.pixels, layers, []), means


def offsets_on_digits(gallery: Gallery) -> dict:
    """Of each layer, over some images: how far taps move; how many look beside the scope."""
    measured = defaultdict(lambda: defaultdict(list))
    for index in range(IMAGES_OF_MANY):
        data = gallery.dataset[index]
        image, layers = gallery.kernel_offsets(data)
        for layer in layers:
            of_layer = measured[layer.name]
            of_layer['anywhere'].append(layer.distance.mean())
            of_layer['taps_without_cell'].append(layer.without_cell)
            for x, y in data['data_samples'].gt_instances.bboxes.centers.tolist():
                unit = nearest_unit((y, x), image.size, layer.distance.shape)
                of_layer['at_digits'].append(layer.distance[unit])
    return {
        name: {key: round(float(np.mean(values)), 3) for key, values in of_layer.items()}
        for name, of_layer in measured.items()
    }


def histograms_of(gallery: Gallery, name: str) -> Drawn:
    with record_offset_histograms(gallery.detectors[name]) as histograms:
        for index in range(IMAGES_OF_MANY):
            run_on_image(gallery.detectors[name], gallery.dataset[index])
    numbers = {
        histogram.name: histogram.quantiles([0.05, 0.95]).tolist() for histogram in histograms
    }
    return plot_offset_histograms(histograms), numbers


PICTURES = (
    detections,
    receptive_fields,
    scale_backbone,
    scale_head,
    kernel_offsets,
    kernels,
    offset_histograms_dk,
    offset_histograms_dcn,
    photograph_offsets,
    photograph_offsets_like_digits,
    photograph_fields,
)

if __name__ == '__main__':
    main()
