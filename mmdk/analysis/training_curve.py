"""Training loss and validation AP over the epochs, from mmengine's own records."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmdk.analysis.scalars import read_records


def read_scalars(work_dir: str | Path) -> tuple[dict[int, float], dict[int, float]]:
    """Reads loss and AP from what mmengine's LocalVisBackend recorded in a work directory.

    A training that was interrupted and resumed left several records; where they overlap, the
    later one counts.

    Args:
        work_dir: The directory given to train.py.

    Returns:
        By epoch, the last logged training loss, and the validation box AP (0 to 1).

    Raises:
        FileNotFoundError: There are no records.
        ValueError: A record is broken.
    """
    losses, precisions = {}, {}
    for scalars in read_records(work_dir):
        if 'loss' in scalars:
            losses[scalars['epoch']] = scalars['loss']
        elif 'coco/bbox_mAP' in scalars:
            precisions[scalars['step']] = scalars['coco/bbox_mAP']
    return losses, precisions


def plot_training_curve(losses: dict[int, float], precisions: dict[int, float]) -> Figure:
    """Draws the training loss and the validation AP over the epochs.

    Args:
        losses: Training loss by epoch.
        precisions: Validation box AP by epoch.

    Returns:
        The curve.
    """
    figure = Figure(figsize=(7, 4), layout='constrained')
    loss_axis = figure.subplots()
    precision_axis = loss_axis.twinx()
    _plot(loss_axis, losses, 'training loss', 'tab:blue')
    _plot(precision_axis, precisions, 'validation box AP (IoU 0.50:0.95)', 'tab:red')
    precision_axis.set_ylim(0, 1)
    loss_axis.set_ylim(bottom=0)
    loss_axis.set_xlabel('epoch')
    return figure


def _plot(axis: Axes, values: dict[int, float], label: str, colour: str) -> None:
    axis.plot(list(values), list(values.values()), marker='o', markersize=3, color=colour)
    axis.set_ylabel(label, color=colour)
    axis.tick_params(axis='y', labelcolor=colour)
