"""Runs processes of `train.py` side by side, those that are not finished."""

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from studies.plan import Job
from zoo.files import ROOT, refuse_links

# Seconds between two looks at the processes, and that an interrupted one has to save its state.
LOOK_EVERY = 0.2
STOP_WITHIN = 120.0


class TrainingFailed(RuntimeError):
    """A run ended with an error; the text has the command and the end of its output."""


def train_all(jobs: Sequence[Job], side_by_side: int, console: Console) -> None:
    """Runs what is not finished, the longest first; a half-done run goes on where it stopped.

    When this is interrupted, or one run fails, those under way finish their step and save.

    Raises:
        TrainingFailed: If a run fails, or one of its seeds diverges.
    """
    waiting = sorted((job for job in jobs if not job.finished), key=lambda job: -job.seconds)
    running: dict[Job, subprocess.Popen[bytes]] = {}
    if waiting:
        console.print(f"training {side_by_side} runs side by side, each with one thread")
    with _PlanProgress(jobs, console) as progress:
        try:
            while waiting or running:
                while waiting and len(running) < side_by_side:
                    job = waiting.pop(0)
                    running[job] = _start(job)
                time.sleep(LOOK_EVERY)
                for job, process in list(running.items()):
                    if process.poll() is None:
                        continue
                    del running[job]
                    if process.returncode != 0 or not job.finished:
                        raise TrainingFailed(_failure(job, process.returncode))
                    progress.finished(job, list(running))
                progress.update(list(running))
        finally:
            _stop(list(running.values()))


def _start(job: Job) -> subprocess.Popen[bytes]:
    job.place.mkdir(parents=True, exist_ok=True)
    refuse_links(*job.place.glob("*"))
    with job.log.open("ab") as log:
        # One thread: what comes out must not depend on the machine's cores.
        # A session of its own: Ctrl-C in the terminal reaches it once, from `_stop`. A second
        # SIGINT would make it exit without saving.
        return subprocess.Popen(
            job.command,
            cwd=ROOT,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )


def _stop(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.send_signal(signal.SIGINT)
    for process in processes:
        try:
            process.wait(STOP_WITHIN)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _failure(job: Job, code: int) -> str:
    if code == 0:
        missing = [run.name for run in job.run_dirs if not (run / "metrics.json").exists()]
        return (
            f"{', '.join(missing)} of {job.training.name} ended without a result, see {job.log}; "
            f"rm -r {shlex.quote(str(job.place))} to train it anew"
        )
    output = job.log.read_text(errors="replace").splitlines()[-12:]
    command = " ".join(job.command)
    return "\n".join([f"exit code {code} from", f"  {command}", *output, f"more: {job.log}"])


def _name(job: Job) -> str:
    seeds = f"seed {job.seeds[0]}" if len(job.seeds) == 1 else f"{len(job.seeds)} seeds"
    return f"{job.training.name} {seeds}"


class _PlanProgress:
    """How much of the plan is done and how long the rest takes: a bar, or a line for each run."""

    def __init__(self, jobs: Sequence[Job], console: Console) -> None:
        self.jobs, self.console = jobs, console
        self.total = sum(job.seconds for job in jobs)
        self.at_start = sum(job.seconds_done() for job in jobs)
        self.settled = sum(job.seconds for job in jobs if job.finished)
        self.num_finished = sum(job.finished for job in jobs)
        self.start = time.monotonic()
        self.bar: Progress | None = None

    def __enter__(self) -> "_PlanProgress":
        if self.num_finished:
            text = f"{self.num_finished} of {len(self.jobs)} runs are finished already"
            self.console.print(text, highlight=False)
        if self.console.is_terminal and self.num_finished < len(self.jobs):
            columns = (BarColumn(bar_width=20), TextColumn("{task.fields[text]}"))
            self.bar = Progress(*columns, console=self.console, transient=True)
            self.bar.add_task("", total=self.total, text="")
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def finished(self, job: Job, running: Sequence[Job]) -> None:
        self.settled += job.seconds
        self.num_finished += 1
        if self.bar is None:
            left = self._left(self._done(running))
            text = f"{self.num_finished}/{len(self.jobs)}  {_name(job)}  {left}"
            self.console.print(text, highlight=False)

    def update(self, running: Sequence[Job]) -> None:
        if self.bar is None:
            return
        done = self._done(running)
        names = ", ".join(map(_name, running))
        text = f"{self.num_finished}/{len(self.jobs)} runs  {self._left(done)}  {names}"
        self.bar.update(self.bar.task_ids[0], completed=done, text=text)

    def _done(self, running: Sequence[Job]) -> float:
        return self.settled + sum(job.seconds_done() for job in running)

    def _left(self, done: float) -> str:
        """Time left at the speed so far, which the estimated seconds of runs are measured by."""
        gained = done - self.at_start
        if gained <= 0:
            return "time left unknown"
        left = max(0.0, self.total - done)
        seconds = left * (time.monotonic() - self.start) / gained
        return f"{seconds / 60:.0f} min left" if seconds >= 90 else f"{seconds:.0f} s left"
