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

from zoo.hub.card import Card, CurvePoint
from zoo.hub.pages import METRIC_LABELS, Comparison

MODEL = "model"  # what a card's curves call the checkpoint itself
# Exact solutions have errors of rounding; the axes end at this fraction of the best model's.
BELOW_BEST = 0.3


def chart(comparison: Comparison) -> bytes:
    """Loss against examples, parameters and state size, of models and exact algorithms, as SVG.

    The file says in its metadata which numbers it shows, so that a stale one is known by
    `shows` even where another version of matplotlib would draw it differently.
    """
    figure = Figure(figsize=(10.5, 4.2), layout="constrained")
    curves, sizes, states = figure.subplots(1, 3, sharey=True)
    colors = dict(zip(_cards(comparison), matplotlib.color_sequences["tab20"], strict=False))
    exact: dict[str, list[CurvePoint | None]] = {}
    for name, card in _cards(comparison).items():
        _draw_curve(curves, card.curves.get(MODEL, []), color=colors[name], label=name)
        exact |= {solver: curve for solver, curve in card.curves.items() if solver != MODEL}
    styles = dict(zip(sorted(exact), _gray_styles(), strict=False))
    for solver, style in styles.items():
        _draw_curve(curves, exact[solver], label=solver, **style)
    learned = [row for row in comparison.rows if row.entry is not None]
    for row in comparison.rows:
        for axes in (sizes, states) if row.name in styles else ():
            axes.axhline(row.error.value, linewidth=1, **styles[row.name])
    for row in learned:
        assert row.entry is not None
        for axes, size in ((sizes, row.entry.num_parameters), (states, row.entry.state_size)):
            axes.errorbar(
                size, row.error.value, row.error.ci95, marker="o", capsize=2, color=colors[row.name]
            )
    for axes, label in ((sizes, "parameters"), (states, "numbers in the state")):
        axes.set_xscale("log")
        axes.set_xmargin(0.2)
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel(label)
    curves.set_xlabel("examples in the context")
    curves.set_ylabel(METRIC_LABELS[comparison.metric])
    curves.set_yscale("log")
    starts = [c[0].value for c in exact.values() if c and c[0] is not None]
    highest = max([*starts, *(row.error.value for row in learned)])
    curves.set_ylim(BELOW_BEST * min(row.error.value for row in learned), 2 * highest)
    for axes in (curves, sizes, states):
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(comparison.episodes)
    figure.legend(frameon=False, fontsize=8, loc="outside lower center", ncols=4)
    with matplotlib.rc_context({"svg.hashsalt": "icl-zoo", "svg.fonttype": "none"}):
        content = io.BytesIO()
        metadata = {"Date": None, "Description": _digest(comparison)}
        figure.savefig(content, format="svg", metadata=metadata)
    return content.getvalue()


def shows(svg: bytes, comparison: Comparison) -> bool:
    """Whether a figure was drawn from these numbers."""
    found = re.search(rb"<dc:description>([0-9a-f]{64})</dc:description>", svg)
    return found is not None and found[1].decode() == _digest(comparison)


def _draw_curve(axes: Axes, curve: list[CurvePoint | None], **style: Any) -> None:
    found = [(place, point) for place, point in enumerate(curve) if point is not None]
    places = [place for place, _ in found]
    (line,) = axes.plot(places, [point.value for _, point in found], **style)
    axes.fill_between(
        places,
        [point.value - point.ci95 for _, point in found],
        [point.value + point.ci95 for _, point in found],
        color=line.get_color(),
        alpha=0.2,
        linewidth=0,
    )


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
    rows = [(row.name, row.error.value, row.error.ci95) for row in comparison.rows]
    data = json.dumps([comparison.episodes, comparison.metric, shown, rows], sort_keys=True)
    return hashlib.sha256(data.encode()).hexdigest()
