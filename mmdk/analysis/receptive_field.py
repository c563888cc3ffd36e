r"""Effective receptive fields: which pixels a unit of a network really depends on.

For the output :math:`y_c(p)` of a layer at position p, the energy that pixel q of the input has is

.. math:: E(q) = \sum_c \sum_{c'} \left(\frac{\partial y_c(p)}{\partial x_{c'}(q)}\right)^2

averaged over images. Where gradients of all channels one by one would be too many, the sum over c
is estimated: a gradient with random signs on all channels, squared, has it as its mean.

Source: Luo et al., Understanding the Effective Receptive Field, NeurIPS 2016, and section 2 of Gao
et al., Deformable Kernels, ICLR 2020, which uses it to explain what deformable kernels adapt.
"""

import contextlib
import dataclasses
import difflib
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from mmdk.analysis.units import nearest_unit

__all__ = ['ReceptiveField', 'receptive_field']

PROBES = 32


@dataclasses.dataclass(frozen=True)
class ReceptiveField:
    """The effective receptive field of one unit.

    Attributes:
        energy: (H, W) float64, share of each pixel of the input; sums to 1.
        unit: (y, x), the input pixel over which the unit lies: its index times the stride, which is
            taken to be the ratio of the input's size and the layer's.
    """

    energy: np.ndarray
    unit: tuple[float, float]

    def area(self, share: float) -> int:
        """The least number of pixels that hold this share of the energy.

        Args:
            share: Above 0, up to 1.

        Raises:
            ValueError: `share` is out of range.
        """
        if not 0 < share <= 1:
            raise ValueError(f'share must be above 0 and at most 1, got {share!r}.')
        largest_first = np.cumsum(np.sort(self.energy, axis=None)[::-1])
        # Rounding may leave the whole sum a little below 1.
        return int(np.searchsorted(largest_first, share * largest_first[-1])) + 1

    @property
    def centre(self) -> np.ndarray:
        """(y, x) mean position of the energy, pixels."""
        return np.array([(self.energy * axis).sum() for axis in np.indices(self.energy.shape)])

    @property
    def spread(self) -> np.ndarray:
        """(2, 2) covariance of the energy's position, pixels squared, y before x."""
        y, x = np.indices(self.energy.shape) - self.centre[:, None, None]
        yx = (self.energy * y * x).sum()
        return np.array([[(self.energy * y * y).sum(), yx], [yx, (self.energy * x * x).sum()]])

    @property
    def axes(self) -> tuple[float, float]:
        """Standard deviations along the longest and the shortest direction, pixels."""
        least, most = np.sqrt(np.maximum(np.linalg.eigvalsh(self.spread), 0))
        return most, least

    @property
    def eccentricity(self) -> float:
        """Of the ellipse with these axes, from 0 for a circle towards 1 for a line."""
        most, least = self.axes
        return math.sqrt(max(0.0, 1 - (least / most) ** 2)) if most else 0.0

    @property
    def orientation(self) -> float:
        """Direction of the longest axis, degrees counter-clockwise from rightwards, in [0, 180)."""
        _, directions = np.linalg.eigh(self.spread)
        y, x = directions[:, 1]
        return math.degrees(math.atan2(-y, x)) % 180  # rows count downwards

    def numbers(self) -> dict[str, float]:
        """Areas with half and 90 % of the energy, axes, orientation and eccentricity, rounded."""
        most, least = self.axes
        return {
            'area_50': self.area(0.5),
            'area_90': self.area(0.9),
            'longest': round(float(most), 2),
            'shortest': round(float(least), 2),
            'orientation': round(self.orientation, 1) % 180,
            'eccentricity': round(self.eccentricity, 3),
        }


