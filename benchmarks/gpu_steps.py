"""Time of an optimizer step of each architecture on a GPU: eager, as one CUDA graph, and compiled.

    python -m benchmarks.gpu_steps --out DIRECTORY

A step draws its episodes, goes forward and backward, clips and updates. *eager*, *graph* and
*compile* are steps inside a Lightning trainer, as `train.py` has them with `trainer.step` of that
name; *bare* is the graph in a loop of its own, and *draw* the part of it that draws. Replicas are
rates side by side, which see the same episodes. `DIRECTORY/steps.json` has the numbers of the
table. `--device cpu` shows that the script works: few steps, and nothing is recorded.
"""

import argparse
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.replicas import rows
from benchmarks.trainer import quiet_trainer
from datamodules import EpisodeDataModule, EpisodeSpec, ReplicaDataModule
from zoo.registry import ModelSpec, list_models
from zoo.training.base import EpisodeModule, Positions, StepKind
from zoo.training.module import LitPredictor
from zoo.training.options import OptimConfig
from zoo.training.replicas import LitReplicas

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

WARM_UP = 10
BATCH = 64
DEEP = {"d_model": 64, "num_layers": 4}
# Architecture, arguments, d_x, d_y, N, where the loss is taken, replicas, whether it is compiled.
Row = tuple[str, dict[str, Any], int, int, int, Positions, tuple[int, ...], bool]
ROWS: list[Row] = [
    ("gd_ssm", {}, 10, 10, 10, "last", (1, 8, 64), True),
    ("gd_ssm", {"num_steps": 4}, 10, 10, 10, "last", (1, 8), False),
    ("transformer", DEEP, 5, 1, 10, "all", (1, 4, 16), True),
    ("s5", DEEP | {"d_state": 64}, 5, 1, 10, "all", (1, 16), False),
    ("mamba", DEEP | {"num_layers": 2}, 5, 1, 10, "all", (1, 16), False),
    ("gd_ssm_deep", {"num_layers": 2}, 5, 1, 10, "all", (1, 8), False),
    ("linear_transformer", {"num_layers": 4}, 5, 1, 10, "all", (1, 16), False),
    ("delta_net", DEEP | {"num_layers": 2}, 5, 1, 10, "all", (1, 16), False),
    ("mesa_net", DEEP | {"num_layers": 2}, 5, 1, 10, "all", (1, 16), False),
]


def all_rows() -> list[Row]:
    """`ROWS`, then one for every other architecture of the registry."""
    listed = {row[0] for row in ROWS}
    every = list(ROWS)
    for other in rows([name for name in list_models() if name not in listed]):
        if other.is_deep:
            every.append((other.name, other.arguments, 5, 1, 10, "all", (1, 16), False))
        else:
            every.append((other.name, other.arguments, 10, 10, 10, "last", (1, 8), False))
    return every


class Timer(pl.Callback):
    """Seconds from the end of step `WARM_UP` to the end of the last step, the device's included."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._start = 0.0

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step in (WARM_UP, trainer.max_steps):
            wait()
            self.seconds = time.perf_counter() - self._start
            self._start = time.perf_counter()


def wait() -> None:
    """Until the GPU, if there is one, has done all that it was asked for."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def parts_of(
    row: Row, num_replicas: int, step: StepKind
) -> tuple[EpisodeModule, EpisodeDataModule | ReplicaDataModule]:
    """What is trained, and its episodes."""
    name, arguments, d_x, d_y, num_context, positions, _, _ = row
    spec = EpisodeSpec(d_x=d_x, d_y=d_y, num_context=num_context)
    model = ModelSpec.of(name, d_x=d_x, d_y=d_y, **arguments)
    if num_replicas == 1:
        module = LitPredictor(model, OptimConfig(), 0, positions, step=step)
        return module, EpisodeDataModule(spec, 0, BATCH)
    rates = tuple(1e-4 * 1.1**i for i in range(num_replicas))
    replicas = LitReplicas(model, OptimConfig(lr=rates), [0], positions, step=step)
    return replicas, ReplicaDataModule(spec, [0] * num_replicas, BATCH)


