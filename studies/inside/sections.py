"""What is measured of one checkpoint, as the four sections of its page."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from studies.drawing import legend, new_figure
from studies.inside.drawn import INCHES
from studies.inside.figures import FAR, LEAST_KNOWN, told
from studies.inside.lenses import Lenses
from studies.inside.probing import TARGETS, scores
from studies.inside.states import queries_of
from studies.inside.task import NUM_TO_FIT, Task, episodes, solver
from studies.inside.writing import MOST, Written, without, written
from zoo.analysis.interventions import Effect
from zoo.analysis.places import Place, num_seen
from zoo.analysis.probes import ProbeScore
from zoo.analysis.readouts import in_time, mean_by_position, read_out
from zoo.metrics.drawing import (
    BLUE,
    DASH_DOT,
    DASHED,
    DOTTED,
    FAINT,
    GRAY,
    HOLLOW,
    MARKERS,
    PALETTE,
    SOLID,
    VERMILION,
    draw_curve,
    label_examples,
    marked,
)
from zoo.metrics.errors import Interval, Summary
from zoo.metrics.text import half_interval
from zoo.models.sequence import SequenceModel
from zoo.predictor import Predictor

# Episodes of which weights are read out at once, each with several queries at every position.
BATCH = 50
LINES = (SOLID, DASHED, DASH_DOT, DOTTED)
COLORS = {"stream": BLUE, "state": VERMILION}

Table = Sequence[Mapping[str, str]]


class Section(NamedTuple):
    """A section of the page.

    Attributes:
        title: Its heading.
        found: What it comes to, in a sentence for the top of the page.
        text: Paragraphs above the figure.
        tables: Below the figure; a row is its cells by heading.
        figure: None where there is nothing to draw.
    """

    title: str
    found: str
    text: str
    tables: Sequence[Table] = ()
    figure: Figure | None = None


def probes(model: Predictor, untrained: Predictor, task: Task, num_episodes: int) -> Section:
    """What layers and states know, beside a model with a random start.

    Args:
        model: The trained one.
        untrained: The same with a random start.
        task: Of whose episodes.
        num_episodes: In the test.
    """
    title = "What layers and states know"
    trained = scores(model, task, num_episodes)
    if not trained:
        nothing = "The model has no residual stream and no state that keeps its size to probe."
        return Section(title, nothing, nothing)
    random = scores(untrained, task, num_episodes)
    seen = num_seen(model, task.spec.num_context)
    table = [
        {"place": place.label, "examples": str(seen[place])}
        | {target: _beside(of_place[target], random[place][target]) for target in TARGETS}
        for place, of_place in trained.items()
    ]
    drawn = [target for target in TARGETS if target != TARGETS.inputs]
    figure, axes = new_figure(len(drawn))
    figure.set_size_inches(3.1 * len(drawn), 3.2)
    for ax, target in zip(axes, drawn, strict=True):
        _draw_r2(ax, trained, random, target)
        ax.set_title(target, fontsize=10)
    axes[0].set_ylabel("R2 on test episodes")
    legend(axes[-1])
    highest = {
        target: max((of_place[target].r2.value, place) for place, of_place in trained.items())[1]
        for target in drawn
    }
    best = [
        f"{target}: {_beside(trained[place][target], random[place][target])}, {place.label}"
        for target, place in highest.items()
    ]
    text = f"""\
