"""The card of a checkpoint: everything about a trained model but its weights."""

import json
import math
import re
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

SCHEMA_VERSION = 2
# A card is read into memory before anything is known about it.
# In the sizes of the episodes that a card names.
MAX_EPISODE_SIZE = 2**20
MAX_CARD_BYTES = 1_000_000

# What a person reads on a terminal: no control characters but tabs and new lines, and nothing that
# turns the direction of writing around.
_TEXT = r"^[^\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]*$"
Text = Annotated[str, Field(pattern=_TEXT)]
# A name is one part of a path and of an address, so it has no separator in it.
_NAME = r"^[a-z0-9_]+\.[A-Za-z0-9_-][A-Za-z0-9_.-]*(@(0|[1-9][0-9]*))?$"
CheckpointName = Annotated[str, Field(pattern=_NAME, max_length=100)]
# A name beside a number, in tables and figures.
Label = Annotated[Text, Field(max_length=100)]
# Floating-point numbers, such as the axes of figures, hold every integer up to here.
Count = Annotated[int, Field(ge=0, le=2**53)]
PositiveCount = Annotated[Count, Field(gt=0)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**64)]  # what torch takes
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
SchemaVersion = Annotated[int, Field(gt=0, strict=True)]


# Settings are shallow, and 64 bits hold every number in them.
MAX_DEPTH, MAX_INTEGER = 20, 2**64 - 1
# Of an error's text, which may quote a card.
MAX_ERROR_LENGTH = 1000


class CheckpointError(ValueError):
    """A checkpoint, card or index that cannot be used; the text says which and why.

    The text may quote what somebody else wrote. It is one line and safe for a terminal.
    """

    def __init__(self, text: str) -> None:
        super().__init__(one_line(text))


def one_line(text: str) -> str:
    """A text from outside on one line of bounded length, without what a terminal would obey."""
    text = " ".join(text.split())
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return text if len(text) <= MAX_ERROR_LENGTH else f"{text[:MAX_ERROR_LENGTH]} ..."


def check_settings(value: Any, name: str = "", depth: int = 0) -> Any:
    """Plain data that no schema describes, as it is.

    Raises:
        ValueError: If it is nested too deep, or a text or a number in it is none for people.
    """
    if depth > MAX_DEPTH:
        raise ValueError(f"nested more than {MAX_DEPTH} deep")
    if isinstance(value, dict):
        for key, part in value.items():
            check_settings(key, "a name", depth)
            check_settings(part, f"{name}.{key}".lstrip("."), depth + 1)
    elif isinstance(value, list | tuple):
        for part in value:
            check_settings(part, name, depth + 1)
    elif isinstance(value, str):
        value.encode()  # which half a character cannot be
        if not re.fullmatch(_TEXT, value):
            raise ValueError(f"{name} has control characters: {value!r}")
    elif isinstance(value, int) and abs(value) > MAX_INTEGER:
        raise ValueError(f"{name} is an integer of more than 64 bits")
    return value


Settings = Annotated[dict[str, Any], AfterValidator(check_settings)]


def strict_json(data: bytes) -> Any:
    """JSON in which every number is finite and no name stands twice in an object.

    Raises:
        ValueError: If it is none.
    """
    try:
        return json.loads(
            data, parse_constant=_finite, parse_float=_finite, object_pairs_hook=_object
        )
    except RecursionError as error:
        raise ValueError(str(error)) from None


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no number")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name!r} stands twice in an object")
        found[name] = value
    return found


