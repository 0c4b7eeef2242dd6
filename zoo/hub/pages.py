"""Cards as pages: the model card of one checkpoint, tables that compare several."""

import json
import re
from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

from zoo.hub.card import Card, MetricEntry, TrainingEntry
from zoo.hub.directory import card_bytes
from zoo.hub.index import IndexEntry, index_entry
from zoo.metrics.text import (
    loss_label,
    may_reach_zero,
    number_text,
    optional,
    place_of,
    place_text,
    plain,
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


def model_card(card: Card, address: str = "") -> str:
    """The README.md of a checkpoint: its page, with the front matter that Hugging Face reads.

    Tags are sorted, as huggingface_hub's mixins write them. Theirs are not among them: they say
    that the class of a model inherits from such a mixin.

    Args:
        card: The card.
        address: Where the checkpoint is read, if that is known.
    """
    family = index_entry(card, card_bytes(card), card.name).family
    return "\n".join(
        [
            "---",
            f"license: {json.dumps(card.license.lower())}",
            "library_name: icl-zoo",
            f"tags: {json.dumps(sorted({'in-context-learning', card.architecture, family}))}",
            "---",
            "",
            card_page(card, address),
        ]
    )


def card_page(card: Card, address: str = "") -> str:
    """Markdown: what the card says, for people; arguments are those of `model_card`."""
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
            f"- architecture: {in_markdown(card.architecture)} ({in_markdown(arguments)})",
            f"- tokens: {in_markdown(card.token_layout)}",
            f"- {card.num_parameters:,} parameters, a state of {card.state_size:,} numbers",
            f"- trained on {training.episodes:,} episodes of {in_markdown(entry.episodes_label)} "
            f"in {training.steps:,} steps, {training.wall_time_s:,.0f} s, seed {training.seed}",
            *([f"- loss {place_text(training.loss_at)}"] if training.loss_at else []),
            f"- {in_markdown(protocol_text(training))}",
            f"- command: {in_markdown(card.command)}",
            *([f"- paper: {in_markdown(card.paper)}"] if card.paper else []),
            *([f"- {in_markdown(card.notes)}"] if card.notes else []),
            "",
            "```python",
            "import zoo",
            "",
            f"model = zoo.load({json.dumps(address or f'path/to/{card.name}')})",
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


def protocol_text(training: TrainingEntry) -> str:
    """What stands behind one trained model: seeds, the choice of its rate, convergence, a study.

    A model of one seed and one rate says little of its architecture.
    """
    seeds = "one seed" if training.num_seeds == 1 else f"one of {training.num_seeds} seeds"
    tried = training.tried
    if len(tried.rates) < 2:
        parts = [f"{seeds}, one rate"]
    else:
        errors = {rate: list(of_rate.values()) for rate, of_rate in sorted(tried.rates.items())}
        lost = {
            rate: f"; then {num} of {training.num_seeds} seeds diverged"
            for rate, num in tried.rates_given_up.items()
        }
        later = lost | {
            rate: f"; then {num} of {training.num_seeds} seeds ended above that"
            for rate, num in tried.rates_fell_short.items()
        }
        listed = ", ".join(
            f"{rate:g} ({plain(fmean(values)) if values else 'diverged'}{later.get(rate, '')})"
            for rate, values in errors.items()
        )
        kept = " of those at which no seed diverged" if lost else ""
        if tried.rates_fell_short:
            kept = " of those that held"
        steps = "" if tried.rates_steps is None else f" after {tried.rates_steps:,} steps"
        rate = training.optimizer.get("lr")
        best = f"the best in validation{steps}{kept}"
        parts = [seeds, f"learning rate {rate}, {best}{':' if later else ' of'} {listed}"]
    if training.verdict is not None:
        parts.append({"unknown": "convergence unknown"}.get(training.verdict, training.verdict))
    if training.study:
        parts.append(f"training {training.study}")
    return "; ".join(parts)


def number(name: str, entry: MetricEntry) -> str:
    """A metric with its 95 % interval, or why it has none."""
    return number_text(entry, signed=may_reach_zero(name))


def tail(entry: MetricEntry) -> list[str]:
    """Median of an error and the share of the worst episodes; nothing where a card has none."""
    return [optional(entry.median), share_text(entry.tail_share)]


def _metric_line(name: str, entry: MetricEntry) -> str:
    return f"| {' | '.join([in_markdown(name), number(name, entry), *tail(entry)])} |"


def in_markdown(text: str) -> str:
    """A text of a card where Markdown could take it for more."""
    text = " ".join(text.split())
    for character in "\\`*[]|":
        text = text.replace(character, f"\\{character}")
    return text.replace("<", "&lt;")