R2 of linear probes, fitted to {NUM_TO_FIT} episodes; in brackets and hollow: the same model with a
random start. Only what is above it has been learned. *Examples* is how many of the
{task.spec.num_context} a place has seen whole. {_no_places(model, list(trained))}"""
    found = f"Highest R2 of a probe, untrained in brackets. {'; '.join(best)}."
    return Section(title, found, text, [table], figure)


def _beside(trained: ProbeScore, random: ProbeScore) -> str:
    return f"{_cell(trained.r2)} ({random.r2.value:z.2f})"


def _no_places(model: Predictor, known: Sequence[Place]) -> str:
    """What there is not to be probed."""
    if not any(place.is_state for place in known):
        return "The model has no state that keeps its size: it keeps its examples."
    return "" if isinstance(model, SequenceModel) else "The model has no residual stream."


def _draw_r2(
    ax: Axes,
    trained: Mapping[Place, Mapping[str, ProbeScore]],
    random: Mapping[Place, Mapping[str, ProbeScore]],
    target: str,
) -> None:
    """R2 by layer: of streams and states, trained and not."""
    for kind, color in COLORS.items():
        places = [place for place in trained if place.kind == kind]
        for label, found, line, face in (
            (kind, trained, "-", color),
            (f"{kind}, untrained", random, ":", HOLLOW),
        ):
            if places:
                r2 = [found[place][target].r2 for place in places]
                ax.errorbar(
                    [place.layer for place in places],
                    [max(score.value, -0.05) for score in r2],
                    [score.ci95 for score in r2],
                    label=label,
                    color=color,
                    linestyle=line,
                    marker="o",
                    markersize=4,
                    markerfacecolor=face,
                )
    ax.axhline(0, color=FAINT, zorder=0)
    ax.set_ylim(-0.08, 1.05)
    _label_layers(ax)


def layers(model: Predictor, task: Task, num_episodes: int) -> Section:
    """What layers would answer, and which algorithm that is.

    Args:
        model: Any that predicts values.
        task: Of whose episodes.
        num_episodes: In the test.
    """
    found = Lenses(model, task, num_episodes)
    table = [
        {
            "layers": str(layer),
            "own readout": _cell(own),
            "tuned readout": _cell(found.tuned[layer]),
            **told([found], layer),
        }
        for layer, own in found.own.items()
    ]
    figure, (errors, cosines) = new_figure(2)
    for label, by_layer, style in (
        ("own readout", found.own, {"color": GRAY, "linestyle": ":"}),
        ("tuned readout", found.tuned, {"color": BLUE}),
    ):
        points = [Summary(*error) for error in by_layer.values()]
        draw_curve(errors, list(by_layer), points, label, {**style, "marker": "o"})
    errors.set_yscale("log")
    errors.set_ylabel("0.5*MSE at the query / that of zero")
    legend(errors)
    for i, name in enumerate(found.nearest[1]):
        cosines.plot(
            list(found.nearest),
            [near[name].cosine for near in found.nearest.values()],
            label=name,
            color=PALETTE[i % len(PALETTE)],
            marker=MARKERS[i % len(MARKERS)],
            markersize=4,
        )
    cosines.set_ylabel("cosine with the layer")
    cosines.legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    for ax in (errors, cosines):
        _label_layers(ax)
    last = table[-1]
    near = "After the last layer all of these algorithms are far."
    if last["nearest (cosine)"]:
        near = f"After the last layer the nearest algorithm is {last['nearest (cosine)']}."
    readouts = "" if isinstance(model, SequenceModel) else " It has one readout: both are the same."
    text = f"""\
What the model would answer if it ended after a layer, by its own readout and by one that is tuned
for the layer. Errors are divided by that of predicting zero.{readouts} Everything that an algorithm
leaves open is fitted to the layer. *As near* are those whose cosine differs by less than 0.0005;
*difference* is the squared difference to the nearest, divided by the square of the layer's answers.
Where it is above {FAR} none is named. Where a fitted argument is an end of its grid the row says
so."""
    return Section(
        "Which algorithm a layer is",
        near,
        text,
        [table],
        figure,
    )


def use(model: Predictor, task: Task, num_episodes: int) -> Section:
    """What becomes of predictions where weights are written, or a part is taken away.

    Args:
        model: Any that predicts values.
        task: Of whose episodes.
        num_episodes: In the test.
    """
    effects: dict[str, Effect] = {}
    rows: list[dict[str, str]] = []
    followed = "There is no place to write weights along the directions of a probe."
    highest = LEAST_KNOWN
    for place, of_place in written(model, task, num_episodes).items():
        kinds = {
            TARGETS.best: of_place.effect if of_place.r2 >= LEAST_KNOWN else None,
            f"{TARGETS.best}, exactly": of_place.exact,
            "W of one step": of_place.one_step,
        }
        for kind, effect in kinds.items():
            if effect is not None:
                effects[f"{place.label}, {kind}"] = effect
            if effect is not None or kind == TARGETS.best:
                rows.append(_row(place, of_place, kind, effect))
        if of_place.r2 >= highest:
            highest = of_place.r2
            followed = (
                f"Where a probe tells most of {TARGETS.best}, in {place.label}, writing it has an "
                f"effect of {_cell(of_place.effect.written)}, control "
                f"{_cell(of_place.effect.control)}."
            )
    parts = without(model, task, num_episodes)
    taken = [{"without": part, "error, more": _cell(more)} for part, more in parts.items()]
    figure, (left, right) = new_figure(2)
    figure.set_size_inches(10, 1.5 + INCHES * max(len(parts), len(effects), 6))
    for label, color, values in (
        ("these weights", BLUE, [effect.written for effect in effects.values()]),
        ("a third episode's", GRAY, [effect.control for effect in effects.values()]),
    ):
        _draw_rows(left, label, color, list(effects), values)
    left.set_xlabel("effect of the written weights")
    if effects:
        legend(left)
    _draw_rows(right, "", VERMILION, list(parts), list(parts.values()))
    right.set_xlabel("error without it, more / error of zero")
    text = f"""\
