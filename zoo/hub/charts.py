"""The figures of docs/zoo.md: one for each kind of episodes."""

import hashlib
import io
import json
import re

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from zoo.hub.card import Card, CheckpointError, CurvePoint
from zoo.hub.leaderboard import by_training
from zoo.hub.pages import Comparison
from zoo.metrics.drawing import bare, bounds, draw_curve, label_examples, label_loss, styles_of

MODEL = "model"  # what a card's curves call the checkpoint itself
UNLABELLED = "_"  # to matplotlib's legends
# Exact solutions have errors of rounding; the axes end at this fraction of the best model's.
BELOW_BEST = 0.3


def chart(comparison: Comparison) -> bytes:
    """Loss against examples, parameters and state size, of models and exact algorithms, as SVG.

    Every seed of a training has its curve and its dot, all in one colour and with one label.
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
    # By the name of a checkpoint that of its training: the first seed's, which alone is a label.
    training = {c.name: seeds[0].name for seeds in by_training(comparison.cards) for c in seeds}
    styles = styles_of([*sorted(set(training.values())), *sorted(exact)])
    if with_curves:
        label_examples(first)
        for name, card in cards.items():
            curve = card.curves.get(MODEL, [])
            label = name if name == training[name] else UNLABELLED
            draw_curve(first, range(len(curve)), curve, label, styles[training[name]])
        for solver, curve in exact.items():
            draw_curve(first, range(len(curve)), curve, solver, styles[solver])
    for axes in (sizes, states):
        for row in comparison.rows:
            error, entry = row.error, row.entry
            name = training.get(row.name, row.name)
            # One panel is enough for the legend.
            label = name if axes is first and name == row.name else UNLABELLED
            if entry is None:
                axes.axhline(error.value, linewidth=1, label=label, **styles[name])
            else:
                size = entry.num_parameters if axes is sizes else entry.state_size
                low, high = bounds(error)
                bars = [[error.value - low], [high - error.value]]
                axes.errorbar(size, error.value, bars, capsize=2, label=label, **styles[name])
        axes.set_xscale("log")
        axes.set_xmargin(0.2)
        axes.xaxis.set_minor_formatter(NullFormatter())
    sizes.set_xlabel("parameters")
    states.set_xlabel("numbers in the state")
    label_loss(first, comparison.metric)
    first.set_yscale("log")
    starts = [c[0].value for c in exact.values() if c and c[0] is not None]
    if not with_curves:
        starts = [row.error.value for row in comparison.rows]
    highest = max([*starts, *(row.error.value for row in learned)])
    first.set_ylim(BELOW_BEST * min(row.error.value for row in learned), 2 * highest)
    bare(*figure.axes)
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


def _cards(comparison: Comparison) -> dict[str, Card]:
    return {card.name: card for card in comparison.cards}


def _digest(comparison: Comparison) -> str:
    """Hash of every number and name in the figure."""
    shown = {
        name: [card.model_dump(mode="json")["curves"], card.num_parameters, card.state_size]
        for name, card in _cards(comparison).items()
    }
    rows = [(row.name, row.error.value, *bounds(row.error)) for row in comparison.rows]
    data = json.dumps([comparison.episodes, comparison.metric, shown, rows], sort_keys=True)
    return hashlib.sha256(data.encode()).hexdigest()
