"""Cards as pages: the model card of one checkpoint, tables that compare several."""

import json
import re
from collections.abc import Sequence
from typing import NamedTuple

from zoo.hub.card import Card, MetricEntry
from zoo.hub.directory import card_bytes
from zoo.hub.index import IndexEntry, index_entry
from zoo.metrics.text import (
    loss_label,
    may_reach_zero,
    number_text,
    optional,
    place_of,
    share_text,
)

# The algorithms whose loss others' are divided by: a card has a ratio to one of them.
REFERENCES = ("gradient_descent", "uniform")

# What a model does that learns from labels, and where they are hidden.
OF_PAIRS = (
    "An in-context learner: it predicts the label of a query from examples given beside it, "
    "without a change of its weights."
)
OF_SEQUENCES = (
    "A sequence model: at every position it predicts what is asked there from the symbols so far, "
    "without a change of its weights."
)
# Above the tables of numbers.
TAIL = (
    "Worst 0.1 % is the share of the mean that these episodes carry. Above 10 % the tail is heavy: "
    "instead of an interval stands the range of the means of ten further sets of as many episodes."
)


class Row(NamedTuple):
    """A learned model or an exact algorithm among others.

    Attributes:
        name: Of the checkpoint or the solver.
        entry: The checkpoint's numbers, None for a solver.
        error: Its loss at the query.
        ratio: Of its loss to that of the reference, paired.
    """

    name: str
    entry: IndexEntry | None
    error: MetricEntry
    ratio: MetricEntry | None


class Comparison(NamedTuple):
    """What was measured on the same episodes, the lowest loss first.

    Attributes:
        episodes: Which, in a few words.
        metric: Name of the loss.
        eval_seed: Seed of the episodes.
        reference: The algorithm whose loss the models' are divided by.
        rows: Models and algorithms.
        cards: Of the models.
    """

    episodes: str
    metric: str
    eval_seed: int
    reference: str
    rows: list[Row]
    cards: list[Card]

    @property
    def num_episodes(self) -> str:
        """How many test episodes: models with heavy tails are measured on more of the same."""
        numbers = sorted({row.error.num_episodes for row in self.rows})
        return " or ".join(f"{number:,}" for number in numbers)

    @property
    def slug(self) -> str:
        """The episodes as a part of a file's name, e.g. `linear_d10_N10`."""
        return re.sub(r"[^A-Za-z0-9.-]+", "_", self.episodes.replace("=", ""))


def comparisons(cards: Sequence[Card]) -> list[Comparison]:
    """Checkpoints side by side, with the exact algorithms on the same episodes.

    Raises:
        CheckpointError: If a card lacks the numbers for it.
    """
    groups: dict[tuple[str, ...], list[tuple[Card, IndexEntry]]] = {}
    for card in cards:
        entry = index_entry(card, card_bytes(card), card.name)
        # A curriculum is over when a model is tested.
        data = {key: value for key, value in card.data.items() if key != "curriculum"}
        same = (data, entry.metric, entry.error.eval_seed)
        key = (_episodes_label(card, entry), json.dumps(same, sort_keys=True))
        groups.setdefault(key, []).append((card, entry))
    keys = sorted(groups)
    labels = [label for label, _ in keys]
    found = []
    for place, (group, label) in enumerate(zip(keys, labels, strict=True)):
        # Kinds that differ in what a label does not say are numbered.
        suffix = f" ({labels[: place + 1].count(label)})" if labels.count(label) > 1 else ""
        found.append(_comparison(label + suffix, groups[group]))
    return found


def _episodes_label(card: Card, entry: IndexEntry) -> str:
    function = card.data.get("function")
    around = isinstance(function, dict) and function.get("mean_scale", 0)
    return entry.episodes_label + (" around a mean" if around else "")


def _comparison(episodes: str, group: list[tuple[Card, IndexEntry]]) -> Comparison:
    metrics = {name for card, _ in group for name in card.metrics}
    known = (name for name in REFERENCES if f"test/ratio_to_{name}" in metrics)
    reference = next(known, REFERENCES[0])
    rows = [
        Row(card.name, entry, entry.error, card.metrics.get(f"test/ratio_to_{reference}"))
        for card, entry in group
    ]
    solvers: dict[str, MetricEntry] = {}
    for _, entry in group:
        for name, value in entry.references.items():
            # The number of the most episodes.
            if name not in solvers or value.num_episodes > solvers[name].num_episodes:
                solvers[name] = value
    rows += [Row(name, None, value, None) for name, value in solvers.items()]
    rows.sort(key=lambda row: (row.error.value, row.name))
    _, first = group[0]
    cards = sorted((card for card, _ in group), key=lambda card: card.name)
    return Comparison(episodes, first.metric, first.error.eval_seed, reference, rows, cards)


