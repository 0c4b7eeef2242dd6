"""What runs reached, put together over seeds: a row for each setting, the learning rate chosen."""

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from zoo.errors import unknown
from zoo.metrics.errors import HEAVY, interval_over_seeds
from zoo.training.runs import ARCHITECTURE, Rate, Run, SeedAtRate

RATES = ("optim.lr", "optim.ssm_lr")
# Settings that say which run it is, how it is measured or where it runs, not what is trained.
NAMES = ("seed", "seeds", "run_dir", "resume", "checkpoint_tag")
MEASURED = ("val_every", "eval_episodes", "test_episodes", "checkpoint_every")
NOT_TRAINED = ("callbacks.", "logger.", "trainer.")
TRAINED = "trainer.precision"
# Of several settings that go with each other, those that say most of the episodes.
TELLING = ("data.function.name", "data.noise", "data.inputs.name")


class Row(NamedTuple):
    """What one architecture reached with one group of settings.

    Attributes:
        architecture: Its name.
        settings: Those that set the row apart, by dotted name.
        metric: The test error that is shown; empty where nothing was tested.
        reference: The algorithm that errors are divided by; empty where there is none.
        rate: The lr and ssm_lr that were kept.
        tried: All that were, the diverged ones too.
        trials: One for each seed at the rate that was kept.
        repeated: Runs that are left out, since there is a later one of the same seed and rate.
        better: The trials at a rate of less validation error, which fewer seeds had; often none.
        not_chosen: A run without validation errors, for which this is a row of one rate alone.
        beside_trials: The other rates that seeds were tested at, where shorter runs had tried some:
            who read those may have kept one of these.
    """

    architecture: str
    settings: dict[str, Any]
    metric: str
    reference: str
    rate: Rate
    tried: list[Rate]
    trials: list[SeedAtRate]
    repeated: list[Path]
    better: Sequence[SeedAtRate] = ()
    not_chosen: Path | None = None
    beside_trials: Sequence[Rate] = ()

    @property
    def ratio(self) -> str:
        """The name of the ratio that is shown."""
        return f"test/ratio_to_{self.reference}"

    @property
    def at_edge(self) -> bool:
        """Whether a rate beyond those that were tried may be better."""
        tried = {lr for lr, _ in self.tried}
        return len(tried) > 1 and self.rate[0] in (min(tried), max(tried))

    def worst_share(self, name: str) -> float | None:
        """The share of a number that the worst 0.1 % of the episodes carry, the largest of a seed.

        None for what is no error or ratio of errors.
        """
        return max((t.tails[name] for t in self.trials if name in t.tails), default=None)

    def heavy(self, name: str) -> bool:
        """Whether few episodes carry the number of a seed, so that means over seeds say little."""
        return (self.worst_share(name) or 0.0) > HEAVY

    def values(self, name: str) -> dict[int, float]:
        """A number of every seed that has it, by seed."""
        return {t.seed: t.numbers[name] for t in self.trials if name in t.numbers}

    def over_seeds(self, name: str) -> tuple[float, float | None]:
        """The mean of a number over the seeds, and half its 95 % interval, None for one seed.

        Raises:
            ValueError: If no seed has it.
        """
        values = [*self.values(name).values()]
        if not values:
            raise ValueError(f"no seed has {name}")
        return interval_over_seeds(values)

    @property
    def num_tests(self) -> int:
        """Episodes that the seeds were tested on, the least of them."""
        return min(trial.num_tests for trial in self.trials)

    @property
    def seconds(self) -> float:
        """That the training of a seed took, on average."""
        return fmean(trial.seconds for trial in self.trials)

    @property
    def validation(self) -> float | None:
        """The mean validation error over the seeds, None where it was not noted."""
        return _mean_validation(self.trials)


