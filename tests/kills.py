"""Kills runs at random moments, resumes them, and compares how they end, bit by bit.

python -m tests.kills --trials 100 --seed 0

One run is left alone. Every other one gets a signal within an optimizer step, a save, a validation,
the final measuring or the export, at a moment drawn from the seed, and is resumed. What it leaves
must be readable. After SIGKILL no more may be lost than the steps since the last save that was due;
after SIGTERM, SIGHUP and SIGINT nothing, with no file half-written. The resumed run must end with
the same weights and the same `metrics.json`.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
import tensorboard.compat.proto.event_pb2  # noqa: F401 loaded by every run: once, before forking
import torch
from hydra import compose, initialize_config_dir
from lightning.pytorch import loops
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import track

import zoo
from zoo.commands import train as script
from zoo.files import CONFIGS, WRITING
from zoo.terminal import StoppedBySignal, outlive_readers, raise_on_signals
from zoo.training import measure, write
from zoo.training.checkpointing import AtomicCheckpointIO

SAVE_EVERY = 4
OVERRIDES = [
    "trainer=cpu",
    "max_steps=12",
    "val_every=3",
    f"checkpoint_every={SAVE_EVERY}",
    "batch_size=4",
    "eval_episodes=40",
    "data.d_x=3",
    "data.num_context=4",
    "checkpoint_tag=killed",
    "trainer.log_every_n_steps=1",
    "~callbacks.figures",
    "~callbacks.progress",
]
RATES = ["optim.lr=[0.001,0.01]"]
# Where a run spends its time: the method of each kind of moment.
KINDS: dict[str, tuple[Any, str]] = {
    "step": (loops._TrainingEpochLoop, "advance"),
    "save": (pl.Trainer, "save_checkpoint"),
    "validation": (loops._EvaluationLoop, "run"),
    "measuring": (measure, "create_report"),
    "export": (write, "save_checkpoint"),
}


SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


class Moment(NamedTuple):
    """`delay` seconds after call number `call` of the method of `kind` began, with its signal."""

    kind: str
    call: int
    delay: float
    signum: signal.Signals

    @property
    def status(self) -> int:
        """How a run ends that got the signal; the kernel sends SIGALRM in the place of SIGKILL."""
        return -signal.SIGALRM if self.signum == signal.SIGKILL else 128 + self.signum


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rates", action="store_true", help="runs of two rates side by side")
    arguments = parser.parse_args()
    if arguments.trials < 1:
        parser.error(f"--trials must be at least 1, got {arguments.trials}")
    torch.set_num_threads(1)  # a forked process has none of its parent's threads
    console = Console()
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        config = composed(RATES if arguments.rates else [])
        failures = kill_and_resume(
            config, Path(directory), arguments.trials, arguments.seed, console
        )
    for failure in failures:
        console.print(failure, soft_wrap=True)
    same = arguments.trials - len(failures)
    seconds = time.monotonic() - start
    console.print(
        f"{same} of {arguments.trials} killed runs ended bit-identical to the uninterrupted one "
        f"({seconds:.0f} s)"
    )
    sys.exit(bool(failures))


def kill_and_resume(
    config: DictConfig, directory: Path, num_trials: int, seed: int, console: Console
) -> list[str]:
    """Runs the trials; returns a line about each that did not end as it should."""
    whole = directory / "whole"
    durations = directory / "durations.json"
    if in_child(lambda: timed_run(config, whole, durations)) != 0:
        sys.exit("the uninterrupted run failed")
    calls: dict[str, list[float]] = json.loads(durations.read_text())
    draw = random.Random(seed)
    failures, killed, by_signal = [], Counter[str](), Counter[str]()
    for trial in track(range(num_trials), "killing", console=console):
        kind = draw.choice(list(KINDS))
        call = draw.randrange(len(calls[kind]))
        signum = SIGNALS[trial % len(SIGNALS)]
        moment = Moment(kind, call, draw.random() * calls[kind][call], signum)
        run_dir = directory / str(trial)
        status = in_child(lambda r=run_dir, m=moment: killed_run(config, r, m))
        if status == moment.status:
            killed[kind] += 1
            by_signal[signum.name] += 1
        problem = problem_of_killed(run_dir, moment, status)
        if problem is None and in_child(lambda r=run_dir: run(config, r)) != 0:
            problem = "could not be resumed"
        if problem is None and result(run_dir) != result(whole):
            problem = "ended otherwise"
        if problem is not None:
            failures.append(f"trial {trial}, {moment}: {problem}")
    over = num_trials - killed.total()
    parts = [f"{killed[kind]} killed in {kind}" for kind in KINDS]
    parts += [f"{by_signal[signum.name]} by {signum.name}" for signum in SIGNALS]
    console.print(", ".join([*parts, f"{over} over before their moment"]), soft_wrap=True)
    return failures


def problem_of_killed(run_dir: Path, moment: Moment, status: int) -> str | None:
    """What is wrong with the directory that a killed run left, None if nothing is."""
    # On a machine that runs unevenly, the run may be over before its time is.
    if status not in (0, moment.status):
        return f"ended with status {status} instead of being killed"
    last = run_dir / "checkpoints" / "last.ckpt"
    try:
        step = AtomicCheckpointIO().load_checkpoint(last)["global_step"] if last.exists() else 0
        if (run_dir / "checkpoint").exists():
            zoo.load(run_dir / "checkpoint")
    except ValueError as error:
        return f"left what cannot be read: {error}"
    if moment.signum == signal.SIGKILL:
        due = moment.call // SAVE_EVERY * SAVE_EVERY
    else:
        due = moment.call + 1  # the step under way is finished and saved
        if left := [path.name for path in run_dir.rglob(f"*{WRITING}")]:
            return f"left {left} half-written"
    if moment.kind == "step" and step < due:
        return f"was killed in step {moment.call + 1} and only step {step} was saved"
    return None


def result(run_dir: Path) -> tuple[bytes, bytes]:
    """The bytes of the weights and of the metrics that a run ended with."""
    weights = run_dir / "checkpoint" / "model.safetensors"
    return weights.read_bytes(), (run_dir / "metrics.json").read_bytes()


def in_child(work: Callable[[], None]) -> int:
    """Does the work in a forked process; returns its status, negative if a signal ended it."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def composed(overrides: list[str]) -> DictConfig:
    configs = CONFIGS
    with initialize_config_dir(version_base="1.3", config_dir=str(configs)):
        return compose("train", OVERRIDES + overrides)


