"""The settings of a run: read once from plain data, and objects from there on."""

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    ValidationInfo,
    field_serializer,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails

from datamodules.episodes import EpisodeSpec
from zoo.errors import explain
from zoo.registry import ModelSpec, model_arguments

# Arguments of a model that the episodes settle.
OF_THE_EPISODES = ("d_x", "d_y", "output")


class OptimConfig(BaseModel):
    """AdamW and the course of its learning rate.

    Attributes:
        lr: Peak learning rate.
        ssm_lr: Peak learning rate of the parameters of a state-space recurrence.
        weight_decay: Decoupled, on matrices only; never on the recurrence, biases or norms.
        beta1: Decay of the mean of the gradients.
        beta2: Decay of the mean of their squares.
        warmup_steps: Steps over which the rate rises from zero.
        decay_fraction: Last part of the run, over which the rate falls linearly to zero.
        clip_norm: Largest norm of the gradient; null leaves it as it is.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    lr: PositiveFloat = 3e-3
    ssm_lr: PositiveFloat = 1e-3
    weight_decay: NonNegativeFloat = 0.0
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.999, ge=0, lt=1)
    warmup_steps: NonNegativeInt = 100
    decay_fraction: float = Field(default=0.5, ge=0, le=1)
    clip_norm: PositiveFloat | None = 1.0


class TrainerSettings(BaseModel):
    """What train.py reads of the trainer's settings; Lightning checks the rest.

    Attributes:
        precision: One that keeps the weights in float32, the type that episodes are drawn in.
    """

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    precision: Literal["32-true", "16-mixed", "bf16-mixed"] = "32-true"
    accumulate_grad_batches: PositiveInt = 1
    log_every_n_steps: PositiveInt = 50


class RunSettings(BaseModel):
    """The settings in `configs/train.yaml`, where each is explained.

    `data` comes before `model`, whose widths and kind of prediction follow from the episodes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    resume: str | None
    allow_targets: list[str] = []
    run_dir: str
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    seeds: PositiveInt = 1
    max_steps: PositiveInt
    batch_size: PositiveInt
    positions: Literal["last", "all"]
    on_nonfinite: Literal["stop", "skip"] = "stop"
    val_every: PositiveInt
    eval_episodes: Annotated[int, Field(ge=2)]
    test_episodes: Annotated[int, Field(ge=2)] | None = None
    checkpoint_every: PositiveInt
    checkpoint_tag: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")]
    data: EpisodeSpec
    model: ModelSpec
    optim: OptimConfig
    trainer: TrainerSettings
    callbacks: dict[str, dict[str, Any] | None] = {}
    logger: dict[str, dict[str, Any] | None] = {}

    @classmethod
    def of(cls, plain: dict[str, Any]) -> "RunSettings":
        """Checks plain data, as `configs/train.yaml` has them once they are resolved.

        Raises:
            ValueError: If a setting is missing, unknown or has a wrong value: one line, with the
                dotted name of each that is wrong.
        """
        try:
            return cls(**plain)
        except ValidationError as error:
            raise ValueError(explain(error, plain)) from None

    @property
    def all_seeds(self) -> list[int]:
        """The seeds that are trained side by side: `seed`, `seed + 1`, ..."""
        return list(range(self.seed, self.seed + self.seeds))

    def num_test(self, heavy_tailed: bool) -> int:
        """Episodes in the test set of a model whose mean error has such a tail or not."""
        return self.test_episodes or num_test_of(self.eval_episodes, heavy_tailed)

    @field_validator("model", mode="plain")
    @classmethod
    def _made_for_the_episodes(cls, given: Any, info: ValidationInfo) -> ModelSpec | None:
        if "data" not in info.data:  # refused already
            return None
        data: EpisodeSpec = info.data["data"]
        if not isinstance(given, dict) or not isinstance(given.get("name", ""), str):
            raise ValueError(f"must have the name of an architecture, got {given!r}")
        if "name" not in given:
            raise _missing("model", ["name"], given)
        arguments = dict(given)
        name = arguments.pop("name")
        for settled in OF_THE_EPISODES:
            if settled in given:
                raise ValueError(f"{settled} cannot be set, it follows from data")
        arguments |= {"d_x": data.d_x, "d_y": data.d_y}
        if data.output == "logits":
            if "output" not in model_arguments(name):
                raise ValueError(f"{name} does not predict classes, as data asks for")
            arguments["output"] = data.output
        return ModelSpec.of(name, **arguments)

    @field_serializer("model")
    def _plain(self, model: ModelSpec) -> dict[str, Any]:
        return {"name": model.name, **model.arguments}

    @field_validator("optim", mode="before")
    @classmethod
    def _complete(cls, given: Any) -> Any:
        if isinstance(given, dict):
            missing = [name for name in OptimConfig.model_fields if name not in given]
            if missing:  # nobody asked for its default
                raise _missing("optim", missing, given)
        return given

    @model_validator(mode="after")
    def _seeds_fit(self) -> "RunSettings":
        if self.seed + self.seeds > 2**63:
            raise ValueError(f"seed + seeds must be at most 2^63, got {self.seed + self.seeds}")
        if self.seeds > 1 and self.on_nonfinite != "stop":
            raise ValueError(
                f"on_nonfinite must be stop with several seeds, which leave out the one that "
                f"diverges, got {self.on_nonfinite} with seeds={self.seeds}"
            )
        return self


def num_test_of(eval_episodes: int, heavy_tailed: bool) -> int:
    """Test episodes where nothing is said of them: ten times as many for heavy tails."""
    return 10 * eval_episodes if heavy_tailed else eval_episodes


def _missing(what: str, names: list[str], given: dict[str, Any]) -> ValidationError:
    details = [InitErrorDetails(type="missing", loc=(name,), input=given) for name in names]
    return ValidationError.from_exception_data(what, details)
