"""Lines and dots of several seeds."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from studies.claims import over_seeds
from studies.measure import validations
from zoo.metrics.drawing import BLACK, BLUE, Style, bare, draw_curve
from zoo.metrics.errors import Summary
from zoo.metrics.text import loss_label

FEWEST_FOR_BAND = 5


def new_figure(num_axes: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure with a row of axes, open above and to the right."""
    figure = Figure(figsize=(4.6 * num_axes, 3.4), layout="constrained")
    axes = list(figure.subplots(1, num_axes, squeeze=False)[0])
    bare(*axes)
    return figure, axes


def per_seed(values: Sequence[Sequence[float]]) -> list[Sequence[float]]:
    """From the seeds' numbers at each place to the sequence of each seed, which `band` takes."""
    return list(zip(*values, strict=True))


def band(
    ax: Axes,
    places: Sequence[float],
    values: Sequence[Sequence[float]],
    label: str,
    style: Style,
) -> None:
    """The mean over seeds and its 95 % band; `values` holds a sequence for each seed.

    The interval of fewer than five seeds is wider than anything they show: they are drawn one by
    one instead.
    """
    means = [over_seeds(column) for column in zip(*values, strict=True)]
    if len(values) >= FEWEST_FOR_BAND:
        draw_curve(ax, places, [Summary(m.value, m.ci95 or 0) for m in means], label, style)
        return
    ax.plot(places, [m.value for m in means], label=label, **style)
    for of_seed in values:
        ax.plot(places, of_seed, color=style["color"], linewidth=0.6, alpha=0.5)


def bars(ax: Axes, rows: Mapping[str, Sequence[float]]) -> None:
    """One row for each name: a dot for each seed, and their mean with its interval, as `band`."""
    for place, values in enumerate(rows.values()):
        mean = over_seeds(values)
        ci95 = (mean.ci95 or 0) if len(values) >= FEWEST_FOR_BAND else 0
        ax.errorbar(mean.value, place, xerr=ci95, fmt="o", color=BLACK, capsize=3)
        ax.scatter(values, [place] * len(values), s=9, color=BLUE, zorder=3)
    ax.set_yticks(range(len(rows)), list(rows))
    ax.invert_yaxis()


def draw_validations(
    ax: Axes, runs: Mapping[str, Sequence[Path]], loss: str, styles: Mapping[str, Style]
) -> None:
    """A loss in validation against steps, a mean over seeds, for each name.

    Args:
        ax: Where it is drawn.
        runs: Directories of the seeds by name.
        loss: As `validations` takes it, such as `half_mse_query`.
        styles: By name.
    """
    for name, found in runs.items():
        steps, losses = validations(found, loss)
        means = [over_seeds(column).value for column in zip(*losses, strict=True)]
        ax.plot(steps, means, label=name, **styles[name])
    ax.set_yscale("log")
    ax.set_xlabel("optimizer steps")
    ax.set_ylabel(f"validation, {loss_label(loss, at_place=True)}")


def log_ticks(axis: Axis) -> None:
    """Numbers at a logarithmic axis, as they are; of few decades also between powers of ten."""
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 3, 5) if high < 300 * low else (1,)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def legend(ax: Axes) -> None:
    """A small legend without a frame, whose lines are long enough to show dashes."""
    ax.legend(frameon=False, fontsize=8, handlelength=3.6)
