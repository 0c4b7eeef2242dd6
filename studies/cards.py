"""Measures checkpoints again with today's code: `python -m studies.cards checkpoints/*`.

The weights and what a card says of their training stay. What is measured is written anew: metrics,
reference metrics, curves, and with them the layout of the card. `python -m zoo index` comes next.
"""

import argparse
import time
from pathlib import Path

import torch

from datamodules import EpisodeSpec
from zoo.evaluation.episodes import evaluation_batches
from zoo.evaluation.report import create_report
from zoo.files import write_file
from zoo.hub.card import SCHEMA_VERSION, Card
from zoo.hub.directory import CARD, card_bytes, read_card
from zoo.hub.io import load_checkpoint
from zoo.metrics.text import number_text
from zoo.references import closed_form_of, references_of
from zoo.training.card import measured_fields
from zoo.training.settings import num_test_of

NUM_EPISODES = 10_000


def measured_again(directory: Path, num_episodes: int = NUM_EPISODES) -> Card:
    """The card of a checkpoint with today's numbers.

    Args:
        directory: Of the checkpoint.
        num_episodes: Test episodes; ten times as many for models whose mean single ones decide.

    Raises:
        CheckpointError: If it cannot be loaded.
    """
    card, model = read_card(directory), load_checkpoint(directory)
    spec = EpisodeSpec(**card.data)
    number = num_test_of(num_episodes, model.heavy_tailed)
    report = create_report(
        model,
        references_of(spec, card.model_args),
        closed_form_of(spec),
        lambda i: evaluation_batches(spec, number, number=i),
        spec.mean_function(),
    )
    new = {"schema_version": SCHEMA_VERSION, "paper": model.paper, **measured_fields(report)}
    return Card.model_validate({**card.model_dump(), **new})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directories", nargs="+", type=Path, metavar="DIRECTORY")
    parser.add_argument("--episodes", type=int, default=NUM_EPISODES)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # of more, each waits for the others: tensors here are small
    for directory in arguments.directories:
        start, old = time.perf_counter(), read_card(directory)
        card = measured_again(directory, arguments.episodes)
        write_file(directory / CARD, card_bytes(card))
        print(f"{card.name}, {time.perf_counter() - start:.0f} s", flush=True)
        before, after = texts_of(old), texts_of(card)
        for name in before | after:
            if before.get(name) != after.get(name):
                print(f"  {name}: {before.get(name)} -> {after.get(name)}", flush=True)


def texts_of(card: Card) -> dict[str, str]:
    """The numbers of a card as text, by name."""
    references = {f"{name} (exact)": entry for name, entry in card.reference_metrics.items()}
    return {name: number_text(entry) for name, entry in {**card.metrics, **references}.items()}


if __name__ == "__main__":
    main()
