"""A checkpoint directory, `model.safetensors` and `card.json`, as far as it needs no torch."""

import re
from pathlib import Path

from zoo.files import sha256_of
from zoo.hub.card import MAX_CARD_BYTES, Card, CheckpointError, FileEntry, parse_card

WEIGHTS = "model.safetensors"
CARD = "card.json"
# Beyond this, no weights are fetched or read into memory.
MAX_WEIGHTS_BYTES = 2**30
# A number with its interval and its tail; texts, whose spaces would change, are in none.
SUMMARY = re.compile(r'\{\s*"value":[^{}"]*(?:"[a-z_0-9]+":[^{}"]*)*\}')


def card_bytes(card: Card) -> bytes:
    """The content of `card.json`, without what a card that does not say has as well.

    A number stands with its interval and its tail on one line; there are hundreds in a curve.
    """
    text = card.model_dump_json(indent=1, exclude_defaults=True)
    return SUMMARY.sub(lambda found: " ".join(found[0].split()), text).encode() + b"\n"


def read_card(directory: Path) -> Card:
    """Reads and checks the card of a checkpoint directory.

    A directory named by a hash, as those of the cache, holds the card of that hash.

    Raises:
        CheckpointError: If it is missing, altered, malformed or of a newer schema.
    """
    path = directory / CARD
    if not path.is_file():
        what = "has no" if directory.is_dir() else "is not a directory with a"
        # In a run, and in a run of several seeds.
        inside = (
            *directory.glob(f"checkpoint/{CARD}"),
            *directory.glob(f"seed_*/checkpoint/{CARD}"),
        )
        hint = f"; {min(inside).parent} has one" if inside else ""
        raise CheckpointError(f"{directory} {what} {CARD}{hint}")
    with path.open("rb") as file:
        data = file.read(MAX_CARD_BYTES + 1)
    filed_under = directory.absolute().name  # in the cache: the hash of the card, links included
    if re.fullmatch("[0-9a-f]{64}", filed_under) and sha256_of(data) != filed_under:
        raise CheckpointError(f"{path} has sha256 {sha256_of(data)}: altered")
    return parse_card(data, path)


def weights_entry(card: Card, source: object) -> FileEntry:
    """Hash and size of the weights.

    Raises:
        CheckpointError: If the card lists anything else, or weights beyond the limit.
    """
    if set(card.files) != {WEIGHTS}:
        raise CheckpointError(
            f"{source} lists the files {sorted(card.files)}, expected {WEIGHTS} alone"
        )
    entry = card.files[WEIGHTS]
    if entry.bytes > MAX_WEIGHTS_BYTES:
        raise CheckpointError(
            f"{source} says that {WEIGHTS} has {entry.bytes} bytes, at most {MAX_WEIGHTS_BYTES} "
            "are read"
        )
    return entry
