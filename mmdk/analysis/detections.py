"""Contact sheets: ground truth and detections of several images, side by side."""

import math
from collections.abc import Sequence

import matplotlib
import mmcv
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from mmengine.structures import BaseDataElement, InstanceData

PAIRS_PER_ROW = 3
PANEL = 2.4  # inches
CAPTION_SHARE = 0.08  # a caption's height over a panel's


def plot_detections(
    data_samples: list[BaseDataElement], classes: Sequence[str], score_thr: float = 0.4
) -> Figure:
    """Draws images in pairs: the ground truth left, the detections right.

    Args:
        data_samples: DetDataSamples, what `model.test_step` returns for a test pipeline
            that loads annotations: with `img_path`, `gt_instances` and `pred_instances`.
        classes: Class names by label.
        score_thr: Detections scored below are not drawn.

    Returns:
        The sheet.
    """
    rows = math.ceil(len(data_samples) / PAIRS_PER_ROW)
    pairs = min(len(data_samples), PAIRS_PER_ROW)
    figure = Figure(figsize=(2 * pairs * PANEL, rows * (PANEL + 0.25)), layout='constrained')
    axes = figure.subplots(rows, 2 * pairs, squeeze=False).reshape(-1, 2)
    for axis in axes.flat:
        axis.set_axis_off()  # those without an image too
    # The last row may have more axes than there are images.
    for (truth_axis, detection_axis), sample in zip(axes, data_samples, strict=False):
        _draw_truth(truth_axis, sample, classes)
        _draw_detections(
            detection_axis, f'detected, score >= {score_thr:g}', sample, classes, score_thr
        )
    return figure


def compare_detections(
    data_samples: dict[str, Sequence[BaseDataElement]],
    classes: Sequence[str],
    score_thr: float = 0.4,
) -> Figure:
    """Draws what several detectors find in the same images.

    Args:
        data_samples: By what a detector is called in the picture; of each the same images in the
            same order, as for :func:`plot_detections`.
        classes: Class names by label.
        score_thr: Detections scored below are not drawn.

    Returns:
        A column for each image, with the ground truth above and a row for each detector below.

    Raises:
        ValueError: The images differ in number, or there is none.
    """
    images = {len(samples) for samples in data_samples.values()}
    if len(images) != 1 or images == {0}:
        counts = {name: len(samples) for name, samples in data_samples.items()}
        raise ValueError(f'data_samples must hold as many images of each detector, got {counts}.')
    (columns,) = images
    rows = 1 + len(data_samples)
    figure = Figure(figsize=(columns * PANEL, rows * (PANEL + 0.2)), layout='constrained')
    truth_axes, *detection_axes = figure.subplots(rows, columns, squeeze=False)
    for axis, sample in zip(truth_axes, next(iter(data_samples.values())), strict=True):
        _draw_truth(axis, sample, classes)
    for row, (name, samples) in zip(detection_axes, data_samples.items(), strict=True):
        for axis, sample in zip(row, samples, strict=True):
            _draw_detections(axis, name, sample, classes, score_thr)
    return figure


def _draw_truth(axis: Axes, sample: BaseDataElement, classes: Sequence[str]) -> None:
    truth = sample.gt_instances
    _draw(axis, sample, 'ground truth', truth, [classes[i] for i in truth.labels])


def _draw_detections(
    axis: Axes, title: str, sample: BaseDataElement, classes: Sequence[str], score_thr: float
) -> None:
    detected = sample.pred_instances
    detected = detected[detected.scores >= score_thr]
    # Suppression works class by class; of boxes on one object, the surest is drawn on top.
    detected = detected[detected.scores.argsort()]
    captions = [
        f'{classes[i]}  {score:.2f}'
        for i, score in zip(detected.labels, detected.scores, strict=True)
    ]
    _draw(axis, sample, title, detected, captions)


def _draw(
    axis: Axes,
    sample: BaseDataElement,
    title: str,
    instances: InstanceData,
    captions: list[str],
) -> None:
    image = mmcv.imread(sample.img_path, channel_order='rgb')
    axis.set_axis_off()
    # The corner of pixel (0, 0) is the origin, as for boxes in COCO.
    axis.imshow(image, extent=(0, image.shape[1], image.shape[0], 0), interpolation='nearest')
    axis.set_title(title, fontsize=8)
    colours = matplotlib.colormaps['tab10'].colors
    for (left, top, right, bottom), label, caption in zip(
        _boxes(instances), instances.labels, captions, strict=True
    ):
        colour = colours[int(label) % len(colours)]
        axis.add_patch(
            Rectangle(
                (left, top), right - left, bottom - top, fill=False, linewidth=1.5, edgecolor=colour
            )
        )
        has_room_above = top > CAPTION_SHARE * len(image)
        in_right_half = left + right > image.shape[1]
        axis.text(
            right if in_right_half else left,
            top if has_room_above else bottom,
            caption,
            fontsize=8,
            color='white',
            horizontalalignment='right' if in_right_half else 'left',
            verticalalignment='bottom' if has_room_above else 'top',
            bbox={'facecolor': colour, 'edgecolor': 'none', 'pad': 0.8},
            clip_on=True,
        )


def _boxes(instances: InstanceData) -> np.ndarray:
    """(N, 4) float, (x1, y1, x2, y2) in pixels; MMDetection keeps tensors or box objects."""
    boxes = instances.bboxes
    return np.asarray(getattr(boxes, 'tensor', boxes))
