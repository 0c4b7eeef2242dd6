"""What is measured: trained models and solvers, by name, path or pattern."""

import os
from pathlib import Path
from typing import Any, NamedTuple

import zoo
from datamodules import EpisodeSpec
from zoo.evaluation.names import check_solvers, directories_of, solver_label
from zoo.hub.card import Card, one_line
from zoo.hub.directory import read_card
from zoo.predictor import Predictor
from zoo.references import TUNE_EPISODES
from zoo.registry import check_solver_arguments

# In the episodes that a card asks for, which may come from anybody; solvers are fitted on some too.
MAX_NUMBERS = 2 * 10**8


class Entry(NamedTuple):
    """Something to be measured.

    Attributes:
        label: Its name in every table.
        name: Registered name of the solver, or of the architecture.
        model: The trained model, None for a solver.
        card: Its card.
        arguments: What the solver is told.
        place: Where the checkpoint is.
    """

    label: str
    name: str
    model: Predictor | None
    card: Card | None
    arguments: dict[str, Any]
    place: str = ""


def entries_of(given: list[str | dict[str, Any]], device: str = "cpu") -> list[Entry]:
    """What names, paths, patterns and arguments stand for.

    Raises:
        ValueError: If one of them stands for nothing.
    """
    entries = [entry for item in given for entry in _entries(item, device)]
    entries = list({(entry.label, entry.place): entry for entry in entries}.values())
    labels = [entry.label for entry in entries]
    return [
        # Runs of the same name are told apart by where they are.
        entry._replace(label=f"{entry.label} {entry.place}")
        if labels.count(entry.label) > 1
        else entry
        for entry in entries
    ]


def solvers_of(given: list[str | dict[str, Any]]) -> list[Entry]:
    """What names of solvers, and names with arguments, stand for.

    Raises:
        ValueError: If one of them is no solver.
    """
    check_solvers(given)
    told = [dict(item) if isinstance(item, dict) else {"name": item} for item in given]
    return [_solver(arguments.pop("name"), arguments) for arguments in told]


def with_reference(entries: list[Entry], given: str | dict[str, Any]) -> tuple[list[Entry], str]:
    """The entries with one that others are compared with, and the label of that.

    Raises:
        ValueError: If it stands for nothing or for several predictors.
    """
    labels = [entry.label for entry in entries]
    if isinstance(given, str) and given in labels:
        return entries, given
    reference, *others = entries_of([given])
    if others:
        raise ValueError(f"compare_with must be one predictor, {given!r} are several")
    if reference.label in labels:
        return entries, reference.label
    return [*entries, reference], reference.label


def spec_of(data: EpisodeSpec | None, num_episodes: int, entries: list[Entry]) -> EpisodeSpec:
    """The episodes to start from: those given, else what the checkpoints were trained on.

    Without either these are the paper's, linear regression with d = N = 10.

    Args:
        data: Those that are given, if any.
        num_episodes: How many are to be drawn.
        entries: The checkpoints among them have specs.

    Raises:
        ValueError: If the checkpoints do not agree, or ask for more than can be drawn.
    """
    if data is not None:
        return data
    # A curriculum is a matter of training; episodes here have their final sizes.
    specs = [
        EpisodeSpec(**entry.card.data | {"curriculum": None})
        for entry in entries
        if entry.card is not None
    ]
    if not specs:
        return EpisodeSpec()
    if any(spec != specs[0] for spec in specs):
        raise ValueError(
            "the checkpoints were trained on different episodes: choose some, as in data=linear"
        )
    num_episodes = max(num_episodes, TUNE_EPISODES)
    if specs[0].labels_hidden:  # drawn a few at a time, and nothing is fitted on them
        num_episodes = min(num_episodes, specs[0].set_batch)
    numbers = num_episodes * _numbers_drawn(specs[0])
    if numbers > MAX_NUMBERS:
        raise ValueError(
            f"the card's data ask for {numbers:.1g} numbers in {num_episodes} episodes, "
            f"at most {MAX_NUMBERS:.1g} are drawn: choose fewer or others, as in data=linear"
        )
    return specs[0]


def _entries(item: str | dict[str, Any], device: str) -> list[Entry]:
    if isinstance(item, dict) or item in zoo.list_solvers():
        return solvers_of([item])
    return [_checkpoint(directory, device) for directory in directories_of(item)]


def _solver(name: str, arguments: dict[str, Any]) -> Entry:
    check_solver_arguments(name, arguments)
    return Entry(solver_label(name, arguments), name, None, None, arguments)


def _checkpoint(directory: Path, device: str) -> Entry:
    card = read_card(directory)
    model = zoo.load(directory, device=device)
    model.card = None  # suites go beyond its training on purpose, and tables show the outcome
    place = one_line(os.path.relpath(directory))
    return Entry(card.name, card.architecture, model, card, {}, place)


def _numbers_drawn(spec: EpisodeSpec) -> int:
    """About how many numbers an episode and its function take."""
    length, widths = spec.num_context + 1, spec.d_x + spec.d_y
    sizes = _sum_of_sizes(spec.function.model_dump())
    return length * widths + spec.d_x * spec.d_y + sizes * (length + widths)


def _sum_of_sizes(value: Any, name: str = "") -> int:
    if isinstance(value, dict):
        return sum(_sum_of_sizes(part, key) for key, part in value.items())
    if isinstance(value, list):
        return sum(map(_sum_of_sizes, value))
    if not isinstance(value, int) or name.endswith("seed") or name == "num_bytes":
        return 0
    return 2**value if name == "depth" else value
