"""The figures of docs/zoo.md: one for each kind of episodes."""

import hashlib
import io
import itertools
import json
import re
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from zoo.hub.card import Card, CheckpointError, CurvePoint
from zoo.hub.pages import METRIC_LABELS, Comparison
from zoo.metrics.errors import bounds

MODEL = "model"  # what a card's curves call the checkpoint itself
# Exact solutions have errors of rounding; the axes end at this fraction of the best model's.
BELOW_BEST = 0.3


def chart(comparison: Comparison) -> bytes:
    """Loss against examples, parameters and state size, of models and exact algorithms, as SVG.

    Where no card has curves, the panel of examples is left out.
    The file says in its metadata which numbers it shows, so that a stale one is known by
    `shows` even where another version of matplotlib would draw it differently.

    Raises:
        CheckpointError: If the numbers are beyond what can be drawn.
    """
    try:
        return _drawn(comparison)
    except (ValueError, OverflowError) as error:
        raise CheckpointError(
            f"the losses on {comparison.episodes} cannot be drawn: {error}"
        ) from None


def shows(svg: bytes, comparison: Comparison) -> bool:
    """Whether a figure was drawn from these numbers."""
    found = re.search(rb"<dc:description>([0-9a-f]{64})</dc:description>", svg)
    return found is not None and found[1].decode() == _digest(comparison)


def _drawn(comparison: Comparison) -> bytes:
    cards = _cards(comparison)
    with_curves = any(card.curves for card in cards.values())
    num_panels = 3 if with_curves else 2
    figure = Figure(figsize=(3.5 * num_panels, 4.2), layout="constrained")
    first, *others = figure.subplots(1, num_panels, sharey=True)
    sizes, states = others if with_curves else (first, *others)
    learned = [row for row in comparison.rows if row.entry is not None]
    exact: dict[str, list[CurvePoint | None]] = {
        row.name: [] for row in comparison.rows if row.entry is None
    }
    for card in cards.values():
        exact |= {solver: curve for solver, curve in card.curves.items() if solver != MODEL}
    tab20 = itertools.cycle(matplotlib.color_sequences["tab20"])
    colors = dict(zip(cards, tab20, strict=False))
    styles = dict(zip(sorted(exact), itertools.cycle(_gray_styles()), strict=False))
    if with_curves:
        first.set_xlabel("examples in the context")
        for name, card in cards.items():
            _draw_curve(first, card.curves.get(MODEL, []), label=name, color=colors[name])
        for solver, curve in exact.items():
            _draw_curve(first, curve, label=solver, **styles[solver])
    for axes in (sizes, states):
        for row in comparison.rows:
            label = row.name if axes is first else None  # one panel is enough for the legend
            error, entry = row.error, row.entry
            if entry is None:
                axes.axhline(error.value, linewidth=1, label=label, **styles[row.name])
            else:
                size = entry.num_parameters if axes is sizes else entry.state_size
                color = colors[row.name]
                low, high = _bounds(error)
                bars = [[error.value - low], [high - error.value]]
                axes.errorbar(
                    size, error.value, bars, marker="o", capsize=2, color=color, label=label
                )
        axes.set_xscale("log")
        axes.set_xmargin(0.2)
        axes.xaxis.set_minor_formatter(NullFormatter())
    sizes.set_xlabel("parameters")
    states.set_xlabel("numbers in the state")
    first.set_ylabel(METRIC_LABELS[comparison.metric])
    first.set_yscale("log")
    starts = [c[0].value for c in exact.values() if c and c[0] is not None]
    if not with_curves:
        starts = [row.error.value for row in comparison.rows]
    highest = max([*starts, *(row.error.value for row in learned)])
    first.set_ylim(BELOW_BEST * min(row.error.value for row in learned), 2 * highest)
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    # Names come from cards: a dollar sign in one is no formula.
    figure.suptitle(comparison.episodes, parse_math=False)
    legend = figure.legend(
        frameon=False, fontsize=8, loc="outside lower center", ncols=num_panels + 1
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    with matplotlib.rc_context({"svg.hashsalt": "icl-zoo", "svg.fonttype": "none"}):
        content = io.BytesIO()
        metadata = {"Date": None, "Description": _digest(comparison)}
        figure.savefig(content, format="svg", metadata=metadata)
    return content.getvalue()


def _draw_curve(axes: Axes, curve: list[CurvePoint | None], **style: Any) -> None:
    found = [(place, point) for place, point in enumerate(curve) if point is not None]
    places = [place for place, _ in found]
    (line,) = axes.plot(places, [point.value for _, point in found], **style)
    axes.fill_between(
        places,
        [_bounds(point)[0] for _, point in found],
        [_bounds(point)[1] for _, point in found],
        color=line.get_color(),
        alpha=0.2,
        linewidth=0,
    )


def _bounds(point: CurvePoint) -> tuple[float, float]:
    return bounds(point.value, point.ci95, point.tail_share, point.lowest, point.highest)


def _gray_styles() -> list[dict[str, Any]]:
    lines = itertools.product(("0.35", "0.6", "0.1"), ("--", ":", "-."))
    return [{"color": gray, "linestyle": dash} for gray, dash in lines]


def _cards(comparison: Comparison) -> dict[str, Card]:
    return {card.name: card for card in comparison.cards}


def _digest(comparison: Comparison) -> str:
    """Hash of every number and name in the figure."""
    shown = {
        name: [card.model_dump(mode="json")["curves"], card.num_parameters, card.state_size]
        for name, card in _cards(comparison).items()
    }
    rows = [(row.name, row.error.value, *_bounds(row.error)) for row in comparison.rows]
    data = json.dumps([comparison.episodes, comparison.metric, shown, rows], sort_keys=True)
    return hashlib.sha256(data.encode()).hexdigest()
