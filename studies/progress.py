"""How much of a study is done and how long the rest takes."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from studies.jobs import Job

# About how long a figure takes to measure and draw, in seconds.
FIGURE_S = 20.0
# How long trainings have to have gone on before their speed is taken for that of the rest.
LONG_ENOUGH_S = 20.0


class Progress:
    """A line for each training and figure that is done, and a bar below them in a terminal.

    What is left is estimated in seconds on one thread, and measured by the speed so far.

    Args:
        console: Where it is shown.
        num_figures: That are measured after the trainings.
    """

    def __init__(self, console: Console, num_figures: int) -> None:
        self.console, self.num_figures = console, num_figures
        self.num_drawn = 0
        self.in_vain = 0.0
        self.jobs: list[Job] = []
        self.later: list[float] = []
        self.at_start: float | None = None
        self.start = time.monotonic()

    @contextmanager
    def shown(self) -> Iterator[None]:
        """The bar is there while this lasts."""
        if not self.console.is_terminal:
            yield
            return
        # What trainings print goes to their logs.
        with Live(
            self,
            console=self.console,
            refresh_per_second=1,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        ):
            yield

    def plan(self, jobs: Sequence[Job], later: Sequence[float]) -> None:
        """Notes what is to be done, and says it the first time.

        Args:
            jobs: All that can be named, those that are finished included.
            later: Seconds that each takes that comes after them.
        """
        # Where seeds diverged at a rate, others take their place.
        kept = {job.place for job in jobs}
        self.in_vain += sum(job.seconds_done() for job in self.jobs if job.place not in kept)
        self.jobs, self.later = list(jobs), list(later)
        if self.at_start is None:
            self.at_start = self._done()
            finished = sum(job.ended for job in jobs)
            text = f"{finished} of {self._num_jobs} trainings are finished"
            if finished < self._num_jobs:
                text += f", about {_minutes(self._left())} on one thread are left"
            self.say(text)

    def ended(self, job: Job, failed: bool) -> None:
        """Says that a training has ended."""
        finished = sum(other.ended for other in self.jobs)
        what = "failed" if failed else self._time_left()
        self.say(f"{finished}/{self._num_jobs}  {job.name}  {what}")

    def drawn(self, name: str) -> None:
        """Says that a figure is there."""
        self.num_drawn += 1
        self.say(f"figure {name}  {self.num_drawn} of {self.num_figures}")

    def __rich__(self) -> Table:
        done, left = self._done(), self._left()
        under_way = [j.name for j in self.jobs if not j.ended and j.seconds_done() > 0]
        row = Table.grid(padding=(0, 1))
        row.add_row(
            ProgressBar(total=done + left, completed=done, width=20),
            "  ".join([self._time_left(), *under_way]),
        )
        return row

    def say(self, text: str) -> None:
        """A line above the bar."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    @property
    def _num_jobs(self) -> int:
        return len(self.jobs) + len(self.later)

    def _done(self) -> float:
        of_jobs = sum(job.seconds_done() for job in self.jobs)
        return self.in_vain + of_jobs + self.num_drawn * FIGURE_S

    def _left(self) -> float:
        """Seconds on one thread."""
        of_jobs = sum(job.seconds - job.seconds_done() for job in self.jobs)
        return of_jobs + sum(self.later) + (self.num_figures - self.num_drawn) * FIGURE_S

    def _time_left(self) -> str:
        gained, took = self._done() - (self.at_start or 0.0), time.monotonic() - self.start
        if gained < LONG_ENOUGH_S:
            return "time left unknown"
        return f"{_minutes(self._left() * took / gained)} left"


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
