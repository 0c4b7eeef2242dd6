"""Trains what is not finished: here, in processes side by side, or as jobs of a cluster."""

import contextlib
import importlib.util
import shlex
import signal
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor
from pathlib import Path
from types import FrameType
from typing import Any, Literal, NamedTuple

import psutil  # type: ignore[import-untyped]

from studies.jobs import DIVERGED, Job, seconds_of_jobs
from studies.plan import Effort, Training
from studies.progress import Progress
from studies.stages import stages
from zoo.errors import first_line
from zoo.files import refuse_links, write_text
from zoo.terminal import StoppedBySignal, ending_signals
from zoo.training.base import NonFiniteError

# Seconds between two looks at the jobs of submitit, and what it sends before their time is over.
LOOK_EVERY = 1.0
TIME_IS_UP = signal.SIGUSR2
# Trains a job in this process, or goes on with it.
Train = Callable[[Job], None]


class TrainingFailed(RuntimeError):
    """A run ended with an error; the text says which, and where its output is."""


class Runner(NamedTuple):
    """How trainings are run.

    Attributes:
        name: `here` in this process, one after the other; `joblib` in processes of this machine;
            `submitit` as jobs of SLURM, or where there is none as processes of their own.
        side_by_side: Trainings at a time, of `joblib` and `submitit`.
        parameters: Of a job of `submitit`, as its `AutoExecutor` takes them.
    """

    name: Literal["here", "joblib", "submitit"] = "here"
    side_by_side: int = 2
    parameters: Mapping[str, Any] = {}

    def check(self) -> None:
        """Raises ValueError if what it needs is not installed."""
        if self.name != "here" and importlib.util.find_spec(self.name) is None:
            raise ValueError(f"runner={self.name} needs {self.name}: pip install 'icl-zoo[sweep]'")


def train_all(
    trainings: Sequence[Training],
    effort: Effort,
    runs: Path,
    runner: Runner,
    train: Train,
    progress: Progress,
) -> None:
    """Trains what is not finished, the longest first; what is half done goes on where it stopped.

    Where one fails the others go on, up to what they are needed for. When this is interrupted,
    those under way save their state.

    Raises:
        TrainingFailed: If some have failed, or a seed has diverged.
        StoppedBySignal: If a signal asked for it.
        ValueError: If the runner needs what is not installed.
    """
    runner.check()
    failures: dict[Path, str] = {}
    while True:
        jobs, later = known(trainings, effort, runs)
        progress.plan(jobs, later)
        # What failed is not tried again. Where seeds diverged at the best rate of a trial, the next
        # best has taken its place; a trial whose rates have all diverged has ended.
        left = [job for job in jobs if not job.ended]
        failed = [failures[job.place] for job in left if job.place in failures]
        waiting = [job for job in left if job.place not in failures]
        if not waiting and failed:
            more = f"\nand {len(failed) - 1} more failed" if len(failed) > 1 else ""
            raise TrainingFailed(failed[0] + more)
        if not waiting:
            return
        waiting.sort(key=lambda job: -job.seconds)
        for job, failure in _run(waiting, runner, train):
            if failure is None and not job.ended:
                failure = _without_result(job)
            if failure is not None:
                failures[job.place] = failure
            progress.ended(job, failed=failure is not None)


def known(
    trainings: Iterable[Training], effort: Effort, runs: Path
) -> tuple[list[Job], list[float]]:
    """The jobs that can be named now, and about how many seconds each takes that comes after them.

    What follows a trial is known when that has ended. Trainings may share a trial.
    """
    jobs: dict[Path, Job] = {}
    later: list[float] = []
    for training in trainings:
        for stage in stages(training, effort, runs):
            jobs |= {job.place: job for job in stage}
            if not all(job.ended for job in stage):
                later += seconds_of_jobs(training, effort) if stage[0].of_trial else []
                break
    return list(jobs.values()), later


def _run(jobs: Sequence[Job], runner: Runner, train: Train) -> Iterator[tuple[Job, str | None]]:
    """Each job as soon as it has ended, and why it failed if it did."""
    if runner.name == "here":
        for job in jobs:
            yield job, _logged(train, job)
    elif runner.name == "joblib":
        yield from _by_joblib(jobs, runner, train)
    else:
        yield from _by_submitit(jobs, runner, train)


def _by_joblib(
    jobs: Sequence[Job], runner: Runner, train: Train
) -> Iterator[tuple[Job, str | None]]:
    import joblib
    from joblib.externals.loky import get_reusable_executor

    # What comes out is the same with any number of threads; more than cores wait for each other.
    with (
        _passed_on() as signals,
        joblib.parallel_config("loky", n_jobs=runner.side_by_side, inner_max_num_threads=1),
    ):
        calls = (joblib.delayed(_in_a_worker)(train, job, k) for k, job in enumerate(jobs))
        try:
            for k, failure in joblib.Parallel(return_as="generator_unordered")(calls):
                if not signals:
                    yield jobs[k], failure
        except BrokenExecutor as error:
            if not signals:  # else a worker that had not begun was ended by one
                raise TrainingFailed(
                    f"a process that trains has ended ({first_line(error)}); the same command goes "
                    "on; if memory ran out, side_by_side=1 takes less"
                ) from error
        finally:  # the pool would stay for later calls, with the memory of its processes
            get_reusable_executor().shutdown()
    if signals:
        raise StoppedBySignal(signals[0])


