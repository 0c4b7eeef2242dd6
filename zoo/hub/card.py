"""The card of a checkpoint: everything about a trained model but its weights."""

from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt

SCHEMA_VERSION = 1


class _Strict(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=()
    )


class FileEntry(_Strict):
    """A file beside the card.

    Attributes:
        sha256: Hash of its content, in hexadecimal.
        bytes: Its size.
    """

    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    bytes: PositiveInt


class MetricEntry(_Strict):
    """A measured number.

    Attributes:
        value: Mean over episodes.
        ci95: Half the width of its 95 % interval.
        num_episodes: Episodes it was measured on.
        eval_seed: Their seed.
    """

    value: float
    ci95: float
    num_episodes: PositiveInt
    eval_seed: int


class TrainingEntry(_Strict):
    """How the weights came about.

    Attributes:
        steps: Optimizer steps.
        episodes: Episodes seen.
        batch_size: Episodes in a step.
        optimizer: Its settings.
        schedule: The settings of the learning rate's course.
        seed: Of initialisation and data.
        precision: As Lightning names it.
        devices: Number of devices.
        wall_time_s: Seconds spent training, summed over resumed parts.
    """

    steps: NonNegativeInt
    episodes: NonNegativeInt
    batch_size: PositiveInt
    optimizer: dict[str, Any]
    schedule: dict[str, Any]
    seed: int
    precision: str
    devices: PositiveInt
    wall_time_s: float


class Card(_Strict):
    """What `card.json` holds. It is data: nothing in it is ever imported or run.

    Attributes:
        schema_version: Of this layout; a newer one is refused.
        name: `architecture.tag`.
        architecture: Name for `zoo.create_model`.
        model_args: Arguments for `zoo.create_model`.
        token_layout: How pairs become tokens; says what the architecture does, is not read.
        num_parameters: Trained numbers.
        state_size: Real numbers in the streaming state after the trained number of examples.
        dtype: Of the weights.
        files: Every other file of the checkpoint.
        data: Spec of the training episodes.
        training: How the weights came about.
        metrics: Measured on the test episodes.
        reference_metrics: The same number for exact algorithms on the same episodes.
        versions: Of the packages that trained it.
        git_commit: Of the code that trained it, if known.
        command: Of the process that finished the training.
        created: Time of writing.
        license: Of the weights.
        paper: Address of the paper that the architecture comes from.
        notes: Anything else.
    """

    schema_version: PositiveInt
    name: Annotated[str, Field(pattern=r"^[a-z0-9_]+\.[A-Za-z0-9_.-]+$")]
    architecture: str
    model_args: dict[str, Any]
    token_layout: str
    num_parameters: NonNegativeInt
    state_size: NonNegativeInt
    dtype: str
    files: dict[str, FileEntry]
    data: dict[str, Any]
    training: TrainingEntry
    metrics: dict[str, MetricEntry]
    reference_metrics: dict[str, MetricEntry]
    versions: dict[str, str]
    git_commit: str | None
    command: str
    created: AwareDatetime
    license: str
    paper: str
    notes: str = ""
