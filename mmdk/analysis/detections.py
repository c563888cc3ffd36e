"""Contact sheet: ground truth and detections of several images, side by side."""

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
        axis.set_axis_off()
    # The last row may have more axes than there are images.
    for (truth_axis, detection_axis), sample in zip(axes, data_samples, strict=False):
        image = mmcv.imread(sample.img_path, channel_order='rgb')
        truth, detected = sample.gt_instances, sample.pred_instances
        detected = detected[detected.scores >= score_thr]
        # Suppression works class by class; of boxes on one object, the surest is drawn on top.
        detected = detected[detected.scores.argsort()]
        _draw(truth_axis, image, 'ground truth', truth, [classes[i] for i in truth.labels])
        _draw(
            detection_axis,
            image,
            f'detected, score >= {score_thr:g}',
            detected,
            [
                f'{classes[i]}  {score:.2f}'
                for i, score in zip(detected.labels, detected.scores, strict=True)
            ],
        )
    return figure


def _draw(
    axis: Axes, image: np.ndarray, title: str, instances: InstanceData, captions: list[str]
) -> None:
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
        axis.text(
            left,
            top if has_room_above else bottom,
            caption,
            fontsize=8,
            color='white',
            verticalalignment='bottom' if has_room_above else 'top',
            bbox={'facecolor': colour, 'edgecolor': 'none', 'pad': 0.8},
            clip_on=True,
        )


def _boxes(instances: InstanceData) -> np.ndarray:
    """(N, 4) float, (x1, y1, x2, y2) in pixels; MMDetection keeps tensors or box objects."""
    boxes = instances.bboxes
    return np.asarray(getattr(boxes, 'tensor', boxes))
