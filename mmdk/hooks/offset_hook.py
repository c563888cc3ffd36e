"""Watching offsets while a model trains."""

from collections.abc import Callable

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor, nn

from mmdk.layers.arguments import checked_int

__all__ = ['OffsetHook']


@HOOKS.register_module()
class OffsetHook(Hook):
    r"""Logs how far taps move in their scopes and in the image; stops where offsets are not finite.

    Every `interval` iterations, for every layer with a method `kernel_offset` or `image_offset`,
    these scalars go to MMEngine's message hub, from where its text log and TensorBoard have them:

    - `kernel_offset/<name>/mean_abs`: mean \|offset\| over images, positions and taps, in scope
      cells;
    - `kernel_offset/<name>/outside`: share of taps beyond the first or last cell of the scope;
    - `kernel_offset/<name>/clipped`: share of taps that `offset_clip` holds back; 0 without;
    - `image_offset/<name>/mean_abs`: the first for image offsets, in input pixels;
    - `image_offset/<name>/outside`: share of taps beyond the first or last pixel of the layer's
      input; those that rest in the padding are among them.

    In these iterations offsets are computed a second time; in the others the hook does nothing. A
    layer that is not called in such an iteration keeps its last values; where none is, as in a
    model that `torch.compile` compiled before, a warning says so. In data-parallel training they
    are those of the first process's images, and each process stops for its own.

    In a config::

        custom_hooks = [dict(type='OffsetHook', interval=50)]

    Args:
        interval: Iterations from one record to the next; best the LoggerHook's, or a divisor.
        by: 'layer' or 'stage': the layers whose names agree in the first two parts, such as
            `backbone.layer3`, together.

    Raises:
        FloatingPointError: At an iteration recorded, offsets of a layer were NaN or infinite.
        ValueError: An argument is out of range; or, in training, the model has no such layer.

    Example:
        >>> from mmengine.registry import HOOKS
        >>> import mmdk
        >>> HOOKS.build(dict(type='OffsetHook', interval=20, by='stage')).interval
        20
    """

    def __init__(self, interval: int = 50, by: str = 'layer'):
        self.interval = checked_int('interval', interval)
        if by not in ('layer', 'stage'):
            raise ValueError(f"by must be 'layer' or 'stage', got {by!r}.")
        self.by = by
        self._handles = []
        # By the kind of offset and the layer's name.
        self._sums: dict[tuple[str, str], Tensor] = {}
        self._has_warned = False

    def before_train(self, runner: Runner) -> None:
        if not _deformable(runner.model):
            raise ValueError(
                'OffsetHook: the model has no layer with offsets; give it one, such as type '
                "'DK', or take the hook out of custom_hooks."
            )

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        if self.every_n_train_iters(runner, self.interval):
            self._handles = [
                # After the layer: a weight that autocast casts here first, without gradient, is
                # what older PyTorch would give the layer too, from its cache.
                layer.register_forward_hook(self._recorder(name))
                for name, layer in _deformable(runner.model).items()
            ]

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs: dict | None = None
    ) -> None:
        if not self._handles:
            return
        for handle in self._handles:
            handle.remove()
        sums = {key: total.tolist() for key, total in self._sums.items()}
        self._handles, self._sums = [], {}
        if not sums and not self._has_warned:
            self._has_warned = True
            runner.logger.warning(
                f'OffsetHook: no layer with offsets reported in iteration {runner.iter + 1}, so '
                'nothing is logged and NaN offsets are not noticed. A compiled model calls no '
                'hooks that were added after compiling.'
            )
        _check_finite(sums, runner.iter + 1)
        for (kind, name), (taps, *totals) in self._grouped(sums).items():
            for scalar, total in zip(SCALARS[kind], totals, strict=True):
                runner.message_hub.update_scalar(f'train/{kind}/{name}/{scalar}', total / taps)

    def _recorder(self, name: str) -> Callable[[nn.Module, tuple, Tensor], None]:
        def record(layer: nn.Module, inputs: tuple, output: Tensor) -> None:
            for kind, count in COUNTS.items():
                if hasattr(layer, kind):
                    counted = count(layer, inputs[0])
                    self._sums[kind, name] = self._sums.get((kind, name), 0) + counted

        return record

    def _grouped(
        self, sums: dict[tuple[str, str], list[float]]
    ) -> dict[tuple[str, str], list[float]]:
        """By layer or stage, those without any tap left out: heads may be called with no boxes."""
        grouped = {}
        for (kind, name), each in sums.items():
            key = kind, name if self.by == 'layer' else '.'.join(name.split('.')[:2])
            before = grouped.get(key, [0] * len(each))
            grouped[key] = [a + b for a, b in zip(before, each, strict=True)]
        return {key: each for key, each in grouped.items() if each[0]}


