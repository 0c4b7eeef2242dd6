"""Distances to dMMSE and to ridge against the size of the pool; errors; losses in training."""

from collections.abc import Callable, Sequence
from functools import cache
from itertools import cycle, product
from pathlib import Path
from statistics import mode

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from studies.claims import Claim, Found, OverSeeds
from studies.drawing import legend, log_ticks, new_figure
from studies.history import history
from studies.measure import Runs, model_of, spec_of
from studies.plan import Effort
from studies.task_diversity.cells import LEARNERS, Learner, pool_sizes
from studies.task_diversity.distances import (
    ALGORITHMS,
    KINDS,
    NEW,
    Kind,
    Measured,
    answers,
    measured,
    predicted,
)
from zoo.hub.directory import read_card
from zoo.metrics.drawing import (
    GRAY,
    MARKERS,
    draw_curve,
    label_examples,
    label_loss,
    marked,
    style_of,
)
from zoo.metrics.errors import Summary, error_summary, mean_interval, ratio_summary
from zoo.metrics.text import loss_label

QUERY = -1
DISTANCE = "half the mean squared difference"
LOSS = "half_mse_all"
NO_INTERVAL = (
    "Bands are 95 % intervals over test episodes; a hollow point has a tail too heavy for one."
)

# By predictor, learned or exact, size of the pool and kind of test episodes.
Table = dict[tuple[str, int, Kind], Measured]


def distances(runs: Runs, effort: Effort) -> Found:
    """Figure a: which of the two algorithms the predictions at the query are nearer to."""
    table, sizes = _measured(runs, effort), pool_sizes(effort)
    claims = [
        _nearer(
            f"distance to dmmse, {kind.text}, {learner.name}, pool of {size:,}",
            table[learner.name, size, kind],
        )
        for learner in LEARNERS
        for kind in KINDS
        for size in sizes
    ]
    for kind in KINDS:
        for size in sizes:
            between = _at_query(table["dmmse", size, kind].distances["ridge"])
            quantity = f"distance of dmmse and ridge, {kind.text}, pool of {size:,}"
            claims.append(Claim(quantity, _value(between)))
    others = _other_rates(runs, effort)
    drawn = {kind.name: _distances_drawn(table, sizes, kind, others) for kind in KINDS}
    return Found(drawn, claims)


def positions(runs: Runs, effort: Effort) -> Found:
    """Figure b: the distance to the better algorithm at every position."""
    table, sizes = _measured(runs, effort), pool_sizes(effort)
    return Found({kind.name: _positions_drawn(table, sizes, kind) for kind in KINDS}, [])


def errors(runs: Runs, effort: Effort) -> Found:
    """Figure c: errors at the query beside those of both algorithms."""
    table, sizes = _measured(runs, effort), pool_sizes(effort)
    claims = [
        _beside_best(
            f"{loss_label('half_mse')}, {kind.text}, {name}, pool of {size:,}",
            table[name, size, kind],
            kind.best,
        )
        for kind in KINDS
        for name in _names()
        if name != kind.best
        for size in sizes
    ]
    figure, axes = new_figure(len(KINDS))
    for ax, kind in zip(axes, KINDS, strict=True):
        for name, marker in zip(_names(), cycle(MARKERS), strict=False):
            points = [_at_query(table[name, size, kind].error) for size in sizes]
            draw_curve(ax, sizes, points, name, marked(style_of(name), marker))
        ax.set_title(kind.text, fontsize=9)
        label_loss(ax, at_place=True)
        _label_sizes(ax)
    of_new = axes[KINDS.index(NEW)]
    of_new.set_yscale("log")
    log_ticks(of_new.yaxis)
    legend(axes[0])
    caption = (
        "Errors on episodes with functions of the pool, where dmmse is the best there is, and on "
        f"episodes with new functions, where ridge is. {NO_INTERVAL}"
    )
    return Found({"errors": (figure, caption)}, claims)


def losses(runs: Runs, effort: Effort) -> Found:
    """Figure d: the loss in validation in the course of training."""

    def draw(ax: Axes, learner: Learner, size: int, color: tuple[float, ...]) -> None:
        (run,) = runs[learner.training(size, effort).name]
        values = history(run, f"val/{LOSS}")
        ax.plot(list(values), list(values.values()), label=f"pool of {size:,}", color=color)

    figure, axes = _by_learner(pool_sizes(effort), draw)
    for ax in axes:
        ax.set_xlabel("optimizer steps")
    axes[0].set_ylabel(f"validation, {loss_label('half_mse')} at all positions")
    caption = (
        "The loss in validation, on episodes with functions of the pool, at the rate that was kept."
    )
    return Found({"losses": (figure, caption)}, [])


def _names() -> list[str]:
    """All predictors, learned and exact."""
    return [*(learner.name for learner in LEARNERS), *ALGORITHMS]


def _measured(runs: Runs, effort: Effort) -> Table:
    """Learners, each on as many episodes as it needs, and both algorithms on as many as most."""
    table: Table = {}
    for size, kind in product(pool_sizes(effort), KINDS):
        for learner in LEARNERS:
            (run,) = runs[learner.training(size, effort).name]
            table[learner.name, size, kind] = _of_run(run, kind, learner.num_episodes(effort))
        beside = answers(spec_of(run), kind, effort.num_episodes)
        for name, prediction in beside.of.items():
            table[name, size, kind] = measured(prediction, beside)
    return table


