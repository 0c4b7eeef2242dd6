"""The index of a directory of checkpoints: a row for each, and the hash of its card."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from zoo.files import STAGING, sha256_of
from zoo.hub.card import (
    MANY,
    SCHEMA_VERSION,
    Card,
    CheckpointError,
    CheckpointName,
    Count,
    Label,
    MetricEntry,
    Plain,
    PositiveCount,
    SchemaVersion,
    Sha256,
    Text,
    parse_plain,
)
from zoo.hub.directory import CARD, read_card

INDEX = "index.json"
# An index is read into memory before anything is known about it.
MAX_INDEX_BYTES = 10_000_000
# The loss a checkpoint is listed with: the one it was trained on, at the query, or over all scored
# positions where nothing is measured at the query.
LISTED_METRICS = ("test/half_mse_query", "test/cross_entropy_query", "test/cross_entropy_all")

# It becomes part of headings and of figures' names.
Family = Annotated[str, Field(pattern="^[a-z0-9_]+$", max_length=50)]


class IndexEntry(Plain):
    """A checkpoint in an index.

    Attributes:
        sha256: Hash of its card, which holds the hash of its weights.
        bytes: Size of its card.
        architecture: As in the card.
        token_layout: As in the card; empty in an index of before there was a choice.
        family: Name of the function family of the episodes.
        d_x: Width of an input.
        d_y: Width of a label.
        num_context: Examples before the query in training.
        noise: Standard deviation of the label noise.
        num_parameters: Trained numbers.
        state_size: Real numbers in the streaming state after the trained number of examples.
        metric: Name of the loss that follows.
        error: The model's.
        references: That of exact algorithms on the same episodes.
        steps: Optimizer steps.
        episodes: Episodes seen.
        wall_time_s: Seconds spent training.
    """

    sha256: Sha256
    bytes: PositiveCount
    architecture: Text
    token_layout: Text = ""
    family: Family
    d_x: PositiveCount
    d_y: PositiveCount
    num_context: PositiveCount
    noise: float
    num_parameters: Count
    state_size: Count
    metric: Text
    error: MetricEntry
    references: Annotated[dict[Label, MetricEntry], MANY]
    steps: Count
    episodes: Count
    wall_time_s: float

    @property
    def episodes_label(self) -> str:
        """The episodes in a few words, e.g. `linear d=10 N=10`."""
        noise = f" noise={self.noise:g}" if self.noise else ""
        return f"{self.family} d={self.d_x} N={self.num_context}{noise}"


class Index(Plain):
    """What `index.json` holds.

    Attributes:
        schema_version: Of this layout and of the cards; a newer one is refused.
        checkpoints: By name, which is also the directory beside the index.
    """

    schema_version: SchemaVersion
    checkpoints: dict[CheckpointName, IndexEntry]


def index_entry(card: Card, data: bytes, source: object) -> IndexEntry:
    """The row of a checkpoint.

    Args:
        card: Its card.
        data: The content of its `card.json`.
        source: Where that is, for the message.

    Raises:
        CheckpointError: If the card lacks numbers that a row has.
    """
    metric = next((name for name in LISTED_METRICS if name in card.metrics), None)
    if metric is None:
        raise CheckpointError(f"{source} has none of the metrics {', '.join(LISTED_METRICS)}")
    function = card.data.get("function")
    episodes: dict[str, Any] = {
        "family": function.get("name") if isinstance(function, dict) else None,
        "noise": card.data.get("noise", 0.0),
        **{name: card.data.get(name) for name in ("d_x", "d_y", "num_context")},
    }
    try:
        return IndexEntry(
            sha256=sha256_of(data),
            bytes=len(data),
            architecture=card.architecture,
            token_layout=card.token_layout,
            num_parameters=card.num_parameters,
            state_size=card.state_size,
            metric=metric,
            error=card.metrics[metric],
            references=card.reference_metrics,
            steps=card.training.steps,
            episodes=card.training.episodes,
            wall_time_s=card.training.wall_time_s,
            **episodes,
        )
    except ValidationError:
        raise CheckpointError(
            f"{source}: data must say function.name (a-z, 0-9 and _, at most 50), d_x, d_y, "
            f"num_context and noise, got {episodes}"
        ) from None


def build_index(directory: Path) -> Index:
    """The index of the checkpoints in a directory, from their cards.

    What another process is writing, or has left behind when it was killed, is passed over.

    Raises:
        CheckpointError: If a card cannot be used, or does not have its directory's name.
    """
    checkpoints = {}
    for path in sorted(directory.glob(f"*/{CARD}")):
        if path.parent.name.endswith(STAGING):
            continue
        card = read_card(path.parent)
        check_name(card.name, card, path)
        if path.parent.name != card.name:
            raise CheckpointError(f"{path} is the card of {card.name}, not of {path.parent.name}")
        checkpoints[card.name] = index_entry(card, path.read_bytes(), path)
    return Index(schema_version=SCHEMA_VERSION, checkpoints=checkpoints)


def check_name(name: str, card: Card, source: object) -> None:
    """Raises CheckpointError if a name cannot be that of a directory for the card."""
    if not name.startswith(f"{card.architecture}."):
        raise CheckpointError(
            f"{source}: a checkpoint of {card.architecture} is named {card.architecture}.TAG, "
            f"got {name!r}"
        )
    if name.endswith(STAGING):
        raise CheckpointError(
            f"{source}: the name {name!r} ends as that of a directory being written"
        )
    training, _, seed = name.partition("@")
    if seed and seed != str(card.training.seed):
        raise CheckpointError(
            f"{source} is of seed {card.training.seed}, so it may be {training} or "
            f"{training}@{card.training.seed}, got {name!r}"
        )


def index_bytes(index: Index) -> bytes:
    """The content of `index.json`."""
    return index.model_dump_json(indent=1).encode() + b"\n"


def parse_index(data: bytes, source: object) -> Index:
    """The index in the content of an `index.json`.

    Raises:
        CheckpointError: If it is too large, malformed or of a newer schema, or if a name in it
            could be a path.
    """
    return parse_plain(Index, "index", data, source, MAX_INDEX_BYTES)


def read_index(directory: Path) -> Index:
    """The index of a directory; empty if there is none.

    Raises:
        CheckpointError: As `parse_index`.
    """
    path = directory / INDEX
    if not path.is_file():
        return Index(schema_version=SCHEMA_VERSION, checkpoints={})
    with path.open("rb") as file:
        return parse_index(file.read(MAX_INDEX_BYTES + 1), path)