def _deformable(model: nn.Module) -> dict[str, nn.Module]:
    model = model.module if is_model_wrapper(model) else model
    return {
        name: part
        for name, part in model.named_modules()
        if any(hasattr(part, kind) for kind in COUNTS)
    }


@torch.no_grad()
def _count_kernel_offset(layer: nn.Module, x: Tensor) -> Tensor:
    """Number of taps, then sums over them: |offset|, outside, clipped; (4,), float64.

    On the device: nothing waits for it before the iteration is over.
    """
    offset = _taps(layer, layer.kernel_offset(x))
    finite = offset.isfinite().all()
    clip = getattr(layer, 'offset_clip', None)
    if clip is None:
        clipped = offset.new_zeros(())
    else:
        layer.offset_clip = None
        try:
            unclipped = _taps(layer, layer.kernel_offset(x))
        finally:
            layer.offset_clip = clip
        finite = unclipped.isfinite().all()
        clipped = (unclipped != offset).any(2).sum()
    rests = [
        torch.arange(kernel, device=x.device) + (scope - kernel) / 2
        for kernel, scope in zip(layer.kernel_size, layer.scope_size, strict=True)
    ]
    at = offset + _grid(*rests).flatten(0, 1)[..., None]
    # Clipping makes an infinity finite, so it is put back.
    length = offset.norm(dim=2) + torch.where(finite, 0.0, torch.nan)
    return _stacked(length, _is_outside(at, layer.scope_size).sum(), clipped)


@torch.no_grad()
def _count_image_offset(layer: nn.Module, x: Tensor) -> Tensor:
    """Number of taps, then sums over them: |offset|, outside; (3,), float64, on the device."""
    offset = layer.image_offset(x)
    size = offset.shape[2:]
    offset = _taps(layer, offset)
    corners, taps = (
        [
            torch.arange(count, device=x.device) * step
            for count, step in zip(counts, steps, strict=True)
        ]
        for counts, steps in ((size, layer.stride), (layer.kernel_size, layer.dilation))
    )
    padding = offset.new_tensor(layer.padding)[:, None]
    at = offset + _grid(*taps).flatten(0, 1)[..., None] + _grid(*corners).flatten(0, 1).T - padding
    return _stacked(offset.norm(dim=2), _is_outside(at, x.shape[2:]).sum())


# What is counted of a layer that has a method of this name, and the scalars made of it.
COUNTS = {'kernel_offset': _count_kernel_offset, 'image_offset': _count_image_offset}
SCALARS = {
    'kernel_offset': ('mean_abs', 'outside', 'clipped'),
    'image_offset': ('mean_abs', 'outside'),
}


def _taps(layer: nn.Module, offset: Tensor) -> Tensor:
    """(N, G*K_h*K_w*2, H, W) as (N*G, taps, 2, H*W), float64: sums of half types overflow."""
    taps = layer.kernel_size[0] * layer.kernel_size[1]
    return offset.double().flatten(2).unflatten(1, (-1, taps, 2)).flatten(0, 1)


def _grid(rows: Tensor, columns: Tensor) -> Tensor:
    """(rows, columns, 2): y and x."""
    return torch.stack(torch.meshgrid(rows, columns, indexing='ij'), 2)


def _is_outside(at: Tensor, size: tuple[int, int]) -> Tensor:
    """Whether coordinates (..., taps, 2, H*W) are beyond the first or last of `size` cells."""
    last = at.new_tensor([length - 1 for length in size])[:, None]
    # Rounding alone does not put a tap that is clipped to the last cell outside.
    return ((at < -1e-3) | (at > last + 1e-3)).any(2)


def _stacked(length: Tensor, *sums: Tensor) -> Tensor:
    """The number of taps, and float64 sums over them."""
    return torch.stack(
        [length.new_tensor(length.numel()), length.sum(), *(s.to(length) for s in sums)]
    )


def _check_finite(sums: dict[tuple[str, str], list[float]], iteration: int) -> None:
    broken = [key for key, (_, length, *_) in sums.items() if not length < float('inf')]
    if broken:
        kind, name = broken[0]
        more = f' (and {len(broken) - 1} more)' if len(broken) > 1 else ''
        offsets = {'kernel_offset': 'Kernel offsets', 'image_offset': 'Image offsets'}[kind]
        raise FloatingPointError(
            f'{offsets} of {name!r}{more} are NaN or infinite in iteration {iteration}. '
            'Resume from an earlier checkpoint with a lower learning rate of conv_offset '
            "(paramwise_cfg=dict(custom_keys={'conv_offset': dict(lr_mult=...)})), clipped "
            'gradients (clip_grad), or, of kernel offsets, offset_clip.'
        )