def run(config: DictConfig, run_dir: Path) -> None:
    """A run without its last figures, which would take longer than all the rest."""
    write.write_figures = lambda *_: None  # type: ignore[assignment]
    config.run_dir = str(run_dir)
    script.train(config, run_dir, Console(quiet=True), sys.argv)


def killed_run(config: DictConfig, run_dir: Path, moment: Moment) -> None:
    """A run that gets the signal of a moment; SIGKILL ends it at once and wherever it is."""
    if moment.signum == signal.SIGKILL:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
    else:
        signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), moment.signum))
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # it is ignored if this is under nohup
        raise_on_signals()

    def kill_soon(number: int, call: Callable[[], Any]) -> Any:
        if number == moment.call:
            signal.setitimer(signal.ITIMER_REAL, max(moment.delay, 1e-6))
        return call()

    replace_method(moment.kind, kill_soon)
    try:
        run(config, run_dir)
    except StoppedBySignal as stopped:
        os._exit(128 + stopped.signum)


def timed_run(config: DictConfig, run_dir: Path, durations: Path) -> None:
    """A run that writes how many seconds each call of the methods of `KINDS` took."""
    taken: dict[str, list[float]] = {kind: [] for kind in KINDS}

    def timed(seconds: list[float], number: int, call: Callable[[], Any]) -> Any:
        start = time.monotonic()
        value = call()
        seconds.append(time.monotonic() - start)
        return value

    for kind, seconds in taken.items():
        replace_method(kind, partial(timed, seconds))
    run(config, run_dir)
    durations.write_text(json.dumps(taken))


def replace_method(kind: str, around: Callable[[int, Callable[[], Any]], Any]) -> None:
    """From now on `around` is given the number of each call, from 0, and what makes it."""
    owner, name = KINDS[kind]
    method, numbers = getattr(owner, name), count()

    def replacement(*args: Any, **kwargs: Any) -> Any:
        return around(next(numbers), lambda: method(*args, **kwargs))

    setattr(owner, name, replacement)


if __name__ == "__main__":
    outlive_readers()
    main()