def receptive_field(
    model: nn.Module,
    layer: str,
    inputs: Sequence[Tensor],
    position: tuple[float, float] = (0.5, 0.5),
    *,
    run: Callable[[nn.Module, Tensor], object] | None = None,
    call: int = 0,
    probes: int = PROBES,
    seed: int = 0,
) -> ReceptiveField:
    """The effective receptive field of a layer's unit, averaged over inputs.

    The model runs as it is; call `model.eval()` before, so that images do not mix. Nothing of it
    changes, gradients included.

    Args:
        model: Holds the layer.
        layer: The layer's name in `model.named_modules()`.
        inputs: Each (N, C, H, W), all of one height and width, normalised as the model expects.
        position: (y, x) shares of the height and width, from 0 to below 1; the unit is the one
            nearest to there.
        run: Calls the model with an input. None: `model(x)`.
        call: Which call of the layer, where it is called several times (a dense head: once for each
            pyramid level).
        probes: Gradients for each input. From the number of the layer's channels on, the energy is
            exact, by one gradient a channel. With fewer, signs are random: then pixels that are
            large by chance count first, and areas come out too small, the more so the fewer there
            are. Compare only fields that are all exact, or of layers with as many channels, by as
            many probes.
        seed: Of the random signs.

    Raises:
        ValueError: There is no such layer, it is not called so often, its output is no map or does
            not depend on the input, or an argument is out of range.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from mmdk.analysis import receptive_field
        >>> blur = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1, bias=False))
        >>> field = receptive_field(blur, '0', [torch.randn(1, 1, 9, 9)])
        >>> field.area(1.0), field.unit
        (9, (4.0, 4.0))
    """
    _check(model, layer, inputs, position, probes)
    run = run or (lambda model, x: model(x))
    signs = torch.Generator().manual_seed(seed)
    total, unit = 0, None
    for x in inputs:
        x = x.detach().clone().requires_grad_()
        with torch.enable_grad(), _recorded(model, layer) as outputs:
            run(model, x)
        output = _call(outputs, layer, call)
        point = tuple(share * size for share, size in zip(position, x.shape[2:], strict=True))
        at = nearest_unit(point, tuple(x.shape[2:]), tuple(output.shape[2:]))
        unit = tuple(
            index * size / of
            for index, size, of in zip(at, x.shape[2:], output.shape[2:], strict=True)
        )
        total = total + _energy(output[:, :, at[0], at[1]], x, probes, signs, layer)
    if not total.sum() > 0:
        raise ValueError(f'The output of {layer!r} does not depend on the input at {unit}.')
    return ReceptiveField((total / total.sum()).numpy(), unit)


def _check(
    model: nn.Module,
    layer: str,
    inputs: Sequence[Tensor],
    position: tuple[float, float],
    probes: int,
) -> None:
    names = dict(model.named_modules())
    if layer not in names:
        close = difflib.get_close_matches(layer, names, n=3)
        hint = f'Closest: {", ".join(close)}.' if close else 'model.named_modules() has its names.'
        raise ValueError(f'layer={layer!r} is not in the model. {hint}')
    if not inputs:
        raise ValueError('inputs is empty; give at least one image.')
    sizes = {tuple(x.shape[2:]) for x in inputs}
    if len(sizes) > 1:
        raise ValueError(f'inputs must have one height and width, got {sorted(sizes)}.')
    if not all(0 <= share < 1 for share in position):
        raise ValueError(f'position must be (y, x) shares from 0 to below 1, got {position!r}.')
    if probes < 1:
        raise ValueError(f'probes must be at least 1, got {probes!r}.')


@contextlib.contextmanager
def _recorded(model: nn.Module, layer: str) -> Iterator[list[Tensor]]:
    outputs = []

    def record(layer: nn.Module, inputs: tuple, output: object) -> object:
        outputs.append(output)
        # What comes next may work in place, as activations and residual sums do.
        return output.clone() if isinstance(output, Tensor) else None

    handle = model.get_submodule(layer).register_forward_hook(record)
    try:
        yield outputs
    finally:
        handle.remove()


def _call(outputs: list, layer: str, call: int) -> Tensor:
    if not 0 <= call < len(outputs):
        raise ValueError(
            f'{layer!r} was called {len(outputs)} times; call={call} is none of them, which count '
            'from 0.'
        )
    output = outputs[call]
    if not isinstance(output, Tensor) or output.dim() != 4:
        found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(f'{layer!r} gives {found}; name a layer that gives one (N, C, H, W) map.')
    if not output.requires_grad:
        raise ValueError(f'The output of {layer!r} has no gradient; is it under torch.no_grad()?')
    return output


def _energy(unit: Tensor, x: Tensor, probes: int, signs: torch.Generator, layer: str) -> Tensor:
    """(H, W) float64: energy of the pixels, summed over the batch, up to a factor."""
    total = torch.zeros(x.shape[2:], dtype=torch.float64)
    for probe in _probes(unit, probes, signs):
        (gradient,) = torch.autograd.grad(unit, x, probe, retain_graph=True, allow_unused=True)
        if gradient is None:
            raise ValueError(f'The output of {layer!r} does not depend on the input.')
        total += gradient.double().square().sum((0, 1)).cpu()
    return total


def _probes(unit: Tensor, probes: int, signs: torch.Generator) -> Iterator[Tensor]:
    """Gradients of a unit, (N, C) as it is: of each channel, or of all with random signs."""
    channels = unit.shape[1]
    if probes >= channels:
        yield from torch.eye(channels).to(unit)[:, None].expand(-1, *unit.shape)
        return
    for _ in range(probes):
        yield torch.randint(2, unit.shape, generator=signs).mul_(2).sub_(1).to(unit)
