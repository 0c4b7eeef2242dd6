"""The tables of docs/zoo.md: what was trained, over its seeds, beside exact algorithms."""

import json
from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

from zoo.hub.card import CONVERGED, Card, MetricEntry, TrainingEntry, split_seed
from zoo.hub.pages import Comparison, Row, comparisons, in_markdown, tail
from zoo.metrics.errors import interval_over_seeds
from zoo.metrics.text import error_over_runs, loss_label, number_text, plain

# Beside numbers of a training whose interval says nothing of other seeds.
ONE_SEED = "†"
# Beside episodes that grew in the course of training.
GROWING = ", growing"
# Beside a rate that all seeds trained at after they had diverged at a better one, or fell short.
NEXT_BEST = "next best"
# Beside the smallest and the largest of the rates that were tried.
EDGE = "edge"


class Line(NamedTuple):
    """A line of a table: a training, or an exact algorithm.

    Attributes:
        name: Of the checkpoint of its first seed, or of the algorithm.
        errors: The loss of each seed.
        ratios: Of these to that of the reference, none where one of them has no such number.
        cards: Of its seeds, none for an algorithm.
    """

    name: str
    errors: list[MetricEntry]
    ratios: list[MetricEntry]
    cards: list[Card]

    @property
    def error(self) -> MetricEntry:
        """Its loss, a mean over the seeds where there are several."""
        return over_seeds(self.errors)


def leaderboard(cards: Sequence[Card]) -> str:
    """Markdown: one table for each kind of episodes.

    Raises:
        CheckpointError: If a card lacks the numbers for it.
    """
    if not cards:
        return "No checkpoint is shipped yet.\n"
    return "\n".join(map(_section, comparisons(cards)))


def by_training(cards: Sequence[Card]) -> list[list[Card]]:
    """Checkpoints of each training, its first seed first.

    They are called `architecture.tag` and `architecture.tag@SEED` and differ in nothing that was
    set but the seed; one that does, as when only some were trained anew, stands by itself.
    """
    found: dict[tuple[str, str], list[Card]] = {}
    for card in sorted(cards, key=lambda card: card.name):
        found.setdefault((split_seed(card.name)[0], _settings(card)), []).append(card)
    return [sorted(seeds, key=_place) for seeds in found.values()]


def over_seeds(entries: Sequence[MetricEntry]) -> MetricEntry:
    """A number of several seeds, measured on the same episodes.

    It is their mean with its 95 % interval (Student's t), the mean of their medians, and the
    largest of their tails. Where that of one is heavy, no interval but the range of all is given.
    """
    first, *others = entries
    if not others:
        return first
    value, ci95 = interval_over_seeds([entry.value for entry in entries])
    medians = [entry.median for entry in entries if entry.median is not None]
    shares = [entry.tail_share for entry in entries if entry.tail_share is not None]
    found = MetricEntry(
        value=value,
        ci95=ci95,
        median=fmean(medians) if medians else None,
        tail_share=max(shares, default=None),
        num_episodes=first.num_episodes,
        eval_seed=first.eval_seed,
    )
    if all(entry.ci95 is not None for entry in entries):
        return found
    ends = [e for entry in entries for e in (entry.lowest, entry.value, entry.highest)]
    known = [end for end in ends if end is not None]
    return found.model_copy(update={"ci95": None, "lowest": min(known), "highest": max(known)})


def _place(card: Card) -> int:
    seed = split_seed(card.name)[1]
    return -1 if seed is None else seed  # the first one has none in its name


def _settings(card: Card) -> str:
    """All that the seeds of a training have in common."""
    training = card.training.model_dump(exclude={"seed", "wall_time_s"})
    training["schedule"].pop("convergence", None)
    same = (card.architecture, card.model_args, card.token_layout, card.data, training)
    return json.dumps(same, sort_keys=True)


def _lines(comparison: Comparison) -> list[Line]:
    rows = {row.name: row for row in comparison.rows if row.entry is not None}
    trainings = by_training(comparison.cards)
    lines = [_line(cards, [rows[card.name] for card in cards]) for cards in trainings]
    lines += [Line(r.name, [r.error], [], []) for r in comparison.rows if r.entry is None]
    return sorted(lines, key=lambda line: (line.error.value, line.name))