def leaderboard(cards: Sequence[Card]) -> str:
    """Markdown: one table for each kind of episodes."""
    if not cards:
        return "No checkpoint is shipped yet.\n"
    return "\n".join(map(_leaderboard_section, comparisons(cards)))


def _leaderboard_section(comparison: Comparison) -> str:
    episodes = _plain(comparison.episodes)
    lines = [
        f"### {episodes}",
        "",
        f"{loss_label(comparison.metric, at_place=True)} on {comparison.num_episodes} test "
        f"episodes (seed {comparison.eval_seed}).",
        "",
        f"![losses on {episodes}](figures/zoo/{comparison.slug}.svg)",
        "",
        f"| predictor | tokens | parameters | state | {loss_label(comparison.metric)} | median | "
        f"worst 0.1 % | / {comparison.reference} | test episodes | training episodes | seconds |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in comparison.rows:
        entry, ratio = row.entry, "" if row.ratio is None else number_text(row.ratio)
        error = [number_text(row.error), *tail(row.error), ratio, f"{row.error.num_episodes:,}"]
        if entry is None:
            cells = [f"*{_plain(row.name)}*", "", "", "", *error, "", ""]
        else:
            cells = [
                f"`{row.name}`",
                _plain(entry.token_layout),
                f"{entry.num_parameters:,}",
                f"{entry.state_size:,}",
                *error,
                f"{entry.episodes:,}",
                f"{entry.wall_time_s:,.0f}",
            ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def model_card(card: Card) -> str:
    """The README.md of a checkpoint: its page, with the front matter that Hugging Face reads."""
    family = index_entry(card, card_bytes(card), card.name).family
    return "\n".join(
        [
            "---",
            f"license: {json.dumps(card.license.lower())}",
            "library_name: icl-zoo",
            f"tags: {json.dumps(['in-context-learning', card.architecture, family])}",
            "---",
            "",
            card_page(card),
        ]
    )


def card_page(card: Card) -> str:
    """Markdown: what the card says, for people."""
    entry = index_entry(card, card_bytes(card), card.name)
    metrics = [
        _metric_line(name, value)
        for name, value in card.metrics.items()
        if not name.endswith("_first_tenth")  # by which the card is checked
    ]
    references = [_metric_line(name, value) for name, value in card.reference_metrics.items()]
    arguments = ", ".join(f"{name}={value!r}" for name, value in card.model_args.items())
    training = card.training
    return "\n".join(
        [
            f"# {card.name}",
            "",
            OF_SEQUENCES if place_of(entry.metric) == "all" else OF_PAIRS,
            "",
            f"- architecture: {_plain(card.architecture)} ({_plain(arguments)})",
            f"- tokens: {_plain(card.token_layout)}",
            f"- {card.num_parameters:,} parameters, a state of {card.state_size:,} numbers",
            f"- trained on {training.episodes:,} episodes of {_plain(entry.episodes_label)} in "
            f"{training.steps:,} steps, {training.wall_time_s:,.0f} s, seed {training.seed}",
            f"- command: {_plain(card.command)}",
            *([f"- paper: {_plain(card.paper)}"] if card.paper else []),
            *([f"- {_plain(card.notes)}"] if card.notes else []),
            "",
            "```python",
            "import zoo",
            "",
            f'model = zoo.load("path/to/{card.name}")',
            "```",
            "",
            TAIL,
            "",
            "| metric | value | median | worst 0.1 % |",
            "|---|---:|---:|---:|",
            *metrics,
            "",
            f"{loss_label(entry.metric, at_place=True)} of exact algorithms on the same "
            f"{entry.error.num_episodes:,} episodes (seed {entry.error.eval_seed}):",
            "",
            "| algorithm | value | median | worst 0.1 % |",
            "|---|---:|---:|---:|",
            *references,
            "",
            "Everything else is in `card.json`, from which this page is made.",
            "",
        ]
    )


def number(name: str, entry: MetricEntry) -> str:
    """A metric with its 95 % interval, or why it has none."""
    return number_text(entry, signed=may_reach_zero(name))


def tail(entry: MetricEntry) -> list[str]:
    """Median of an error and the share of the worst episodes; nothing where a card has none."""
    return [optional(entry.median), share_text(entry.tail_share)]


def _metric_line(name: str, entry: MetricEntry) -> str:
    return f"| {' | '.join([_plain(name), number(name, entry), *tail(entry)])} |"


def _plain(text: str) -> str:
    """A text of a card where Markdown could take it for more."""
    text = " ".join(text.split())
    for character in "\\`*[]|":
        text = text.replace(character, f"\\{character}")
    return text.replace("<", "&lt;")