def rows_of(runs: Sequence[Run], by: str | None = None, trials: Sequence[Run] = ()) -> list[Row]:
    """What finished runs reached: a row for each architecture and group of settings.

    Runs that differ in seed or learning rate alone are one row, of the rate that leaves most seeds
    and of those has the least mean validation error; the others are counted. So the seeds that are
    shown choose, also where trials by other seeds had chosen before. Where one has no validation
    errors to choose by, each rate is a row.

    Args:
        runs: Of which those that are not finished count as tried rates alone, and damaged ones not
            at all.
        by: A setting that rows are told apart and sorted by. A learning rate is then not chosen.
        trials: Shorter runs. The rates of those that are otherwise set like a row count as tried;
            their errors choose nothing.

    Raises:
        ValueError: If no run has the setting.
    """
    runs = [run for run in runs if not run.damage]
    names = dict.fromkeys(name for run in runs for name in run.settings)
    if by is not None and by not in names:
        meant = [name for name in names if name.endswith(f".{by}")]
        raise ValueError(unknown("setting", by, names, meant))
    shared = _told_apart(runs, [] if by is None or by in RATES else [by])
    shown = {run.directory: _shown(run, runs, shared, by) for run in runs}
    groups: dict[str, list[Run]] = {}
    for run in runs:
        key = json.dumps([run.architecture, shown[run.directory]], default=str)
        groups.setdefault(key, []).append(run)
    rows: list[Row] = []
    for members in groups.values():
        rows += _rows(members, shown[members[0].directory], by, trials)

    def place(row: Row) -> Any:
        first = row.settings.get(by) if by is not None else None
        error = row.over_seeds(row.metric)[0] if row.metric else math.inf
        others = [_sortable(row.settings.get(name)) for name in shared if name != by]
        return (_sortable(first), row.metric, others, error, row.architecture)

    return sorted(rows, key=place)


def _rows(
    members: Sequence[Run], settings: dict[str, Any], by: str | None, trial_runs: Sequence[Run]
) -> list[Row]:
    """The row of a group; one for each rate where rows are told apart by that."""
    trials, repeated = _latest(trial for run in members for trial in run.trials)
    by_rate: dict[Rate, list[SeedAtRate]] = {}
    for trial in trials:
        by_rate.setdefault(trial.rate, []).append(trial)
    trained = [_trained(run) for run in members]
    over = [run for run in members if run.finished or run.diverged]
    of_trials = [run for run in trial_runs if run.finished and _trained(run) in trained]
    tried = sorted({rate for run in [*over, *of_trials] for rate in run.rates})
    architecture = members[0].architecture
    tested = {r: [t for t in of_rate if t.numbers] for r, of_rate in by_rate.items()}
    tested = {rate: of_rate for rate, of_rate in tested.items() if of_rate}
    not_noted = [t.run for of_rate in tested.values() for t in of_rate if t.validation is None]
    apart = by if by is not None and by in RATES else None
    if apart is not None or (len(tested) > 1 and not_noted):
        name = RATES[0] if apart is None else apart
        return [
            Row(
                architecture,
                {**settings, name: rate[RATES.index(name)]},
                *_names_of(of_rate),
                rate,
                [rate],
                of_rate,
                repeated,
                not_chosen=not_noted[0] if apart is None else None,
            )
            for rate, of_rate in sorted((tested if apart is None else by_rate).items())
        ]
    if not tested:
        return []
    errors = {rate: _mean_validation(of_rate) for rate, of_rate in by_rate.items()}
    known = {rate: math.inf if error is None else error for rate, error in errors.items()}
    best = min(tested, key=lambda rate: (-len(tested[rate]), known[rate]))
    least = min(known, key=known.__getitem__)
    better = by_rate[least] if known[least] < known[best] else []
    others = sorted(rate for rate in tested if rate != best) if of_trials else []
    return [
        Row(
            architecture,
            settings,
            *_names_of(tested[best]),
            best,
            tried,
            tested[best],
            repeated,
            better,
            beside_trials=others,
        )
    ]


def _mean_validation(trials: Iterable[SeedAtRate]) -> float | None:
    values = [trial.validation for trial in trials]
    known = [value for value in values if value is not None]
    return fmean(known) if known and len(known) == len(values) else None