class Plain(BaseModel):
    """Checked data that stays as it is."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=()
    )


def split_seed(name: str) -> tuple[str, int | None]:
    """The name of a checkpoint in two: `architecture.tag`, and the seed after an `@`.

    `architecture.tag` is the first seed of a training. Its other seeds are `architecture.tag@SEED`.
    """
    training, _, seed = name.partition("@")
    return training, int(seed) if seed else None


class FileEntry(Plain):
    """A file beside the card.

    Attributes:
        sha256: Hash of its content, in hexadecimal.
        bytes: Its size.
    """

    sha256: Sha256
    bytes: PositiveCount


class CurvePoint(Plain):
    """A mean over episodes, as a point of a learning curve.

    Schema 1 has `value` and `ci95` alone.

    Attributes:
        value: Mean over the episodes scored there.
        ci95: Half the width of its 95 % interval; None where the tail is too heavy for one, and for
            errors of rounding.
        median: Of errors; None for what is no error, such as a cosine, and for ratios.
        tail_share: Share of the mean that the worst 0.1 % of the episodes carry; of a ratio the
            larger one of both errors. None for what is no error, and for errors of rounding.
        lowest: Of the means of ten further sets of as many episodes, drawn apart, where the tail is
            heavy: the worst 0.1 % carry more than a tenth.
        highest: Of the same.
    """

    value: float
    ci95: NonNegativeFloat | None
    median: float | None = None
    tail_share: Annotated[float, Field(ge=0, le=1)] | None = None
    lowest: float | None = None
    highest: float | None = None


class MetricEntry(CurvePoint):
    """A measured number.

    Attributes:
        num_episodes: Episodes it was measured on.
        eval_seed: Their seed.
    """

    num_episodes: PositiveCount
    eval_seed: Seed


Curve = Annotated[list[CurvePoint | None], Field(max_length=100_000)]
# More than fit into a table or a figure.
MANY = Field(max_length=100)
CONVERGED = "converged"
VERDICTS = (CONVERGED, "not converged", "unknown")


class Tried(BaseModel):
    """The learning rates that one was chosen among, as `TrainingEntry.optimizer` has them.

    Attributes:
        rates: The validation error of every seed that was left, by rate; empty where there was no
            choice.
        rates_steps: Optimizer steps that they were tried for; None for all of the training's.
        rates_given_up: Rates that were better than the one that was kept, and how many of the seeds
            diverged when all trained at each.
        rates_fell_short: The same, and how many of the seeds ended more than 10 % above the error.
    """

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    rates: Annotated[dict[NonNegativeFloat, dict[Label, float]], MANY] = {}
    rates_steps: PositiveCount | None = None
    rates_given_up: Annotated[dict[NonNegativeFloat, PositiveCount], MANY] = {}
    rates_fell_short: Annotated[dict[NonNegativeFloat, PositiveCount], MANY] = {}


class TrainingEntry(Plain):
    """How the weights came about.

    Attributes:
        steps: Optimizer steps.
        episodes: Episodes seen.
        batch_size: Episodes in a step.
        optimizer: Its settings; where the rate was chosen among several, `rates`, `rates_steps`,
            `rates_given_up` and `rates_fell_short` as `Tried` has them.
        schedule: The settings of the learning rate's course; `convergence` where it was judged.
        seed: Of initialisation and data.
        num_seeds: Seeds that were trained in this way, this one included.
        positions: Where the loss was taken, as `positions` of a run; empty if that is not known.
        study: What it was trained for, `STUDY/TRAINING`; empty if for no study.
        precision: As Lightning names it.
        devices: Number of devices.
        wall_time_s: Seconds spent training, summed over resumed parts.
    """

    steps: Count
    episodes: Count
    batch_size: PositiveInt
    optimizer: Settings
    schedule: Settings
    seed: Seed
    num_seeds: PositiveInt = 1
    positions: Literal["", "last", "all"] = ""
    study: Annotated[Text, Field(max_length=200)] = ""
    precision: Text
    devices: PositiveInt
    wall_time_s: float

    @property
    def loss_at(self) -> str:
        """Where the loss was taken, as metrics are named: `query`, `all`, or empty."""
        return "query" if self.positions == "last" else self.positions

    @property
    def tried(self) -> Tried:
        """The learning rates that were tried."""
        return Tried.model_validate(self.optimizer)

    @property
    def verdict(self) -> str | None:
        """Whether the loss had stopped falling, as far as it was judged."""
        convergence = self.schedule.get("convergence")
        verdict = convergence.get("verdict") if isinstance(convergence, dict) else None
        return verdict if verdict in VERDICTS else None

    @model_validator(mode="after")
    def _rates_are_errors_by_rate(self) -> "TrainingEntry":
        _ = self.tried
        return self


class Card(Plain):
    """What `card.json` holds. It is data: nothing in it is ever imported or run.

    Attributes:
        schema_version: Of this layout; a newer one is refused.
        name: `architecture.tag`, or `architecture.tag@SEED` for another seed of that training.
        architecture: Name for `zoo.create_model`.
        model_args: Arguments for `zoo.create_model`.
        token_layout: How pairs become tokens; says what the architecture does, is not read.
        num_parameters: Trained numbers.
        state_size: Real numbers in the streaming state after the trained number of examples.
        dtype: Of the weights.
        files: Every other file of the checkpoint.
        data: Spec of the training episodes.
        training: How the weights came about.
        metrics: Measured on the test episodes; names that end in `_first_tenth` on the first tenth
            of them.
        reference_metrics: The same number for exact algorithms on the same episodes.
        curves: The loss after 0, 1, ... examples on the same episodes, by predictor, of which
            `model` is the checkpoint; None where no episode is scored.
        versions: Of the packages that trained it.
        git_commit: Of the code that trained it, if known; `SHA-dirty-HASH` where files differed
            from that commit.
        command: Of the process that finished the training.
        created: Time of writing.
        license: Of the weights.
        paper: Address of the paper that the architecture comes from, empty if it has none.
        notes: Anything else.
    """

    schema_version: SchemaVersion
    name: CheckpointName
    architecture: Text
    model_args: Settings
    token_layout: Text
    num_parameters: Count
    state_size: Count
    dtype: Text
    files: dict[str, FileEntry]
    data: Settings
    training: TrainingEntry
    metrics: dict[Label, MetricEntry]
    reference_metrics: Annotated[dict[Label, MetricEntry], MANY]
    curves: Annotated[dict[Label, Curve], MANY] = {}
    versions: dict[Text, Text]
    git_commit: Text | None
    command: Text
    created: AwareDatetime
    license: Text
    paper: Text
    notes: Text = ""

    @model_validator(mode="after")
    def _sizes_of_episodes_are_those_of_the_model(self) -> "Card":
        for name in ("d_x", "d_y", "num_context"):
            size, widths = self.data.get(name), self.model_args.get(name)
            if size is None:
                continue
            if type(size) is not int or not 1 <= size <= MAX_EPISODE_SIZE:
                raise ValueError(
                    f"data.{name} must be a whole number from 1 to {MAX_EPISODE_SIZE}, got {size!r}"
                )
            if widths is not None and size != widths:
                raise ValueError(f"data.{name} is {size}, model_args.{name} is {widths!r}")
        return self


def parse_card(data: bytes, source: object) -> Card:
    """The card in the content of a `card.json`.

    Args:
        data: At most `MAX_CARD_BYTES`.
        source: Where it comes from, for the message.

    Raises:
        CheckpointError: If it is too large, malformed or of a newer schema.
    """
    return parse_plain(Card, "card", data, source, MAX_CARD_BYTES)


T = TypeVar("T", bound=Plain)


def parse_plain(kind: type[T], what: str, data: bytes, source: object, max_bytes: int) -> T:
    """Untrusted JSON as checked data of a schema that this version reads.

    Raises:
        CheckpointError: If it is too large, malformed or of a newer schema.
    """
    if len(data) > max_bytes:
        raise CheckpointError(f"{source} holds {len(data)} bytes, a {what} at most {max_bytes}")
    try:
        fields = strict_json(data)
    except ValueError as error:
        raise CheckpointError(f"{source} is not JSON: {error}") from None
    version = fields.get("schema_version") if isinstance(fields, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise CheckpointError(
            f"{source} has schema_version {version}, newer than {SCHEMA_VERSION}, the newest this "
            "version of icl-zoo reads; update icl-zoo"
        )
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, e['loc'])) or what}: {e['msg']}" for e in error.errors()]
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise CheckpointError(
            f"{source} is not a{'n' * (what[0] in 'aeiou')} {what}: {'; '.join(problems[:5])}{more}"
        ) from None
