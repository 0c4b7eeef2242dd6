"""Time of one optimizer step of the GD-SSM: in a bare loop, and inside `train.py`.

    python -m benchmarks.step_time
    python -m benchmarks.step_time --published CLONE --python PYTHON

A plain step draws a batch, goes forward and backward and updates; it has the threads that
`train.py` takes on a quiet machine. The step of `train.py`, here in a bare loop, also checks and
clips the gradient and moves the rate. Lightning's share of what `train.py` adds to it is what a
trainer without callbacks adds to a step of a single parameter. With a clone of the paper's JAX
implementation and a Python that can run it, its jitted step is timed between ours, in the same run:
a factor over times of another run or machine means nothing. `published_step.py` says what it needs.
"""

import argparse
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from hydra import compose, initialize
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch.utils.data import DataLoader

import zoo
from benchmarks.trainer import quiet_trainer
from datamodules import EpisodeDataModule, EpisodeSpec
from zoo.commands.train import train
from zoo.memory import keep_freed_memory
from zoo.metrics.errors import half_squared_error
from zoo.terminal import outlive_readers
from zoo.threads import begin_to_look, most_threads, settle_arithmetic, threads_of
from zoo.training.optim import create_optimizer, create_schedule
from zoo.training.options import OptimConfig

# batch, d, N, steps to time, of ours and of the published implementation
ROWS = [
    (64, 10, 10, 1000, 1000),
    (1024, 10, 10, 300, 200),
    (256, 20, 40, 200, 50),
    (64, 50, 50, 200, 30),
]
WARM_UP = 50
REPEATS = 3


class OneParameter(pl.LightningModule):
    """The least that can be trained."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        """Half the square of the parameter."""
        return 0.5 * self.weight.square()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Gradient descent."""
        return torch.optim.SGD(self.parameters(), lr=0.1)


class StepTimer(pl.Callback):
    """Seconds from the end of step `WARM_UP` to the end of the last step."""

    last: "StepTimer"

    def __init__(self) -> None:
        self.seconds = 0.0
        self._start = 0.0
        StepTimer.last = self

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == WARM_UP:
            self._start = time.perf_counter()
        elif trainer.global_step == trainer.max_steps:
            self.seconds = time.perf_counter() - self._start


def bare_step_ms(batch: int, d: int, num_context: int, steps: int, as_in_train: bool) -> float:
    """Milliseconds of a step in a bare loop, plain or all that `train.py` does in one."""
    data = EpisodeDataModule(EpisodeSpec(d_x=d, d_y=d, num_context=num_context), 0, batch)
    model = zoo.create_model("gd_ssm", d_x=d, d_y=d)
    config = OptimConfig()
    operations = 6.0 * batch * (num_context + 1) * sum(p.numel() for p in model.parameters())
    torch.set_num_threads(min(most_threads(), threads_of(operations, batch)))
    optimizer = create_optimizer(model, config)
    schedule = create_schedule(optimizer, config, steps + WARM_UP)
    parameters = list(model.parameters())
    start = 0.0
    for step in range(steps + WARM_UP):
        if step == WARM_UP:
            start = time.perf_counter()
        episodes = data.train_episodes(step)
        prediction = model.predict_query(episodes.x, episodes.y)
        loss = half_squared_error(prediction, episodes.target[:, -1]).mean()
        optimizer.zero_grad()
        loss.backward()
        if as_in_train:
            norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
            assert torch.isfinite(loss + norm)
            if norm > 1.0:
                torch.nn.utils.clip_grads_with_norm_(parameters, 1.0, norm)
        optimizer.step()
        if as_in_train:
            schedule.step()
    return (time.perf_counter() - start) / steps * 1e3