@cache
def _of_run(run: Path, kind: Kind, num_episodes: int) -> Measured:
    """The model of a run beside both algorithms, once for all figures."""
    beside = answers(spec_of(run), kind, num_episodes)
    return measured(predicted(model_of(run), beside.episodes), beside)


def rate_of(run: Path) -> float:
    """The learning rate of a finished run."""
    rate: float = read_card(run / "checkpoint").training.optimizer["lr"]
    return rate


def _other_rates(runs: Runs, effort: Effort) -> str:
    """Which pools have another rate than most of their architecture, if any."""
    found = []
    for learner in LEARNERS:
        names = {size: learner.training(size, effort).name for size in pool_sizes(effort)}
        rates = {size: rate_of(runs[name][0]) for size, name in names.items()}
        usual = mode(rates.values())
        found += [
            f"{learner.name}, {rate:g} on the pool of {size:,}, {usual:g} on most"
            for size, rate in rates.items()
            if rate != usual
        ]
    said = "The rate is not the same for all pools, since training diverged at one"
    return f" {said}: {'; '.join(found)}." if found else ""


def _at_query(values: Tensor) -> Summary:
    return error_summary(values[:, QUERY])


def _value(number: Summary) -> OverSeeds:
    """Of one seed, with the interval over test episodes; of a heavy tail with the median."""
    if number.ci95 is None and number.tail_share is not None:
        return OverSeeds(number.value, None, 1, number.median, [number.value])
    return OverSeeds(number.value, number.ci95, 1)


def _nearer(quantity: str, found: Measured) -> Claim:
    """The distance to `dmmse` at the query beside that to `ridge`, with their ratio."""
    to_dmmse, to_ridge = (found.distances[name] for name in ALGORITHMS)
    return Claim(
        quantity,
        _value(_at_query(to_dmmse)),
        reference="distance to ridge",
        reference_value=_at_query(to_ridge).value,
        ratio=_value(ratio_summary(to_dmmse[:, QUERY], to_ridge[:, QUERY])),
    )


def _beside_best(quantity: str, found: Measured, best: str) -> Claim:
    """An error at the query beside the least there is, with their difference by episode.

    There is none where one of the errors has too heavy a tail for an interval.
    """
    error, least = _at_query(found.error), _at_query(found.least)
    heavy = error.ci95 is None or least.ci95 is None
    excess = OverSeeds(*mean_interval((found.error - found.least)[:, QUERY]), 1)
    return Claim(
        quantity,
        _value(error),
        reference=best,
        reference_value=least.value,
        difference=None if heavy else excess,
    )


def _distances_drawn(
    table: Table, sizes: Sequence[int], kind: Kind, others: str
) -> tuple[Figure, str]:
    figure, axes = new_figure(len(LEARNERS))
    for ax, learner in zip(axes, LEARNERS, strict=True):
        between = [_at_query(table["dmmse", size, kind].distances["ridge"]) for size in sizes]
        draw_curve(ax, sizes, between, "dmmse to ridge", {"color": GRAY, "linestyle": ":"})
        for name in ALGORITHMS:
            found = (table[learner.name, size, kind].distances[name] for size in sizes)
            draw_curve(ax, sizes, [*map(_at_query, found)], f"to {name}", marked(style_of(name)))
        ax.set_yscale("log")
        ax.set_title(learner.name, fontsize=9)
        _label_sizes(ax)
    _share(axes)
    axes[0].set_ylabel("distance at the query")
    legend(axes[0])
    caption = (
        f"How far predictions at the query are from those of dmmse and of ridge, on {kind.text}: "
        f"{DISTANCE}. The gray line is the distance between the two algorithms. {NO_INTERVAL}"
        f"{others}"
    )
    return figure, caption


def _positions_drawn(table: Table, sizes: Sequence[int], kind: Kind) -> tuple[Figure, str]:
    def draw(ax: Axes, learner: Learner, size: int, color: tuple[float, ...]) -> None:
        means = table[learner.name, size, kind].distances[kind.best].double().mean(0)
        ax.plot(range(len(means)), means.tolist(), label=f"pool of {size:,}", color=color)

    figure, axes = _by_learner(sizes, draw)
    for ax in axes:
        label_examples(ax)
    axes[0].set_ylabel(f"distance to {kind.best}")
    caption = (
        f"How far predictions are from those of {kind.best} after so many examples, on "
        f"{kind.text}: {DISTANCE}."
    )
    return figure, caption


def _by_learner(
    sizes: Sequence[int], draw: Callable[[Axes, Learner, int, tuple[float, ...]], None]
) -> tuple[Figure, list[Axes]]:
    """An axes for each architecture, with a line for each pool: the larger, the lighter."""
    figure, axes = new_figure(len(LEARNERS))
    for ax, learner in zip(axes, LEARNERS, strict=True):
        for i, size in enumerate(sizes):
            draw(ax, learner, size, colormaps["viridis"](0.9 * i / (len(sizes) - 1)))
        ax.set_yscale("log")
        ax.set_title(learner.name, fontsize=9)
    _share(axes)
    legend(axes[0])
    return figure, axes


def _share(axes: Sequence[Axes]) -> None:
    """Gives all the vertical range of the widest, which is logarithmic."""
    low, high = zip(*(ax.get_ylim() for ax in axes), strict=True)
    for ax in axes:
        ax.set_ylim(min(low), max(high))
        log_ticks(ax.yaxis)


def _label_sizes(ax: Axes) -> None:
    ax.set_xscale("log", base=2)
    ax.set_xlabel("functions in the pool")
