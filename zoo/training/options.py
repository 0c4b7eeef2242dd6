"""The settings of a run but for its model: what is wrong is known without torch."""

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Tag,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails

from datamodules.episodes import EpisodeSpec
from datamodules.text import check_text_is_read

# One rate, or several. What is wrong is said of the one that was given.
Rates = Annotated[
    Annotated[PositiveFloat, Tag("rate")] | Annotated[tuple[PositiveFloat, ...], Tag("rates")],
    Discriminator(lambda given: "rates" if isinstance(given, list | tuple) else "rate"),
]


class OptimConfig(BaseModel):
    """AdamW and the course of its learning rate.

    Attributes:
        lr: Peak learning rate. Of several, such as [0.001, 0.003], each is trained, side by side,
            and the one with the least validation error is kept.
        ssm_lr: Peak learning rate of the parameters of a state-space recurrence: one, or one for
            each of several `lr`.
        weight_decay: Decoupled, on matrices only; never on the recurrence, biases or norms.
        beta1: Decay of the mean of the gradients.
        beta2: Decay of the mean of their squares.
        warmup_steps: Steps over which the rate rises from zero.
        schedule: `decay` lets the rate fall over the last `decay_fraction` of the run;
            `constant_then_decay` over the last 20 %, and says whether the run had converged before.
        decay_fraction: Last part of the run, over which the rate falls linearly to zero, with
            `schedule=decay`.
        clip_norm: Largest norm of the gradient; null leaves it as it is.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    lr: Rates = 3e-3
    ssm_lr: Rates = 1e-3
    weight_decay: NonNegativeFloat = 0.0
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.999, ge=0, lt=1)
    warmup_steps: NonNegativeInt = 100
    schedule: Literal["decay", "constant_then_decay"] = "decay"
    decay_fraction: float = Field(default=0.5, ge=0, le=1)
    clip_norm: PositiveFloat | None = 1.0

    @property
    def decay_share(self) -> float:
        """The last part of the run, over which the rate falls linearly to zero."""
        return 0.2 if self.schedule == "constant_then_decay" else self.decay_fraction

    @property
    def rates(self) -> list[tuple[float, float]]:
        """The pairs (lr, ssm_lr) that are trained."""
        lr = self.lr if isinstance(self.lr, tuple) else (self.lr,)
        ssm_lr = self.ssm_lr if isinstance(self.ssm_lr, tuple) else (self.ssm_lr,) * len(lr)
        return list(zip(lr, ssm_lr, strict=True))

    @model_validator(mode="after")
    def _rates_fit(self) -> "OptimConfig":
        lr = self.lr if isinstance(self.lr, tuple) else (self.lr,)
        if not lr:
            raise ValueError("lr must be a rate, or at least one in a list, got []")
        if len({f"{rate:g}" for rate in lr}) < len(lr):  # they are told apart by name
            raise ValueError(f"lr must be rates that differ in six digits, got {list(lr)}")
        if isinstance(self.ssm_lr, tuple) and len(self.ssm_lr) != len(lr):
            raise ValueError(
                f"ssm_lr must be one rate or one for each of the {len(lr)} in lr, got "
                f"{len(self.ssm_lr)}"
            )
        return self


class TrainerSettings(BaseModel):
    """What train.py reads of the trainer's settings; Lightning checks the rest.

    Attributes:
        step: How an optimizer step is taken: `eager` kernel by kernel; `graph` as one CUDA graph;
            `compile` by what torch.compile makes of the loss, on a GPU as one graph as well; `auto`
            as a graph where there is one CUDA GPU and nothing that needs another way.
        precision: One that keeps the weights in float32, the type that episodes are drawn in.
    """

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    step: Literal["eager", "graph", "compile", "auto"] = "auto"
    precision: Literal["32-true", "16-mixed", "bf16-mixed"] = "32-true"
    accumulate_grad_batches: PositiveInt = 1
    log_every_n_steps: PositiveInt = 50


class RunOptions(BaseModel):
    """The settings in `configs/train.yaml`, where each is explained, but for `model`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    resume: str | None
    allow_targets: list[str] = []
    text: str | None = None
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
    optim: OptimConfig
    trainer: TrainerSettings
    data: EpisodeSpec
    callbacks: dict[str, dict[str, Any] | None] = {}
    logger: dict[str, dict[str, Any] | None] = {}

    @property
    def all_seeds(self) -> list[int]:
        """The seeds that are trained side by side: `seed`, `seed + 1`, ..."""
        return list(range(self.seed, self.seed + self.seeds))

    @property
    def num_replicas(self) -> int:
        """How many models are trained side by side."""
        return self.seeds * len(self.optim.rates)

    @property
    def log_prefixes(self) -> list[str]:
        """Of the names of what each replica logs; nothing where there is one."""
        if self.num_replicas == 1:
            return [""]
        return [f"{name}/" for name in replicas_of(self.optim, self.all_seeds)]

    def num_test(self, heavy_tailed: bool) -> int:
        """Episodes in the test set of a model whose mean error has such a tail or not."""
        return self.test_episodes or num_test_of(self.eval_episodes, heavy_tailed)

    @field_validator("data")
    @classmethod
    def _text_is_read(cls, given: EpisodeSpec, info: ValidationInfo) -> EpisodeSpec:
        if info.data.get("resume") is None:
            check_text_is_read(info.data.get("text"), given.function)
        return given

    @field_validator("optim", mode="before")
    @classmethod
    def _complete(cls, given: Any) -> Any:
        if isinstance(given, dict):
            needed = OptimConfig.model_fields.keys() - {"schedule"}  # earlier runs had no other
            absent = [name for name in OptimConfig.model_fields if name in needed - given.keys()]
            if absent:  # nobody asked for its default
                raise missing("optim", absent, given)
        return given

    @model_validator(mode="after")
    def _seeds_fit(self) -> "RunOptions":
        if self.seed + self.seeds > 2**63:
            raise ValueError(f"seed + seeds must be at most 2^63, got {self.seed + self.seeds}")
        if self.num_replicas > 1 and self.on_nonfinite != "stop":
            raise ValueError(
                "on_nonfinite must be stop with several seeds or rates, which leave out the one "
                f"that diverges, got {self.on_nonfinite} with {self.num_replicas} of them"
            )
        return self


def replicas_of(optim: OptimConfig, seeds: list[int]) -> dict[str, tuple[float, int]]:
    """What is trained side by side, by name: every rate, and at each of them every seed."""
    pairs = [(lr, seed) for lr, _ in optim.rates for seed in seeds]
    if len(optim.rates) == 1:
        return {f"seed_{seed}": (lr, seed) for lr, seed in pairs}
    return {f"lr_{lr:g}/seed_{seed}": (lr, seed) for lr, seed in pairs}


def num_test_of(eval_episodes: int, heavy_tailed: bool) -> int:
    """Test episodes where nothing is said of them: ten times as many for heavy tails."""
    return 10 * eval_episodes if heavy_tailed else eval_episodes


def missing(what: str, names: list[str], given: dict[str, Any]) -> ValidationError:
    """The refusal of data in which some names are not there.

    Args:
        what: What the data are of.
        names: Those that are missing.
        given: The data.
    """
    details = [InitErrorDetails(type="missing", loc=(name,), input=given) for name in names]
    return ValidationError.from_exception_data(what, details)
