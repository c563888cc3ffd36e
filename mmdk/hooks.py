"""Watching kernel offsets while a model trains."""

from collections.abc import Callable

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor, nn

from mmdk.layers.arguments import checked_int

__all__ = ['KernelOffsetHook']


@HOOKS.register_module()
class KernelOffsetHook(Hook):
    r"""Logs how far the taps of deformable kernels move, and stops where offsets are not finite.

    Every `interval` iterations, for every layer with a method `kernel_offset`, these scalars go to
    MMEngine's message hub, from where its text log and TensorBoard have them:

    - `offset/<name>/mean_abs`: mean \|offset\| over images, positions and taps, in scope cells;
    - `offset/<name>/outside`: share of taps beyond the first or last cell of the scope;
    - `offset/<name>/clipped`: share of taps that `offset_clip` holds back; 0 without.

    In these iterations offsets are computed a second time; in the others the hook does nothing. A
    layer that is not called in such an iteration keeps its last values. In data-parallel training
    they are those of the first process's images, and each process stops for its own.

    In a config::

        custom_hooks = [dict(type='KernelOffsetHook', interval=50)]

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
        >>> HOOKS.build(dict(type='KernelOffsetHook', interval=20, by='stage')).interval
        20
    """

    def __init__(self, interval: int = 50, by: str = 'layer'):
        self.interval = checked_int('interval', interval)
        if by not in ('layer', 'stage'):
            raise ValueError(f"by must be 'layer' or 'stage', got {by!r}.")
        self.by = by
        self._handles = []
        self._sums: dict[str, Tensor] = {}

    def before_train(self, runner: Runner) -> None:
        if not _deformable(runner.model):
            raise ValueError(
                'KernelOffsetHook: the model has no layer with kernel offsets; give it one, such '
                "as type 'DK', or take the hook out of custom_hooks."
            )

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        if self.every_n_train_iters(runner, self.interval):
            self._handles = [
                layer.register_forward_pre_hook(self._recorder(name))
                for name, layer in _deformable(runner.model).items()
            ]

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs: dict | None = None
    ) -> None:
        if not self._handles:
            return
        for handle in self._handles:
            handle.remove()
        sums = {name: total.tolist() for name, total in self._sums.items()}
        self._handles, self._sums = [], {}
        _check_finite(sums, runner.iter + 1)
        for name, (taps, *totals) in self._grouped(sums).items():
            for key, total in zip(('mean_abs', 'outside', 'clipped'), totals, strict=True):
                runner.message_hub.update_scalar(f'train/offset/{name}/{key}', total / taps)

    def _recorder(self, name: str) -> Callable[[nn.Module, tuple], None]:
        def record(layer: nn.Module, inputs: tuple) -> None:
            counted = _count(layer, inputs[0])
            self._sums[name] = self._sums.get(name, 0) + counted

        return record

    def _grouped(self, sums: dict[str, list[float]]) -> dict[str, list[float]]:
        """By layer or stage, those without any tap left out: heads may be called with no boxes."""
        grouped = {}
        for name, each in sums.items():
            key = name if self.by == 'layer' else '.'.join(name.split('.')[:2])
            grouped[key] = [a + b for a, b in zip(grouped.get(key, [0] * 4), each, strict=True)]
        return {key: each for key, each in grouped.items() if each[0]}


def _deformable(model: nn.Module) -> dict[str, nn.Module]:
    model = model.module if is_model_wrapper(model) else model
    return {name: part for name, part in model.named_modules() if hasattr(part, 'kernel_offset')}


@torch.no_grad()
def _count(layer: nn.Module, x: Tensor) -> Tensor:
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
    outside = torch.zeros_like(offset[:, :, 0], dtype=torch.bool)
    for axis, (kernel, scope) in enumerate(zip(layer.kernel_size, layer.scope_size, strict=True)):
        rest = torch.arange(kernel, device=offset.device) + (scope - kernel) / 2
        # Taps are in the order of rows: (K_h, 1) or (1, K_w) of rest coordinates.
        rest = rest[:, None] if axis == 0 else rest[None]
        rest = rest.expand(layer.kernel_size).reshape(-1, 1)
        at = rest + offset[:, :, axis]
        # Rounding alone does not put a tap that is clipped to the last cell outside.
        outside |= (at < -1e-3) | (at > scope - 1 + 1e-3)
    # Clipping makes an infinity finite, so it is put back.
    length = offset.norm(dim=2) + torch.where(finite, 0.0, torch.nan)
    taps = length.new_tensor(length.numel())
    return torch.stack([taps, length.sum(), outside.sum().to(taps), clipped.to(taps)])


def _taps(layer: nn.Module, offset: Tensor) -> Tensor:
    """(N, G*K_h*K_w*2, H, W) as (N*G, taps, 2, H*W), float64: sums of half types overflow."""
    taps = layer.kernel_size[0] * layer.kernel_size[1]
    return offset.double().flatten(2).unflatten(1, (-1, taps, 2)).flatten(0, 1)


def _check_finite(sums: dict[str, list[float]], iteration: int) -> None:
    broken = [name for name, (_, length, *_) in sums.items() if not length < float('inf')]
    if broken:
        more = f' (and of {len(broken) - 1} more layers)' if len(broken) > 1 else ''
        raise FloatingPointError(
            f'Kernel offsets of {broken[0]!r}{more} are NaN or infinite in iteration {iteration}. '
            'Resume from an earlier checkpoint with a lower learning rate of conv_offset '
            "(paramwise_cfg=dict(custom_keys={'conv_offset': dict(lr_mult=...)})), clipped "
            'gradients (clip_grad), or offset_clip.'
        )
