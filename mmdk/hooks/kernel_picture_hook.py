"""Pictures of what the kernels do while a model trains."""

from collections.abc import Sequence
from pathlib import Path

from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop, Runner

from mmdk.layers.arguments import checked_int

__all__ = ['KernelPictureHook']

KINDS = ('kernel_offset', 'image_offset')


@HOOKS.register_module()
class KernelPictureHook(Hook):
    """Draws, after each validation, what the kernels do on one image.

    The pictures go to the runner's visualizer, and so to TensorBoard, to `vis_data/vis_image` in
    the work directory, or wherever else its `vis_backends` lead:

    - `kernel_offsets`: how far taps move over the image;
    - `sampled_kernels`: the kernels that are sampled at some points, beside the rigid ones;
    - `offset_histograms`: how often offsets are how large.

    The first two are of layers with kernel offsets that see the whole image, which those of RoI
    heads do not; the last is of all layers with offsets. The image is seen as in validation. In
    data-parallel training the first process draws. Needs matplotlib.

    In a config::

        custom_hooks = [dict(type='KernelPictureHook', image='street.jpg', at=[(240, 320)])]
        vis_backends = [dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]
        visualizer = dict(vis_backends=vis_backends)

    Args:
        image: A file, or the index of an image of the validation set.
        at: Points (y, x), pixels of the image file, for `sampled_kernels`. None: the middle.
        interval: Validations from one drawing to the next.

    Raises:
        ValueError: An argument is out of range; or, in training, the model has no layer with
            offsets, the validation set no such image, or the image no such point.
        FileNotFoundError: In training: there is no such file.

    Example:
        >>> from mmengine.registry import HOOKS
        >>> import mmdk
        >>> HOOKS.build(dict(type='KernelPictureHook', image=3, interval=2)).interval
        2
    """

    # Before EMAHook puts the weights back that were not validated.
    priority = 'ABOVE_NORMAL'

    def __init__(
        self,
        image: str | Path | int = 0,
        at: Sequence[tuple[float, float]] | None = None,
        interval: int = 1,
    ):
        # Matplotlib is no requirement of mmdk: it is imported where it is used, and missed here.
        import matplotlib  # noqa: F401

        if isinstance(image, bool) or not isinstance(image, (str, Path, int)):
            raise ValueError(f'image must be a path or an index, got {image!r}.')
        self.image = image
        self.at = None if at is None else [_checked_point(point) for point in at]
        if self.at == []:
            raise ValueError('at is empty; give points (y, x), or None for the middle.')
        self.interval = checked_int('interval', interval)
        self._validations = 0
        self._trains = False

    def before_train(self, runner: Runner) -> None:
        """Finds now what would be wrong only after an epoch."""
        from mmdk.analysis.images import seen_image

        self._trains = True
        if runner.val_loop is None:
            raise ValueError('KernelPictureHook draws after validation, and this run has none.')
        image = seen_image(self._data(runner))
        for point in self.at or ():
            image.point(point)
        if not any(hasattr(layer, kind) for layer in runner.model.modules() for kind in KINDS):
            raise ValueError(
                'KernelPictureHook: the model has no layer with offsets; give it one, such as type '
                "'DK', or take the hook out of custom_hooks."
            )

    @master_only
    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        self._validations += 1
        if self._validations % self.interval:
            return
        from mmdk.analysis.figures import add_figure
        from mmdk.analysis.pictures import kernel_pictures

        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        for name, figure in kernel_pictures(model, self._data(runner), self.at).items():
            add_figure(runner.visualizer, name, figure, self._step(runner))

    def _data(self, runner: Runner) -> dict:
        dataset = runner.val_dataloader.dataset
        if isinstance(self.image, (str, Path)):
            if not Path(self.image).is_file():
                raise FileNotFoundError(
                    f'KernelPictureHook: there is no image {str(self.image)!r}.'
                )
            if not hasattr(dataset, 'pipeline'):
                raise ValueError(
                    f'KernelPictureHook: a {type(dataset).__name__} as the validation set has no '
                    'pipeline to read a file with; give as image the index of one in the set.'
                )
            return dataset.pipeline(dict(img_path=str(self.image), img_id=0))
        if not 0 <= self.image < len(dataset):
            raise ValueError(
                f'KernelPictureHook: image={self.image} is not in the validation set of '
                f'{len(dataset)} images.'
            )
        return dataset[self.image]

    def _step(self, runner: Runner) -> int:
        if not self._trains:
            return 0
        by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop)
        return runner.epoch if by_epoch else runner.iter


def _checked_point(point: Sequence[float]) -> tuple[float, float]:
    is_pair = isinstance(point, (tuple, list)) and len(point) == 2
    if not is_pair or not all(isinstance(value, (int, float)) for value in point):
        raise ValueError(f'at must hold points (y, x) in pixels, got {point!r}.')
    return tuple(point)
