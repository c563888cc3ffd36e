"""What offsets did while networks trained, as a picture to be read at 700 pixels' width."""

import textwrap

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.study.offsets import SCALARS
from benchmarks.study.pictures import SMALL, WIDTH, tidy
from benchmarks.study.tables import Rows

__all__ = ['draw_offsets']

# Okabe and Ito's colours, in the order of the network's stages; the head's branches come last.
COLORS = ('#56B4E9', '#0072B2', '#D55E00', '#009E73', '#CC79A7')


def draw_offsets(network: str, rows: Rows) -> Figure:
    """A column for each training, a line for each stage."""
    figure = Figure(figsize=(WIDTH, 6.0), layout='constrained')
    axes = figure.subplots(len(SCALARS), len(rows), sharex=True, sharey='row', squeeze=False)
    for column, row in zip(axes.T, rows, strict=True):
        column[0].set_title(f'{network}, {row["variant"]}', fontsize=SMALL + 1)
        for axis, scalar in zip(column, SCALARS, strict=True):
            _draw_curves(axis, row['curves'][scalar])
            if scalar == 'mean_abs':
                axis.set_yscale('log')
                axis.yaxis.set_major_formatter('{x:g}')
            else:
                axis.set_ylim(bottom=0)
            tidy(axis)
        column[-1].set_xlabel('training step', fontsize=SMALL + 1)
    for axis, label in zip(axes[:, 0], SCALARS.values(), strict=True):
        axis.set_ylabel(textwrap.fill(label, 22), fontsize=SMALL)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc='outside lower center', ncols=3, fontsize=SMALL, frameon=False
    )
    return figure


def _draw_curves(axis: Axes, curves: dict[str, dict[str, float]]) -> None:
    for (stage, values), color in zip(curves.items(), COLORS[: len(curves)], strict=True):
        steps = [int(step) for step in values]
        axis.plot(steps, list(values.values()), color=color, linewidth=1.2, label=stage)
    axis.grid(axis='y', color='0.9')
    axis.set_axisbelow(True)