def _names_of(trials: Sequence[SeedAtRate]) -> tuple[str, str]:
    """The error that is shown, which is the first that was measured, and the first algorithm."""
    numbers = next((trial.numbers for trial in trials if trial.numbers), {})
    ratios = (n.removeprefix("test/ratio_to_") for n in numbers if n.startswith("test/ratio_to_"))
    return next(iter(numbers), ""), next(ratios, "")


def _latest(trials: Iterable[SeedAtRate]) -> tuple[list[SeedAtRate], list[Path]]:
    """One trial for each seed and rate, a tested one or else the last, and the runs left out."""
    kept: dict[tuple[int, Rate], SeedAtRate] = {}
    left_out: dict[Path, None] = {}
    for trial in trials:
        key = (trial.seed, trial.rate)
        other = kept.get(key)
        if other is None or bool(trial.numbers) >= bool(other.numbers):
            kept[key] = trial
        if other is not None and other.run != trial.run:
            left_out[other.run if kept[key] is trial else trial.run] = None
    still = {trial.run for trial in kept.values()}
    return [*kept.values()], [run for run in left_out if run not in still]


def _trained(run: Run) -> dict[str, Any]:
    """The settings of what is trained but its length, that is those for which rates are tried."""
    apart = (*NAMES, *MEASURED, *RATES, "max_steps")
    return {
        name: value
        for name, value in run.settings.items()
        if name not in apart and (name == TRAINED or not name.startswith(NOT_TRAINED))
    }


def _told_apart(runs: Sequence[Run], first: list[str]) -> list[str]:
    """Some settings, and those outside of the model that tell runs further apart."""
    names = [name for name in _varied(runs) if not name.startswith(("model.", "optim."))]
    return [*first, *_refining(runs, first, names)]


def _shown(run: Run, runs: Sequence[Run], shared: Sequence[str], by: str | None) -> dict[str, Any]:
    """The settings that set a run apart: shared ones, and its own among those of its model.

    What differs from one architecture to another alone, such as its width, follows from that.
    """
    of_kind = [other for other in runs if other.architecture == run.architecture]
    own = [n for n in _varied(of_kind) if n.startswith(("model.", "optim.")) and n not in shared]
    # A length that goes with a model says less than the model.
    given = [name for name in shared if name == by or name.startswith("data.")]
    names = [*shared, *_refining(of_kind, given, own)]
    return {n: run.settings[n] for n in names if n in run.settings and (n == by or n not in RATES)}


def _varied(runs: Sequence[Run]) -> list[str]:
    """Names of the settings of a training, but its rates, that are not the same in all runs."""
    names = dict.fromkeys(name for run in runs for name in run.settings)
    return [
        name
        for name in names
        if name not in (ARCHITECTURE, *NAMES, *MEASURED, *RATES)
        and (name == TRAINED or not name.startswith(NOT_TRAINED))
        and len({str(run.settings.get(name)) for run in runs}) > 1
    ]


def _refining(runs: Sequence[Run], given: Sequence[str], names: Sequence[str]) -> list[str]:
    """Of some settings those that tell runs apart that the others before them do not."""

    def num_groups(chosen: Sequence[str]) -> int:
        return len({str([run.settings.get(name) for name in chosen]) for run in runs})

    def place(name: str) -> tuple[int, bool]:
        telling = TELLING.index(name) if name in TELLING else len(TELLING)
        return telling, not name.startswith(("data.", "model."))  # more than the length of a run

    ordered = sorted(names, key=place)
    kept: list[str] = []
    for name in ordered:
        if num_groups([*given, *kept, name]) > num_groups([*given, *kept]):
            kept.append(name)
    return kept


def _sortable(value: Any) -> tuple[bool, float, str]:
    """Numbers by their size, before texts by the alphabet."""
    is_number = isinstance(value, int | float)
    return (not is_number, float(value) if is_number else 0.0, "" if is_number else str(value))