The weights of the best algorithm in another episode are written along the directions of a probe.
The *effect* is how far predictions follow: 1 all the way, 0 not at all. Beside it stands that of
writing a third episode's weights, the control. It is 1 where a place answers with just the weights
that are written, and above 1 where it answers with larger ones. Rows without an effect are of
places whose probe has an R2 below {LEAST_KNOWN}: there is nothing to write along. The second table,
on the right, has by how much the error at the query grows without each part, divided by that of
predicting zero; the figure ends at {MOST:g}.
{"" if rows else "The model has no place to write weights into."}"""
    needed = max(parts, key=lambda part: parts[part].value)
    found = f"{followed} Most is lost without {needed}: {_cell(parts[needed])} more error."
    return Section("What the model uses", found, text, [rows, taken] if rows else [taken], figure)


def _row(place: Place, found: Written, kind: str, effect: Effect | None) -> dict[str, str]:
    """Of weights that are written, or of a place where there is nothing to write along."""
    by_probe = kind == TARGETS.best
    return {
        "place": place.label,
        "written": kind,
        "R2 of the probe": f"{found.r2:z.3f}" if by_probe else "",
        "effect": _cell(effect and effect.written),
        "of a third episode's": _cell(effect and effect.control),
        "size of the change": f"{found.size:.2f}" if by_probe and effect else "",
    }


def _draw_rows(
    ax: Axes, label: str, color: str, names: Sequence[str], values: Sequence[Interval]
) -> None:
    """A dot with its interval in each row; what is beyond `MOST` stands there."""
    shown = [max(min(value.value, MOST), -MOST) for value in values]
    ci95 = [min(value.ci95, MOST) for value in values]
    places = range(len(names))
    ax.errorbar(
        shown, places, xerr=ci95, fmt="o", markersize=4, capsize=2, color=color, label=label
    )
    ax.axvline(0, color=FAINT, zorder=0)
    ax.set_yticks(places, names, fontsize=7)
    ax.set_ylim(max(len(names), 1) - 0.5, -0.5)


def states(model: Predictor, task: Task, num_episodes: int) -> Section:
    """The weights that a model answers with, beside those of algorithms, example by example.

    Args:
        model: Any that predicts values.
        task: Of whose episodes.
        num_episodes: In the test.
    """
    drawn, num = episodes(task, "test", num_episodes), task.spec.num_context
    pairs = drawn.x, drawn.y, queries_of(drawn.x)
    W, nonlinear = _weights(model, *pairs)
    algorithms = {
        f"{task.best}, the best": solver(task.best, task),
        "one step of gradient descent": solver("gradient_descent", task, 1),
        "delta rule": solver("online_gradient_descent", task),
    }
    if task.best != "ridge":
        algorithms["ridge"] = solver("ridge", task)
    figure, axes = new_figure(2)
    table, last = [], {}
    for i, (name, algorithm) in enumerate(algorithms.items()):
        compared = in_time(W, _weights(algorithm, *pairs)[0])
        cosines, updates, differences = map(
            mean_by_position, (compared.cosine, compared.update_cosine, compared.difference)
        )
        style = marked({"color": PALETTE[i], "linestyle": LINES[i]}, MARKERS[i])
        draw_curve(axes[0], range(len(cosines)), cosines, name, style)
        draw_curve(axes[1], range(1, len(updates) + 1), updates, name, style)
        halfway = max(1, num // 2)
        table.append(
            {
                "weights of": name,
                f"cosine after {halfway} examples": _cell(cosines[halfway]),
                f"after {num}": _cell(cosines[-1]),
                "of the last update": _cell(updates[-1]),
                "difference": _cell(differences[-1]),
            }
        )
        if cosines[-1] is not None:
            last[name] = cosines[-1]
    for ax, of_what in zip(axes, ("weights", "updates"), strict=True):
        label_examples(ax)
        ax.set_ylabel(f"cosine of the {of_what}")
    legend(axes[-1])
    text = f"""\
The weights W with q W nearest to what the model answers to gaussian queries q, after every number
of examples. After all {num} of them, {nonlinear[:, -1].mean().item():.2g} of the square of its
answers is explained by no weights. The algorithms are told of the episodes or fitted to them, not
to the model. *Difference* is |W - V| / |V|, for the weights V of an algorithm."""
    found = "It answers with no weights that could be compared."
    if last:
        nearest = max(last, key=lambda name: last[name].value)
        found = (
            f"After all examples the weights it answers with are most like those of {nearest}: "
            f"cosine {_cell(last[nearest])}."
        )
    return Section("The state as an algorithm", found, text, [table], figure)


def _weights(predictor: Predictor, x: Tensor, y: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    """`read_out` of some episodes at a time."""
    batches = zip(x.split(BATCH), y.split(BATCH), q.split(BATCH), strict=True)
    W, nonlinear = zip(*(read_out(predictor, *batch) for batch in batches), strict=True)
    return torch.cat(W), torch.cat(nonlinear)


def _label_layers(ax: Axes) -> None:
    ax.set_xlabel("layer")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _cell(found: Interval | Summary | None) -> str:
    """To three decimals, without an interval that rounds to nothing; empty of what is undefined."""
    if found is None:
        return ""
    ci95 = "" if found.ci95 is None or found.ci95 < 0.0005 else f" {half_interval(found.ci95)}"
    return f"{found.value:z.3f}{ci95}"