def trainer_step_ms(batch: int, d: int, num_context: int, steps: int) -> float:
    """Milliseconds of a step inside `train.py`, between two validations."""
    overrides = [
        f"data.d_x={d}",
        f"data.num_context={num_context}",
        f"batch_size={batch}",
        f"max_steps={steps + WARM_UP}",
        f"val_every={steps + WARM_UP}",
        f"checkpoint_every={steps + WARM_UP}",
        "eval_episodes=100",
        "trainer=cpu",
        "checkpoint_tag=benchmark",
        "+callbacks.timer._target_=benchmarks.step_time.StepTimer",
        "~callbacks.figures",
    ]
    with tempfile.TemporaryDirectory() as directory:
        with initialize(version_base="1.3", config_path="../configs"):
            config = compose("train", [*overrides, f"run_dir={directory}"])
        begin_to_look()  # as the door does; else what was timed before counts as company
        train(config, Path(directory), Console(quiet=True), ["train.py", *overrides])
    # The class in the configuration is imported by name, apart from the one of this script.
    from benchmarks.step_time import StepTimer as ImportedTimer

    return ImportedTimer.last.seconds / steps * 1e3


def lightning_step_ms(steps: int) -> float:
    """Milliseconds that a trainer without callbacks adds to a step."""
    timer = StepTimer()
    ticks: Any = DataLoader(range(steps + WARM_UP), batch_size=None)  # type: ignore[arg-type]
    quiet_trainer(steps + WARM_UP, [timer]).fit(OneParameter(), ticks)
    module = OneParameter()
    optimizer = module.configure_optimizers()
    start = time.perf_counter()
    for step in range(steps):
        loss = module.training_step(None, step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return (timer.seconds - (time.perf_counter() - start)) / steps * 1e3


def published_step_ms(
    python: Path, clone: Path, batch: int, d: int, num_context: int, steps: int
) -> float:
    """Milliseconds of a step of the published implementation, in a process of its own."""
    script = Path(__file__).with_name("published_step.py")
    numbers = map(str, (batch, d, num_context, steps))
    command = [str(python), str(script), str(clone), *numbers]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return float(output.splitlines()[-1])


def main() -> None:
    """Reads the command line, times the steps and prints the tables."""
    parser = argparse.ArgumentParser(description="Times an optimizer step of the GD-SSM.")
    parser.add_argument("--published", type=Path, metavar="CLONE", help="of the JAX implementation")
    parser.add_argument("--python", type=Path, help="runs it")
    options = parser.parse_args()
    if (options.published is None) != (options.python is None):
        parser.error("--published and --python belong together")
    table = Table(title=f"ms per step, best of {REPEATS}, up to {most_threads()} threads")
    headings = ["batch, d, N", "published", "plain", "factor", "bare", "train.py", "over bare"]
    for heading in [*headings, "Lightning's"]:
        table.add_column(heading, justify="right")
    for batch, d, num_context, steps, published_steps in track(ROWS, "timing"):
        published = plain = bare = inside = lightning = float("inf")
        for _ in range(REPEATS):  # interleaved, so that all meet the same machine
            if options.published is not None:
                sizes = (batch, d, num_context, published_steps)
                found = published_step_ms(options.python, options.published, *sizes)
                published = min(published, found)
            plain = min(plain, bare_step_ms(batch, d, num_context, steps, as_in_train=False))
            bare = min(bare, bare_step_ms(batch, d, num_context, steps, as_in_train=True))
            lightning = min(lightning, lightning_step_ms(steps))
            inside = min(inside, trainer_step_ms(batch, d, num_context, steps))
        small = batch == 64 and d == 10
        table.add_row(
            f"{batch}, {d}, {num_context}",
            "" if options.published is None else f"{published:.1f}",
            f"{plain:.2f}",
            "" if options.published is None else f"{published / plain:.1f} x",
            f"{bare:.2f}",
            f"{inside:.2f}",
            f"+{inside - bare:.2f} ms" if small else f"+{100 * (inside / bare - 1):.0f} %",
            f"{lightning:.2f}",
        )
    Console().print(table)


if __name__ == "__main__":
    outlive_readers()
    keep_freed_memory()  # this and what follows as train.py does
    settle_arithmetic()
    main()