def _line(cards: list[Card], rows: list[Row]) -> Line:
    ratios = [row.ratio for row in rows if row.ratio is not None]
    errors = [row.error for row in rows]
    return Line(cards[0].name, errors, ratios if len(ratios) == len(rows) else [], cards)


def _section(comparison: Comparison) -> str:
    episodes = in_markdown(comparison.episodes)
    lines = [
        f"### {episodes}",
        "",
        f"{loss_label(comparison.metric, at_place=True)} on {comparison.num_episodes} test "
        f"episodes (seed {comparison.eval_seed}).",
        "",
        f"![losses on {episodes}](figures/zoo/{comparison.slug}.svg)",
        "",
        "| predictor | tokens | loss at | rate | seeds | parameters | state | "
        f"{loss_label(comparison.metric)} | median | worst 0.1 % | / {comparison.reference} | "
        "test episodes | training episodes | seconds | study |",
        "|---|---|---|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|",
        *(f"| {' | '.join(_cells(line))} |" for line in _lines(comparison)),
    ]
    return "\n".join(lines) + "\n"


def _cells(line: Line) -> list[str]:
    one_seed = len(line.cards) == 1
    numbers = [_number(line.errors, one_seed), *tail(line.error), _number(line.ratios, one_seed)]
    num_tests = f"{line.error.num_episodes:,}"
    if not line.cards:
        return [f"*{in_markdown(line.name)}*", *[""] * 6, *numbers, num_tests, *[""] * 3]
    first = line.cards[0]
    seconds = sum(card.training.wall_time_s for card in line.cards) / len(line.cards)
    return [
        f"`{line.name}`",
        in_markdown(first.token_layout),
        first.training.loss_at,
        _rate(first.training),
        _seeds(line.cards),
        f"{first.num_parameters:,}",
        f"{first.state_size:,}",
        *numbers,
        num_tests,
        f"{first.training.episodes:,}{GROWING if first.data.get('curriculum') else ''}",
        f"{seconds:,.0f}",
        in_markdown(first.training.study.partition("/")[0]),
    ]


def _number(entries: list[MetricEntry], one_seed: bool) -> str:
    """The mean over seeds, each where a tail is heavy; of one that of its episodes, with a mark."""
    if not entries:
        return ""
    found = over_seeds(entries)
    if one_seed:
        return f"{number_text(found)} {ONE_SEED}"
    if len(entries) == 1:
        return number_text(found)
    seeds = [entry.value for entry in entries]
    if found.lowest is None or found.highest is None:
        return error_over_runs(found.value, found.ci95, seeds)
    # A mean over seeds says nothing where few episodes decide the mean of each.
    listed = ", ".join(plain(value, 2) for value in seeds)
    return f"by seed {listed} (heavy tail, {plain(found.lowest, 2)} to {plain(found.highest, 2)})"


def _rate(training: TrainingEntry) -> str:
    """The learning rate, and how it was chosen among others, as far as the card says so."""
    lr, tried = training.optimizer.get("lr"), training.tried
    if not isinstance(lr, int | float):
        return ""
    if len(tried.rates) < 2:
        return f"{lr:g}"
    marks = [NEXT_BEST] if tried.rates_given_up or tried.rates_fell_short else []
    marks += [EDGE] if lr in (min(tried.rates), max(tried.rates)) else []
    return ", ".join([f"{lr:g} of {len(tried.rates)}", *marks])


def _seeds(cards: list[Card]) -> str:
    """How many there are, of how many, how many had converged, and whether that is a comparison."""
    training, shown = cards[0].training, len(cards)
    text = str(shown) if shown >= training.num_seeds else f"{shown} of {training.num_seeds}"
    if shown == training.num_seeds == 1:
        text += ", *measurement*"
    verdicts = [v for card in cards if (v := card.training.verdict) not in (None, "unknown")]
    if verdicts:
        number = f"{verdicts.count(CONVERGED)} of {shown} converged"
        text += f", {verdicts[0] if shown == 1 else number}"
    return text
