"""Time of an optimizer step by the number of threads and by how they wait for each other.

    python -m benchmarks.threads
    python -m benchmarks.threads --busy 2

`--busy` starts as many processes that compute beside. Every setting has a process of its own, since
how threads wait (spinning, or asleep) is settled before torch is imported; settings take turns, and
the best of several rounds is shown. A step is that of a bare loop: it draws the episodes, goes
forward and backward and updates. GFLOP/s are those of the fastest: 6 operations for each parameter
and token.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

import zoo
from datamodules import EpisodeDataModule, EpisodeSpec
from zoo.memory import keep_freed_memory
from zoo.metrics.errors import half_squared_error
from zoo.terminal import outlive_readers
from zoo.threads import settle_arithmetic
from zoo.training.optim import create_optimizer
from zoo.training.options import OptimConfig

ROUNDS = 3
WARM_UP = 5
BATCH, D, NUM_CONTEXT = 64, 10, 10
TOKENS = BATCH * (2 * NUM_CONTEXT + 1)
DEEP = {"d_model": 64, "num_layers": 4}
# Name in the table, architecture, arguments, steps to time. Sizes are those of the recipes.
ROWS: list[tuple[str, str, dict[str, Any], int]] = [
    ("gd_ssm", "gd_ssm", {}, 500),
    ("linear_transformer, 4 layers", "linear_transformer", {"num_layers": 4}, 60),
    ("transformer", "transformer", {"d_model": 48, "num_layers": 3}, 40),
    ("s5", "s5", DEEP | {"d_state": 64, "activation": "full_glu"}, 40),
    ("mamba", "mamba", {"d_model": 64, "num_layers": 2}, 20),
    ("gd_ssm_deep", "gd_ssm_deep", {"num_layers": 2}, 20),
    ("delta_net", "delta_net", {"d_model": 64, "num_layers": 2}, 20),
    ("mesa_net", "mesa_net", {"d_model": 64, "num_layers": 2}, 20),
]
WAITS = {"spin": "ACTIVE", "sleep": "PASSIVE"}


def step_ms(name: str, arguments: dict[str, Any], steps: int) -> tuple[float, int]:
    """Milliseconds of a step, and the parameters of the model."""
    data = EpisodeDataModule(EpisodeSpec(d_x=D, d_y=D, num_context=NUM_CONTEXT), 0, BATCH)
    model = zoo.create_model(name, d_x=D, d_y=D, **arguments)
    optimizer = create_optimizer(model, OptimConfig())
    start = 0.0
    for step in range(steps + WARM_UP):
        if step == WARM_UP:
            start = time.perf_counter()
        episodes = data.train_episodes(step)
        if name == "gd_ssm":
            prediction = model.predict_query(episodes.x, episodes.y)
            loss = half_squared_error(prediction, episodes.target[:, -1]).mean()
        else:
            loss = half_squared_error(model(episodes.x, episodes.y), episodes.target).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    ms = (time.perf_counter() - start) / steps * 1e3
    return ms, sum(parameter.numel() for parameter in model.parameters())


def times_of(num_threads: int, wait: str) -> dict[str, tuple[float, int]]:
    """What `step_ms` finds for each row, in a process of its own."""
    environment = os.environ | {"OMP_WAIT_POLICY": WAITS[wait]}
    command = [sys.executable, "-m", "benchmarks.threads", "--child", str(num_threads)]
    output = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, tuple[float, int]] = json.loads(output.stdout.splitlines()[-1])
    return found


@contextmanager
def busy(count: int) -> Iterator[None]:
    """That many processes compute meanwhile."""
    company = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in company:
            process.kill()
            process.wait()


def main() -> None:
    """Reads the command line, times the steps and prints the table."""
    parser = argparse.ArgumentParser(description="Times an optimizer step by its threads.")
    parser.add_argument("--busy", type=int, default=0, metavar="N", help="processes beside")
    parser.add_argument("--child", type=int, metavar="THREADS", help="time one setting, print JSON")
    options = parser.parse_args()
    if options.child is not None:
        torch.set_num_threads(options.child)
        found = {label: step_ms(name, args, steps) for label, name, args, steps in ROWS}
        print(json.dumps(found))
        return
    available = torch.get_num_threads()
    settings = [(1, "spin"), (available, "spin"), (available, "sleep")]
    rounds = [setting for _ in range(ROUNDS) for setting in settings]
    best: dict[tuple[str, tuple[int, str]], float] = {}
    parameters: dict[str, int] = {}
    with busy(options.busy):
        for setting in track(rounds, "timing"):
            for label, (ms, count) in times_of(*setting).items():
                best[label, setting] = min(ms, best.get((label, setting), ms))
                parameters[label] = count
    title = f"ms of a step, batch {BATCH}, d = N = {D}, {options.busy} processes beside"
    table = Table(title=title)
    headings = ["", "parameters", "1 thread"]
    headings += [f"{available} {'spinning' if wait == 'spin' else 'asleep'}" for wait in WAITS]
    for heading in [*headings, "GFLOP/s"]:
        table.add_column(heading, justify="right")
    for label, _, _, _ in ROWS:
        times = [best[label, setting] for setting in settings]
        speed = 6.0 * parameters[label] * TOKENS / min(times) / 1e6
        table.add_row(
            label, f"{parameters[label]:,}", *(f"{ms:.2f}" for ms in times), f"{speed:.1f}"
        )
    Console().print(table)


if __name__ == "__main__":
    outlive_readers()
    keep_freed_memory()  # as train.py does
    settle_arithmetic()  # for the processes that are started
    main()
