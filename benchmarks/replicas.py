"""Time of one optimizer step of eight seeds: side by side, and as runs one after the other.

    python -m benchmarks.replicas [ARCHITECTURE ...]

Steps are those inside a Lightning trainer, as `train.py` has them, without validation. Every ratio
is to the step of one run, timed in the same round; a round meets the same machine, and of the
rounds the median ratio is shown. Replicas are timed as one batch and in turn; `*` marks what
`seeds=8` does.
"""

import logging
import time
from collections.abc import Sequence
from statistics import median
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.timing import architectures_typed
from benchmarks.trainer import quiet_trainer
from datamodules import EpisodeDataModule, EpisodeSpec, ReplicaDataModule
from zoo.memory import keep_freed_memory
from zoo.registry import ModelSpec, list_models, model_arguments
from zoo.terminal import outlive_readers
from zoo.training.module import LitPredictor
from zoo.training.options import OptimConfig
from zoo.training.replicas import LitReplicas

logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)

NUM_SEEDS = 8
ROUNDS = 3
WARM_UP = 5
# What differs from the defaults of an architecture, in each row of its own. Deep ones have two
# layers.
ARGUMENTS: dict[str, list[dict[str, Any]]] = {
    "gd_ssm": [{}, {"num_steps": 4}],
    "linear_transformer": [{"num_layers": 4}],
}
DEEP_STEPS, OTHER_STEPS = 6, 100  # that are timed
SPEC = EpisodeSpec(d_x=10, d_y=10, num_context=10)


class Row(NamedTuple):
    """An architecture to time.

    Attributes:
        name: In the registry.
        arguments: That differ from its defaults.
        is_deep: Whether it has a width of its own, `d_model`.
    """

    name: str
    arguments: dict[str, Any]
    is_deep: bool

    @property
    def label(self) -> str:
        """What tells rows apart."""
        return " ".join([self.name, *(f"{key}={value}" for key, value in self.arguments.items())])

    @property
    def steps(self) -> int:
        """How many are timed."""
        return DEEP_STEPS if self.is_deep else OTHER_STEPS


def rows(names: Sequence[str] = ()) -> list[Row]:
    """Those of some architectures; of every one in the registry if none are named."""
    found = []
    for name in names or list_models():
        known = model_arguments(name)
        is_deep = "d_model" in known
        sizes = {"num_layers": 2} if is_deep and "num_layers" in known else {}
        found += [Row(name, sizes | own, is_deep) for own in ARGUMENTS.get(name, [{}])]
    return found


class Timer(pl.Callback):
    """CPU seconds from the end of step `WARM_UP` to the end of the last step."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._start = 0.0

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == WARM_UP:
            self._start = time.process_time()
        elif trainer.global_step == trainer.max_steps:
            self.seconds = time.process_time() - self._start


def step_ms(
    model: ModelSpec, spec: EpisodeSpec, steps: int, seeds: list[int], batch_size: int = 64
) -> float:
    """CPU milliseconds of a training step of one run, or of replicas if there are several seeds."""
    timer = Timer()
    trainer = quiet_trainer(steps + WARM_UP, [timer])
    if len(seeds) == 1:
        module = LitPredictor(model, OptimConfig(), seeds[0])
        trainer.fit(module, EpisodeDataModule(spec, seeds[0], batch_size))
    else:
        replicas = LitReplicas(model, OptimConfig(), seeds)
        trainer.fit(replicas, ReplicaDataModule(spec, seeds, batch_size))
    return timer.seconds / steps * 1e3


def ratios(model: ModelSpec, steps: int) -> tuple[float, list[float]]:
    """Milliseconds of one run's step, and how many of them the three ways of eight seeds take."""
    seeds = list(range(NUM_SEEDS))
    one, found = [], []
    for _ in range(ROUNDS):
        LitReplicas.takes_turns_on = lambda *_: False  # type: ignore[method-assign]
        batched = step_ms(model, SPEC, steps, seeds)
        LitReplicas.takes_turns_on = lambda *_: True  # type: ignore[method-assign]
        in_turn = step_ms(model, SPEC, steps, seeds)
        singles = [step_ms(model, SPEC, steps, [seed]) for seed in seeds]
        one.append(median(singles))
        found.append([way / one[-1] for way in (batched, in_turn, sum(singles))])
    return median(one), [median(way) for way in zip(*found, strict=True)]


def main() -> None:
    """Times steps of several seeds and prints the table."""
    names = architectures_typed("Times steps of several seeds in one process.")
    torch.set_num_threads(1)
    declared = LitReplicas.takes_turns_on
    table = Table(title=f"{NUM_SEEDS} seeds in steps of one run, batch 64, d = N = 10, one thread")
    for heading in ("", "one run, ms", "one batch", "in turn", "runs one after the other"):
        table.add_column(heading, justify="right")
    for row in track(rows(names), "timing"):
        model = ModelSpec.of(row.name, d_x=SPEC.d_x, d_y=SPEC.d_y, **row.arguments)
        one, ways = ratios(model, row.steps)
        module = LitReplicas(model, OptimConfig(), [0, 1])
        module.configure_model()
        chosen = int(declared(module, torch.device("cpu")))
        cells = [f"{way:.1f} x{' *' if i == chosen else ''}" for i, way in enumerate(ways)]
        table.add_row(row.label, f"{one:.2f}", *cells)
    Console(width=110).print(table)


if __name__ == "__main__":
    outlive_readers()
    keep_freed_memory()  # as train.py does
    main()
