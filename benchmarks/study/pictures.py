"""The study's results as pictures, drawn to be read at 700 pixels' width."""

from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.study.plan import PLAIN, variants
from benchmarks.study.statistics import CONFIDENCE, mean, paired_difference
from benchmarks.study.tables import COLUMNS, HEADLINES, Rows, by_seed
from benchmarks.study.variants import COMPARED

__all__ = ['SMALL', 'WIDTH', 'draw', 'tidy']

WIDTH = 7.0  # inches
SMALL = 8  # points
LINEAR = 5  # percentage points
POINTS = (-50, -LINEAR, -2, 0, 2, LINEAR)  # ticks
TRAINED_STRENGTH = 1.0  # the strongest in training


@dataclass(frozen=True)
class Style:
    color: str
    marker: str
    linestyle: str = '-'


# Okabe and Ito's colours, which colour-blind readers tell apart; the markers do so in grey.
STYLES = {
    'plain': Style('black', 'o', '--'),
    'plain, wider': Style('0.55', 's', '--'),
    'DCN': Style('#56B4E9', 'v'),
    'DCNv2': Style('#0072B2', '^'),
    'CondConv': Style('#CC79A7', 'P'),
    'GlobalDK': Style('#E69F00', 'X'),
    'DK': Style('#D55E00', 'D'),
    'DK+DCN': Style('#009E73', 'p'),
}


def draw(task: str, part: str, network: str, rows: Rows) -> Figure:
    """The picture of one network's rows."""
    if part == 'ablations':
        return _differences(task, network, rows)
    return _by_strength(network, rows) if task == 'classification' else _sets(network, rows)


def _by_strength(network: str, rows: Rows) -> Figure:
    """Accuracy against the strength of the deformation, and its difference from the plain one's."""
    figure = Figure(figsize=(WIDTH, 4.0), layout='constrained')
    left, right = figure.subplots(1, 2)
    for index, variant in enumerate(_found(rows, COMPARED)):
        _draw_accuracy(left, rows, variant)
        if variant != PLAIN:
            _draw_difference(right, rows, variant, dodge=0.05 * (index - len(COMPARED) / 2))
    for axis in (left, right):
        axis.axvspan(0, TRAINED_STRENGTH, color='0.94', zorder=0, linewidth=0)
        axis.set_xlabel('strength of the deformation', fontsize=SMALL + 1)
        axis.grid(axis='y', color='0.9')
        axis.set_axisbelow(True)
        tidy(axis)
    right.axhline(0, color='black', linewidth=1, linestyle='--')
    left.set_title('accuracy, %: mean and standard deviation', fontsize=SMALL + 1)
    right.set_title(
        f'difference from plain, points: {100 * CONFIDENCE:.0f} % interval', fontsize=SMALL + 1
    )
    left.text(0.05, 0.03, 'as in training', fontsize=SMALL, transform=left.get_xaxis_transform())
    _legend(figure, left, network)
    return figure


def _draw_accuracy(axis: Axes, rows: Rows, variant: str) -> None:
    style = STYLES[variant]
    means = {
        strength: mean([100 * value for value in values.values()])
        for strength, values in _accuracies(rows, variant).items()
    }
    x, y = list(means), [each.mean for each in means.values()]
    spread = [each.spread or 0 for each in means.values()]
    axis.plot(
        x,
        y,
        color=style.color,
        linestyle=style.linestyle,
        marker=style.marker,
        markersize=4,
        linewidth=1.3,
        label=variant,
    )
    low, high = ([m + sign * s for m, s in zip(y, spread, strict=True)] for sign in (-1, 1))
    axis.fill_between(x, low, high, color=style.color, alpha=0.15, linewidth=0)


def _draw_difference(axis: Axes, rows: Rows, variant: str, dodge: float) -> None:
    plain = _accuracies(rows, PLAIN)
    for strength, values in _accuracies(rows, variant).items():
        _draw_interval(
            axis, values, plain.get(strength, {}), STYLES[variant], place=strength + dodge
        )


def _accuracies(rows: Rows, variant: str) -> dict[float, dict[int, float]]:
    """By strength and seed."""
    strengths = next((row['accuracy'] for row in rows if row['variant'] == variant), {})
    return {
        float(strength): by_seed(rows, variant, lambda row, key=strength: row['accuracy'][key])
        for strength in strengths
    }