def _by_submitit(
    jobs: Sequence[Job], runner: Runner, train: Train
) -> Iterator[tuple[Job, str | None]]:
    import submitit

    executor = submitit.AutoExecutor(folder=jobs[0].directory.parent / "submitit")
    try:
        executor.update_parameters(**runner.parameters)
    except (NameError, TypeError, AssertionError) as error:  # an unknown name, another type
        raise ValueError(f"submitit: {first_line(error)}") from error
    waiting, running = list(jobs), list[tuple[Job, Any]]()
    cancelled = False
    with _passed_on() as signals:
        while running or (waiting and not signals):
            while waiting and not signals and len(running) < runner.side_by_side:
                job = waiting.pop(0)
                try:
                    running.append((job, _submitted(executor, train, job)))
                except (RuntimeError, OSError) as error:  # refused by the cluster: the others go on
                    yield job, f"{job.name}: {first_line(error)}"
            if signals and executor.cluster == "slurm" and not cancelled:
                cancelled = True
                for _, of_cluster in running:
                    of_cluster.cancel()  # with SIGTERM: they save
            ended = [one for one in running if one[1].done()]
            if not ended:
                time.sleep(LOOK_EVERY)
            for one in ended:
                running.remove(one)
                job, of_cluster = one
                if not signals:
                    yield job, _result(job, of_cluster)
    if signals:
        raise StoppedBySignal(signals[0])


def _submitted(executor: Any, train: Train, job: Job) -> Any:
    """A job of submitit whose processes Ctrl-C does not reach: they would be killed a second later.

    What is ignored when a process starts stays so.
    """
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return executor.submit(_in_a_worker, train, job, 0)
    finally:
        signal.signal(signal.SIGINT, before)


def _result(job: Job, of_cluster: Any) -> str | None:
    """Why a job of submitit failed, None if it did not."""
    try:
        failure: str | None = of_cluster.result()[1]
    except Exception as error:  # killed for memory, a node that was lost: the others go on
        return f"{job.name}: {first_line(error)}\nmore: {job.log}, {of_cluster.paths.stderr}"
    return failure


def _logged(train: Train, job: Job) -> str | None:
    """Trains a job, with what it prints in its log.

    Returns:
        Why it failed, None if it did not.

    Raises:
        StoppedBySignal: If a signal asked for it; the state is saved then.
    """
    try:
        job.place.mkdir(parents=True, exist_ok=True)
        refuse_links(*job.place.glob("*"))
        with (
            job.log.open("a") as log,
            contextlib.redirect_stdout(log),
            contextlib.redirect_stderr(log),
        ):
            try:
                train(job)
            except StoppedBySignal as stopped:
                print(stopped)
                raise
            except NonFiniteError as error:
                print(error)
                write_text(job.place / DIVERGED, f"{error}\n")
                return f"{job.name}: {error}\nmore: {job.log}"
            except Exception as error:  # whatever it is, the others go on
                traceback.print_exc()
                return f"{job.name}: {error}\nmore: {job.log}"
    except (OSError, ValueError) as error:  # a full disk, a link: nor do these stop the others
        return f"{job.name}: {error}"
    return None


# The signal that has ended what this worker did, and whether it is training now.
_stopped_by = 0
_training = False


def _in_a_worker(train: Train, job: Job, k: int) -> tuple[int, str | None]:
    """Trains a job in a process that others are trained in as well, until a signal comes.

    The worker of a pool outlives a signal: while one process of the pool dies, others are killed
    before they have saved their state.
    """
    global _training, _stopped_by
    for each in (*ending_signals(), TIME_IS_UP):
        signal.signal(each, _stop)
    if _stopped_by:
        return k, None
    _training = True
    try:
        return k, _logged(train, job)
    except StoppedBySignal as stopped:  # training has handlers of its own
        _stopped_by = stopped.signum
        return k, None
    finally:
        _training = False


def _stop(signum: int, frame: FrameType | None) -> None:
    global _stopped_by
    if signum == TIME_IS_UP:
        signal.raise_signal(signal.SIGTERM)  # which a training knows
        return
    if not _stopped_by:
        _stopped_by = signum
        if _training:
            raise StoppedBySignal(signum)


@contextlib.contextmanager
def _passed_on() -> Iterator[list[int]]:
    """Signals go to the processes that this one has started, which save; they are noted here."""
    signals: list[int] = []

    def pass_on(signum: int, frame: FrameType | None) -> None:
        signals.append(signum)
        for child in psutil.Process().children():
            with contextlib.suppress(psutil.NoSuchProcess):
                child.send_signal(signal.SIGTERM)

    before = {each: signal.signal(each, pass_on) for each in ending_signals()}
    try:
        yield signals
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _without_result(job: Job) -> str:
    if not (job.place / "metrics.json").exists():
        return f"{job.name} was stopped, see {job.log}; the same command goes on with it"
    missing = [run.name for run in job.run_dirs if not (run / "metrics.json").exists()]
    return (
        f"{', '.join(missing)} of {job.name} ended without a result, see {job.log}; "
        f"rm -r {shlex.quote(str(job.place))} to train it anew"
    )