def in_trainer_ms(row: Row, num_replicas: int, step: StepKind, device: str, steps: int) -> float:
    """Milliseconds of a step inside a trainer."""
    timer = Timer()
    module, data = parts_of(row, num_replicas, step)
    quiet_trainer(steps + WARM_UP, [timer], device).fit(module, data)
    return timer.seconds / steps * 1e3


def loop_ms(step: Callable[[int], object], steps: int) -> float:
    """Milliseconds of a step in a loop, after a warm-up."""
    for i in range(WARM_UP):
        step(i)
    wait()
    start = time.perf_counter()
    for i in range(steps):
        step(i)
    wait()
    return (time.perf_counter() - start) / steps * 1e3


def bare_ms(row: Row, num_replicas: int, device: str, steps: int) -> tuple[float, float]:
    """Milliseconds of drawing the episodes of a step, and of drawing and the recorded step."""
    module, data = parts_of(row, num_replicas, "graph")
    module.trainer = quiet_trainer(steps, [], device)
    module.configure_model()
    module.to(device)
    module.configure_optimizers()

    def step(i: int) -> None:
        module.take_step(data.train_episodes(i, device))
        if module.watch is not None and module.watch.count():
            module.watch.look()

    draw = loop_ms(lambda i: data.train_episodes(i, device), steps)
    return draw, loop_ms(step, steps)


def measure(row: Row, num_replicas: int, device: str, steps: int) -> dict[str, Any]:
    """The times of one row of the table, by name."""
    name, arguments, d_x, d_y, num_context, positions, _, compiled = row
    found: dict[str, Any] = {
        "model": name,
        "arguments": arguments,
        "d_x": d_x,
        "d_y": d_y,
        "num_context": num_context,
        "positions": positions,
        "replicas": num_replicas,
    }
    found["draw"], found["bare"] = bare_ms(row, num_replicas, device, steps)
    if device == "cuda":
        found["graph"] = in_trainer_ms(row, num_replicas, "graph", device, steps)
    found["eager"] = in_trainer_ms(row, num_replicas, "eager", device, max(steps // 5, 2))
    if compiled and num_replicas == 1 and device == "cuda":
        found["compile"] = in_trainer_ms(row, num_replicas, "compile", device, steps)
    return found


def main() -> None:
    """Times all rows; one that fails says why and the others go on."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="where steps.json is written")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--steps", type=int, default=300, help="steps that are timed")
    parser.add_argument("--most-replicas", type=int, default=1000, help="of rows")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    console, found_rows = Console(width=110), []
    for row in all_rows():
        for num_replicas in (num for num in row[6] if num <= options.most_replicas):
            try:
                found = measure(row, num_replicas, options.device, options.steps)
            except (RuntimeError, ValueError) as error:
                found = {"model": row[0], "replicas": num_replicas, "error": str(error)[:300]}
            console.print(json.dumps(found), highlight=False, soft_wrap=True)
            found_rows.append(found)
            (options.out / "steps.json").write_text(json.dumps(found_rows, indent=1))
    columns = ("draw", "bare", "graph", "eager", "compile")
    table = Table(title=f"milliseconds of a step, batch {BATCH}, {options.device}")
    table.add_column("architecture")
    for heading in ("replicas", *columns):
        table.add_column(heading, justify="right")
    for found in found_rows:
        label = found["model"] + "".join(
            f" {name}={value}" for name, value in found.get("arguments", {}).items()
        )
        cells = [f"{found[name]:.3f}" if name in found else "-" for name in columns]
        table.add_row(label, str(found["replicas"]), *cells)
    console.print(table)


if __name__ == "__main__":
    main()
