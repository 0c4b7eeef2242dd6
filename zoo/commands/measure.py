"""`python -m zoo measure`: checkpoints measured again, and which numbers of their cards changed."""

import time
from pathlib import Path

import torch

from zoo.files import write_file
from zoo.hub.card import Card
from zoo.hub.directory import CARD, card_bytes, read_card
from zoo.metrics.text import may_reach_zero, number_text
from zoo.training.remeasure import measured_again


def measure(directory: Path, num_episodes: int) -> None:
    """Measures a checkpoint, writes its card and prints each number that changed.

    Weights stay, and so does what the card says of their training.

    Args:
        directory: Of the checkpoint.
        num_episodes: Test episodes; ten times as many for models whose mean single ones decide.

    Raises:
        CheckpointError: If it cannot be loaded; nothing is written then.
    """
    torch.set_num_threads(1)  # of more, each waits for the others: tensors here are small
    start, old = time.perf_counter(), read_card(directory)
    card = measured_again(directory, num_episodes)
    write_file(directory / CARD, card_bytes(card))
    print(f"{card.name}, {time.perf_counter() - start:.0f} s", flush=True)
    before, after = texts_of(old), texts_of(card)
    for name in before | after:
        if before.get(name) != after.get(name):
            print(f"  {name}: {before.get(name)} -> {after.get(name)}", flush=True)


def texts_of(card: Card) -> dict[str, str]:
    """The numbers of a card as text, by name."""
    references = {f"{name} (exact)": entry for name, entry in card.reference_metrics.items()}
    return {
        name: number_text(entry, signed=may_reach_zero(name))
        for name, entry in {**card.metrics, **references}.items()
    }