def _sets(network: str, rows: Rows) -> Figure:
    """AP on deformations as in training against AP on harder ones."""
    figure = Figure(figsize=(WIDTH, 4.2), layout='constrained')
    axis = figure.subplots()
    columns = [COLUMNS['detection'][name] for name in HEADLINES['detection']]
    for variant in _found(rows, COMPARED):
        style = STYLES[variant]
        x, y = (
            mean([100 * value for value in by_seed(rows, variant, column).values()])
            for column in columns
        )
        axis.errorbar(
            x.mean,
            y.mean,
            xerr=x.spread,
            yerr=y.spread,
            color=style.color,
            marker=style.marker,
            markersize=7,
            linestyle='',
            elinewidth=1.2,
            label=variant,
        )
        if variant == PLAIN:
            axis.axvline(x.mean, color='0.8', linewidth=1, linestyle='--', zorder=0)
            axis.axhline(y.mean, color='0.8', linewidth=1, linestyle='--', zorder=0)
    axis.set_xlabel('AP on deformations as in training, %', fontsize=SMALL + 1)
    axis.set_ylabel('AP on stronger ones, %', fontsize=SMALL + 1)
    axis.set_title('mean and standard deviation', fontsize=SMALL + 1)
    tidy(axis)
    _legend(figure, axis, network)
    return figure


def _differences(task: str, network: str, rows: Rows) -> Figure:
    """What each ablation adds to the part's first variant."""
    first, *others = variants(task, 'ablations')
    found = _found(rows, others)
    names = HEADLINES[task]
    figure = Figure(figsize=(WIDTH, 1.2 + 0.27 * len(found)), layout='constrained')
    axes = figure.subplots(1, len(names), sharex=True, sharey=True)
    for axis, name in zip(axes, names, strict=True):
        column = COLUMNS[task][name]
        base = by_seed(rows, first, column)
        for place, variant in enumerate(found):
            values = by_seed(rows, variant, column)
            _draw_interval(axis, values, base, STYLES[first], place, horizontal=True)
        axis.axvline(0, color='black', linewidth=1, linestyle='--')
        axis.grid(axis='x', color='0.9')
        axis.set_axisbelow(True)
        axis.set_title(name, fontsize=SMALL + 1)
        # A training that fails is many times further away than the others are from each other.
        axis.set_xscale('symlog', linthresh=LINEAR, linscale=2)
        axis.set_xticks(POINTS, [f'{points:+d}' if points else '0' for points in POINTS])
        axis.minorticks_off()
        tidy(axis)
    labels = [variant.removeprefix(f'{first}, ') for variant in found]
    axes[0].set_yticks(range(len(found)), labels)
    axes[0].set_ylim(len(found) - 0.5, -0.5)
    figure.supxlabel(
        f'{network}: difference from {first}, percentage points (logarithmic beyond {LINEAR}); '
        f'{100 * CONFIDENCE:.0f} % interval',
        fontsize=SMALL + 1,
    )
    return figure


def _draw_interval(
    axis: Axes,
    values: dict[int, float],
    base: dict[int, float],
    style: Style,
    place: float,
    horizontal: bool = False,
) -> None:
    """The mean difference of values by seed, and its interval; hollow where seeds are too few."""
    if not values.keys() & base.keys():
        return
    difference = paired_difference(values, base)
    has_interval = difference.high is not None
    length = difference.high - difference.mean if has_interval else 0
    at, error = 100 * difference.mean, 100 * length
    where = dict(x=at, y=place, xerr=error) if horizontal else dict(x=place, y=at, yerr=error)
    axis.errorbar(
        **where,
        color=style.color,
        marker=style.marker,
        markersize=3.5,
        markerfacecolor=style.color if has_interval else 'white',
        elinewidth=1.2,
        linestyle='',
    )


def _found(rows: Rows, variants: list[str]) -> list[str]:
    there = {row['variant'] for row in rows}
    return [variant for variant in variants if variant in there]


def _legend(figure: Figure, axis: Axes, network: str) -> None:
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc='outside lower center', ncols=4, fontsize=SMALL, frameon=False
    )
    figure.suptitle(network, fontsize=SMALL + 2)


def tidy(axis: Axes) -> None:
    axis.tick_params(labelsize=SMALL)
    axis.spines[['top', 'right']].set_visible(False)
