"""How the trainings of a study are planned, run side by side, stopped and gone on with."""

import contextlib
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hydra import initialize_config_dir
from rich.console import Console

from datamodules import EpisodeSpec
from studies.history import history
from studies.jobs import OVERHEAD, TRIAL_SEED, Job, errors_of_rates, run_dirs
from studies.measure import validations
from studies.plan import Effort, Training, Trial
from studies.progress import Progress
from studies.reproduction import trainings_of
from studies.runner import TIME_IS_UP, Runner, TrainingFailed, known, train_all
from studies.stages import (
    MOST_EXTENSIONS,
    GivenUp,
    compared_by,
    finished_jobs,
    rates_given_up,
    stages,
)
from studies.trainings import TrainingRow, seconds_of, table, text_of, training_row
from tests.forks import Forked
from zoo.commands import train
from zoo.commands.reproduce import train_job
from zoo.files import ROOT, write_json
from zoo.hub.card import Tried
from zoo.hub.directory import read_card
from zoo.hub.io import load_checkpoint
from zoo.metrics.text import plain
from zoo.terminal import StoppedBySignal, raise_on_signals
from zoo.training.base import NonFiniteError
from zoo.training.runs import OF_TRIAL

TINY = Effort(seeds=(0, 1), share=0.04, num_episodes=50)
ONE = Effort(seeds=(0,), num_episodes=50)
SMALL = ("trainer=cpu", "data.d_x=3", "data.num_context=4", "checkpoint_every=100")
SHORT = Training("short", 10, 1.0, SMALL, validations=1)
GRID = (0.01, 0.03, 0.1, 0.3)
TRIED = Training("tried", 40, 1.0, SMALL, trial=Trial("tried", 10, 1.0, GRID, SMALL))


@pytest.fixture(autouse=True)
def configs(undrawn: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("zoo.references.TUNE_EPISODES", 50)  # what is compared are the models
    train.register_resolvers()
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "configs")):
        yield


@pytest.fixture
def signals() -> Iterator[None]:
    """Signals raise, as in a command."""
    before = {
        each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    raise_on_signals()
    yield
    for each, handler in before.items():
        signal.signal(each, handler)


def silent(num_figures: int = 0) -> Progress:
    return Progress(Console(quiet=True), num_figures)


def run(
    trainings: list[Training],
    effort: Effort,
    runs: Path,
    runner: Runner | None = None,
    do: Callable[[Job], None] = train_job,
) -> None:
    train_all(trainings, effort, runs, runner or Runner(), do, silent())


def last_jobs(training: Training, effort: Effort, runs: Path) -> list[Job]:
    *_, jobs = stages(training, effort, runs)
    return jobs


def pretend(best: float, done: list[Job] | None = None) -> Callable[[Job], None]:
    """Leaves what a training leaves, with the least error at a rate."""

    def leave(job: Job) -> None:
        if done is not None:
            done.append(job)
        rates = {f"{r:g}": {"0": abs(torch.tensor(r / best).log().item())} for r in job.rates}
        for directory in {job.place, *job.run_dirs}:
            directory.mkdir(parents=True, exist_ok=True)
            (directory / "metrics.json").write_text(json.dumps({"rates": rates}))
        for directory in job.run_dirs:
            (directory / "checkpoint").mkdir(exist_ok=True)
            (directory / "checkpoint" / "card.json").touch()

    return leave


def lose_seed(job: Job, seed: int) -> None:
    """Leaves what a process leaves in which a seed has diverged."""
    (job.run_dirs[seed] / "metrics.json").unlink()
    path = job.place / "metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"diverged": [seed]}))


def weights(run_dir: Path) -> list[torch.Tensor]:
    return list(load_checkpoint(run_dir / "checkpoint").state_dict().values())


def test_a_run_is_kept_by_everything_but_its_seed(tmp_path: Path) -> None:
    training = Training("x", 10, 1.0, together=False)
    first, second = last_jobs(training, TINY, tmp_path)
    assert first.directory == second.directory
    assert [path.name for path in run_dirs([first, second])] == ["seed_0", "seed_1"]
    others = [
        training._replace(max_steps=100),
        training._replace(overrides=("data.noise=0.1",)),
        training._replace(overrides=("optim.lr=0.1",)),
    ]
    directories = {last_jobs(other, TINY, tmp_path)[0].directory for other in others}
    assert len(directories | {first.directory}) == 4
    same = training._replace(step_ms=9.0, overrides=("checkpoint_tag=named",))
    assert last_jobs(same, TINY, tmp_path)[0].directory == first.directory


def test_several_rates_are_trained_in_one_process_and_take_as_many_times_as_long(
    tmp_path: Path,
) -> None:
    one = Training("x", 1_000, 10.0, rates=(0.001,))
    three = one._replace(rates=(0.001, 0.003, 0.01))
    ((first,), (job,)) = (last_jobs(training, TINY, tmp_path) for training in (one, three))
    assert "optim.lr=[0.001,0.003,0.01]" in job.typed
    assert "seeds=2" in job.typed
    assert job.seconds - OVERHEAD == pytest.approx(3 * (first.seconds - OVERHEAD))
    assert job.directory != first.directory


def test_a_training_may_have_fewer_seeds_than_the_effort(tmp_path: Path) -> None:
    effort = Effort(seeds=(0, 1, 2))
    (job,) = last_jobs(Training("x", 10, 1.0, most_seeds=2), effort, tmp_path)
    assert job.seeds == (0, 1)
    assert "seeds=2" in job.typed


def test_ten_times_as_many_episodes_are_measured_where_single_ones_decide() -> None:
    effort = Effort(seeds=(0,), num_episodes=50, num_validation=20)
    heavy = Training("x", 10, 1.0, heavy_tailed=True)
    (job,) = last_jobs(heavy, effort, Path())
    assert "test_episodes=500" in job.typed
    assert "eval_episodes=200" in job.typed


def test_figures_share_a_training_and_none_takes_the_name_of_another() -> None:
    assert trainings_of({"a": [SHORT], "b": [SHORT]}) == [SHORT]
    with pytest.raises(ValueError, match="two trainings are called 'short'"):
        trainings_of({"a": [SHORT], "b": [SHORT._replace(max_steps=20)]})


@pytest.mark.parametrize(
    ("best", "tried"),
    [
        (0.05, GRID),
        (0.3, (*GRID, 0.9, 2.7)),
        (3.0, (*GRID, 0.9, 2.7, 8.1, 24.0)),
        (0.002, (0.0011, 0.0033, *GRID)),
    ],
)
def test_rates_are_tried_until_the_best_is_not_at_the_edge(
    best: float, tried: tuple[float, ...], tmp_path: Path
) -> None:
    done: list[Job] = []
    run([TRIED], TINY, tmp_path, do=pretend(best, done))
    *trials, last = done
    assert sorted(r for job in trials for r in job.rates) == pytest.approx(tried)
    assert all(job.seeds == (TRIAL_SEED,) and job.of_trial for job in trials)
    assert last.seeds == (0, 1)
    (rate,) = (word for word in last.overrides if word.startswith("optim.lr="))
    nearest = min(tried, key=lambda r: abs(torch.tensor(r / best).log().item()))
    assert float(rate.partition("=")[2]) == pytest.approx(nearest)


def test_rates_are_extended_so_often_and_no_more(tmp_path: Path) -> None:
    done: list[Job] = []
    run([TRIED], TINY, tmp_path, do=pretend(1e9, done))
    assert len(done) == 1 + MOST_EXTENSIONS + 1
    quick = Effort(seeds=(0,), share=0.04, num_episodes=50, fewer_settings=True)
    done.clear()
    run([TRIED], quick, tmp_path / "quick", do=pretend(1e9, done))
    assert len(done) == 2


def test_a_rate_that_diverged_is_not_chosen(tmp_path: Path) -> None:
    (job,) = next(stages(TRIED, TINY, tmp_path))
    job.place.mkdir(parents=True)
    (job.place / "metrics.json").write_text('{"rates": {"0.01": {"0": 2.0}, "0.3": {}}}')
    assert errors_of_rates(job) == {0.01: 2.0, 0.03: torch.inf, 0.1: torch.inf, 0.3: torch.inf}


def test_where_a_seed_diverges_at_the_best_rate_all_train_at_the_next_best(tmp_path: Path) -> None:
    done: list[Job] = []
    leave = pretend(0.05, done)

    def lose(job: Job) -> None:
        leave(job)
        if "optim.lr=0.03" in job.overrides:
            lose_seed(job, 1)

    run([TRIED], TINY, tmp_path, do=lose)
    rates = [word for job in done[1:] for word in job.overrides if word.startswith("optim.lr=")]
    assert rates == ["optim.lr=0.03", "optim.lr=0.1"]
    assert finished_jobs(TRIED, TINY, tmp_path) == done[-1:]


def test_where_every_seed_diverges_the_next_best_rate_is_trained_until_none_is_left(
    tmp_path: Path,
) -> None:
    done: list[Job] = []
    leave = pretend(0.05)

    def lose(job: Job) -> None:
        done.append(job)
        if not job.of_trial:
            raise NonFiniteError("every seed has diverged")
        leave(job)

    with pytest.raises(TrainingFailed, match="tried 2 seeds: every seed has diverged"):
        run([TRIED], TINY, tmp_path, do=lose)
    trials = [job for job in done if job.of_trial]
    assert [job.rates for job in trials] == [GRID, (0.0033, 0.0011), (0.9, 2.7)]
    assert len(done) == len(trials) + 8
    assert len(list(tmp_path.glob("*/diverged.txt"))) == 8


def test_where_the_next_best_rate_is_at_the_edge_more_are_tried(tmp_path: Path) -> None:
    done: list[Job] = []
    leave = pretend(0.02, done)

    def lose(job: Job) -> None:
        leave(job)
        if "optim.lr=0.03" in job.overrides:
            lose_seed(job, 1)

    run([TRIED], TINY, tmp_path, do=lose)
    tried = [job.rates or job.overrides[-2:] for job in done]
    of_seeds = [[w for w in job.overrides if w.startswith("optim.lr=")] for job in done]
    assert [job.of_trial for job in done] == [True, False, True, False], tried
    assert done[2].rates == (0.0033, 0.0011)
    assert [of_seeds[1], of_seeds[3]] == [["optim.lr=0.03"], ["optim.lr=0.01"]]


@pytest.mark.parametrize(
    ("learned", "tried", "kept"),
    [(2.5, [GRID], "0.1"), (0.5, [GRID, (0.9, 2.7)], "0.3"), (0.0, [GRID, (0.9, 2.7)], "0.3")],
)
def test_of_rates_that_have_learned_the_task_the_middle_one_is_kept(
    tmp_path: Path, learned: float, tried: list[tuple[float, ...]], kept: str
) -> None:
    assert TRIED.trial is not None
    training = TRIED._replace(trial=TRIED.trial._replace(learned=learned))
    done: list[Job] = []
    run([training], TINY, tmp_path, do=pretend(0.3, done))
    *trials, of_seeds = done
    assert [job.rates for job in trials] == tried
    assert f"optim.lr={kept}" in of_seeds.overrides


def test_rates_beyond_the_grid_that_all_diverge_leave_the_best_of_those_before(
    tmp_path: Path,
) -> None:
    done: list[Job] = []
    leave = pretend(0.3, done)

    def lose(job: Job) -> None:
        if job.rates == (0.9, 2.7):
            raise NonFiniteError("no rate has a finite validation error")
        leave(job)

    run([TRIED], TINY, tmp_path, do=lose)
    assert "optim.lr=0.3" in done[-1].overrides
    *trials, jobs = stages(TRIED, TINY, tmp_path)
    errors = {rate: e for (job,) in trials for rate, e in errors_of_rates(job).items()}
    assert (errors[0.9], errors[2.7]) == (math.inf, math.inf)
    again: list[Job] = []
    run([TRIED], TINY, tmp_path, do=again.append)
    assert (again, [job.finished for job in jobs]) == ([], [True])


def test_where_all_rates_diverge_smaller_ones_are_tried_twice(tmp_path: Path) -> None:
    tried: list[tuple[float, ...]] = []

    def lose(job: Job) -> None:
        tried.append(job.rates)
        raise NonFiniteError("no rate has a finite validation error")

    with pytest.raises(TrainingFailed, match="tried 2 seeds: no rate has"):
        run([TRIED], TINY, tmp_path, do=lose)
    assert tried == [GRID, (0.0033, 0.0011), (0.00037, 0.00012), ()]


@pytest.mark.parametrize(
    ("data", "positions", "logged"),
    [
        ({"d_x": 3}, "last", "val/half_mse_query"),
        ({"d_x": 3}, "all", "val/half_mse_query"),
        (
            {"function": {"name": "word_problem", "group": "Z2"}, "d_x": 3, "d_y": 2},
            "all",
            "val/cross_entropy_all",
        ),
    ],
)
def test_rates_are_compared_by_what_their_runs_log(
    data: dict[str, Any], positions: str, logged: str
) -> None:
    assert compared_by(EpisodeSpec(**data), positions) == logged


def test_a_seed_whose_file_is_gone_is_measured_again_and_has_not_diverged(tmp_path: Path) -> None:
    done: list[Job] = []
    run([TRIED], TINY, tmp_path, do=pretend(0.05, done))
    *_, last = done
    for gone in (last.run_dirs[1] / "metrics.json", last.run_dirs[0] / "checkpoint" / "card.json"):
        gone.unlink()
        assert (last.finished, last.diverged) == (False, ())
        assert rates_given_up(TRIED, TINY, tmp_path) == {}
        again: list[Job] = []
        run([TRIED], TINY, tmp_path, do=pretend(0.05, again))
        assert again == [last]


@pytest.mark.parametrize("content", ["{", "[1]", b"\xff", "{}", '{"rates": {"7": {"0": 1.0}}}'])
def test_a_damaged_trial_is_refused_with_its_name(content: str | bytes, tmp_path: Path) -> None:
    (job,) = next(stages(TRIED, TINY, tmp_path))
    pretend(0.05)(job)
    path = job.place / "metrics.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=re.escape(str(path))):
        run([TRIED], TINY, tmp_path)


def test_trainings_share_a_trial(tmp_path: Path) -> None:
    other = TRIED._replace(name="other", overrides=(*SMALL, "data.noise=0.1"))
    done: list[Job] = []
    run([TRIED, other], TINY, tmp_path, do=pretend(0.05, done))
    assert [job.of_trial for job in done] == [True, False, False]
    assert {job.training.name for job in done[1:]} == {"tried", "other"}


def test_the_table_of_runs_knows_trials_by_their_directory(tmp_path: Path) -> None:
    done: list[Job] = []
    run([TRIED], TINY, tmp_path, do=pretend(0.05, done))
    names = [job.place.relative_to(tmp_path).parts[0] for job in done]
    assert [OF_TRIAL.fullmatch(name) is not None for name in names] == [True, False]


def test_what_follows_a_trial_is_known_when_that_has_ended(tmp_path: Path) -> None:
    jobs, later = known([TRIED, SHORT], TINY, tmp_path)
    assert [job.of_trial for job in jobs] == [True, False]
    assert later == [pytest.approx(OVERHEAD + 2 * 2 * 1e-3)]
    assert finished_jobs(TRIED, TINY, tmp_path) is None
    pretend(0.05)(jobs[0])
    jobs, later = known([TRIED, SHORT], TINY, tmp_path)
    assert [job.of_trial for job in jobs] == [True, False, False]
    assert not later
    assert finished_jobs(TRIED, TINY, tmp_path) is None
    pretend(0.05)(jobs[1])
    assert finished_jobs(TRIED, TINY, tmp_path) == [jobs[1]]


def test_what_follows_trials_is_counted_from_the_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainings = [TRIED._replace(together=False), SHORT]
    train_all(trainings, TINY, tmp_path, Runner(), pretend(0.05), Progress(Console(), 0))
    first, *others = capsys.readouterr().out.splitlines()
    assert first.startswith("0 of 4 trainings are finished, ")
    assert [line.split()[0] for line in others] == ["1/4", "2/4", "3/4", "4/4"]


def test_the_table_of_trainings_has_the_rates_of_a_trial_with_their_errors(tmp_path: Path) -> None:
    trial = Trial("tried", 5, 1.0, (1e-9, 0.01, 0.05), SMALL)
    training = Training("tried", 10, 1.0, SMALL, validations=1, trial=trial)
    run([training], ONE, tmp_path)
    *trials, jobs = stages(training, ONE, tmp_path)
    row = training_row(jobs, [job for (job,) in trials])
    assert {1e-9, 0.01, 0.05} <= {*row.rates}
    assert row.trial_steps == 5
    errors = {rate: e for (job,) in trials for rate, e in errors_of_rates(job).items()}
    assert row.errors == [errors[rate] for rate in row.rates]
    assert errors[row.best_rate] == min(errors.values())
    assert row.num_seeds == 1
    assert row.zero_error is not None
    assert f"1e-09 ({plain(errors[1e-9], 3)}), 0.01 ({plain(errors[0.01], 3)})" in table([row])[2]


def row_of_trial(errors: list[float | None], best: float, **others: Any) -> TrainingRow:
    rates = [0.001, 0.003, 0.01, 0.03]
    at = (3, 300, 64, 1.0, {})
    return TrainingRow("a", 9, 9, "pairs", "all", rates, best, *at, 75, errors, **others)


@pytest.mark.parametrize(
    ("row", "tried", "best"),
    [
        (
            row_of_trial([0.9, 0.5, 0.8, None], 0.003, zero_error=1.0),
            "0.001 (0.9), 0.003 (0.5), 0.01 (0.8), 0.03 (diverged); 75 steps",
            "0.003",
        ),
        (
            row_of_trial([0.9, 0.5, 0.54, 0.51], 0.003),
            "0.001 (0.9), 0.003 (0.5), 0.01 (0.54), 0.03 (0.51); 75 steps",
            "0.003, close",
        ),
        (
            row_of_trial([0.9, 0.004, 0.0001, 0.0002], 0.01, learned=0.01),
            "0.001 (0.9), 0.003 (0.004), 0.01 (0.0001), 0.03 (0.0002); 75 steps",
            "0.01",
        ),
        (
            row_of_trial([0.9, 0.004, 0.0001, 0.00001], 0.01, learned=0.01),
            "0.001 (0.9), 0.003 (0.004), 0.01 (0.0001), 0.03 (1e-05); 75 steps",
            "0.01",
        ),
        (
            row_of_trial([1.3, 1.2, 1.4, 0.95], 0.03, zero_error=1.0),
            "0.001 (1.3), 0.003 (1.2), 0.01 (1.4), 0.03 (0.95); 75 steps",
            "0.03, edge, zero",
        ),
        (
            row_of_trial([0.9, 0.8, 0.85, 0.5], 0.003, fell_short={"0.03": 2}, ended={"0.03": 0.7}),
            "0.001 (0.9), 0.003 (0.8), 0.01 (0.85), "
            "0.03 (0.5; then 2 of 3 seeds ended above that, mean 0.7); 75 steps",
            "0.003, close",
        ),
        (
            row_of_trial([0.9, 0.8, 0.78, 0.5], 0.003, given_up={"0.03": 2, "0.01": 3}),
            "0.001 (0.9), 0.003 (0.8), 0.01 (0.78; then 3 of 3 seeds diverged), "
            "0.03 (0.5; then 2 of 3 seeds diverged); 75 steps",
            "0.003",
        ),
    ],
)
def test_the_table_says_how_far_a_choice_of_the_rate_is_to_be_trusted(
    row: TrainingRow, tried: str, best: str
) -> None:
    of_row = dict(zip(*(line.split(" | ") for line in table([row])[::2]), strict=True))
    assert of_row["rates tried"] == tried
    assert of_row["best"] == best
    gone = {*row.given_up, *row.fell_short}
    assert ("those that were not given up" in text_of([row])) == bool(gone)
    assert ("chance had favoured" in text_of([row])) == bool(row.fell_short)
    assert ("Errors below 0.01 were not told apart" in text_of([row])) == bool(row.learned)


def test_a_rate_that_was_best_by_luck_is_given_up_once(tmp_path: Path) -> None:
    trial = Trial("lucky", 5, 1.0, (0.01, 0.02, 0.05), SMALL, must_hold=True)
    training = Training("lucky", 10, 1.0, SMALL, validations=1, trial=trial)
    effort = Effort(seeds=(0, 1, 2), num_episodes=50, fewer_settings=True)
    (tried,) = next(stages(training, effort, tmp_path))
    run([training], effort, tmp_path)
    assert rates_given_up(training, effort, tmp_path) == {}

    # As if the trial had been luckier at one rate, and then at another.
    errors, seed = json.loads((tried.place / "metrics.json").read_text())["rates"], TRIAL_SEED
    for rate in ("0.05", "0.02"):
        errors[rate] = {str(seed): 1e-3 if rate == "0.05" else 2e-3}
    write_json(tried.place / "metrics.json", {"rates": errors})
    run([training], effort, tmp_path)
    given_up = rates_given_up(training, effort, tmp_path)
    assert {rate: (one.diverged, one.above) for rate, one in given_up.items()} == {0.05: (0, 3)}
    (at_best,) = given_up[0.05].jobs
    ended = [history(at_best.place, f"seed_{k}/val/half_mse_query")[10] for k in (0, 1, 2)]
    assert given_up[0.05].ended == pytest.approx(fmean(ended))
    (kept,) = finished_jobs(training, effort, tmp_path) or []
    assert "optim.lr=0.02" in kept.overrides  # though that did not hold either
    row = training_row([kept], [tried], given_up)
    assert (row.best_rate, row.fell_short, row.given_up) == (0.02, {"0.05": 3}, {})
    assert row.ended == {"0.05": given_up[0.05].ended}


def test_rates_given_up_stand_in_the_row_with_their_seeds_and_minutes(tmp_path: Path) -> None:
    trial = Trial("tried", 5, 1.0, (0.01, 0.05), SMALL)
    training = Training("tried", 10, 1.0, SMALL, validations=1, trial=trial)
    effort = Effort(seeds=(0, 1), num_episodes=50, fewer_settings=True)
    run([training], effort, tmp_path)
    *_, (lost,) = stages(training, effort, tmp_path)
    assert rates_given_up(training, effort, tmp_path) == {}
    lose_seed(lost, 1)
    run([training], effort, tmp_path)
    *trials, jobs = stages(training, effort, tmp_path)
    given_up = rates_given_up(training, effort, tmp_path)
    (rate,) = given_up
    assert given_up == {rate: GivenUp([lost], diverged=1, above=0)}
    tried = [job for (job,) in trials]
    without, row = training_row(jobs, tried), training_row(jobs, tried, given_up)
    assert row.given_up == {f"{rate:g}": 1}
    assert row.best_rate != rate
    shares = read_card(lost.run_dirs[0] / "checkpoint").training.wall_time_s
    assert row.seconds - without.seconds == pytest.approx(2 * shares, abs=0.11)


def test_the_seconds_of_a_shipped_card_are_not_multiplied_by_rates_of_a_shorter_trial() -> None:
    rates = {"0.001": {"0": 0.5}, "0.003": {"0": 0.25}}

    def card(optimizer: dict[str, Any]) -> Any:
        tried = Tried.model_validate(optimizer)
        training = SimpleNamespace(wall_time_s=60.0, optimizer=optimizer, tried=tried)
        return SimpleNamespace(training=training)

    assert seconds_of(card({"lr": 0.003, "rates": rates})) == 120.0
    assert seconds_of(card({"lr": 0.003, "rates": rates, "rates_steps": 10})) == 60.0
    assert seconds_of(card({"lr": 0.003})) == 60.0


TWO = [SHORT, SHORT._replace(name="other", overrides=(*SMALL, "optim.lr=0.01"))]


@pytest.fixture(scope="module")
def trained_here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the runs of `TWO`, trained in this process."""
    directory = tmp_path_factory.mktemp("here")
    train.register_resolvers()
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "configs")):
        run(TWO, ONE, directory)
    return directory


@pytest.mark.parametrize("name", ["joblib", "submitit"])
def test_every_runner_trains_the_same_bits(name: str, trained_here: Path, tmp_path: Path) -> None:
    parameters = {"timeout_min": 10} if name == "submitit" else {}
    run(TWO, ONE, tmp_path, Runner(name, 2, parameters))  # type: ignore[arg-type]
    for training in TWO:
        ((here,), (there,)) = (last_jobs(training, ONE, x) for x in (trained_here, tmp_path))
        for a, b in zip(weights(here.place), weights(there.place), strict=True):
            assert torch.equal(a, b)


def test_the_command_line_trains_the_same_bits(trained_here: Path, tmp_path: Path) -> None:
    (job,) = last_jobs(SHORT, ONE, trained_here)
    place = tmp_path / "alone"
    alone = Forked([*job.typed, f"hydra.run.dir={place}"], ROOT)
    output = alone.communicate(timeout=300)
    assert alone.returncode == 0, output
    for a, b in zip(weights(job.place), weights(place), strict=True):
        assert torch.equal(a, b)
    cards = [json.loads((p / "checkpoint" / "card.json").read_text()) for p in (job.place, place)]
    assert cards[0]["command"] == cards[1]["command"] == "python " + " ".join(job.typed)
    assert (job.place / "config.yaml").read_bytes() == (place / "config.yaml").read_bytes()


def stop_at(log: Path, text: str, signum: signal.Signals = signal.SIGINT) -> threading.Thread:
    """Sends this process a signal once a text is in a log."""

    def watch() -> None:
        give_up = time.monotonic() + 200
        while time.monotonic() < give_up:
            if log.exists() and text in log.read_text():
                os.kill(os.getpid(), signum)
                return
            time.sleep(0.02)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


@pytest.mark.usefixtures("signals")
def test_an_interrupted_plan_goes_on_within_the_run(tmp_path: Path) -> None:
    training = Training("long", 300, 1.0, SMALL, validations=6)
    (job,) = last_jobs(training, ONE, tmp_path)
    watcher = stop_at(job.log, "step 100/300")
    with pytest.raises(StoppedBySignal, match="SIGINT"):
        run([training], ONE, tmp_path)
    watcher.join()
    assert not job.finished
    assert "stopped by SIGINT after step" in job.log.read_text()
    assert 0 < job.seconds_done() < job.seconds
    run([training], ONE, tmp_path)
    assert job.finished
    assert job.seconds_done() == job.seconds
    assert job.log.read_text().count("step 50/300") == 1
    steps = list(history(job.run_dirs[0], "val/half_mse_query"))
    assert steps == list(range(50, 301, 50))


@pytest.mark.parametrize(
    ("runner", "before"), [("here", ["nohup"]), ("joblib", []), ("submitit", [])]
)
def test_a_signal_stops_the_runs_under_way_with_their_state_saved(
    before: list[str], runner: str, tmp_path: Path
) -> None:
    command = [
        *(*before, sys.executable, "reproduce.py", "figure=d", f"runs={tmp_path}"),
        *(f"runner={runner}", "side_by_side=2"),
    ]
    inherited = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # it is ignored if this is under nohup
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    signal.signal(signal.SIGHUP, inherited)
    at_once = 1 if runner == "here" else 2
    with process, contextlib.ExitStack() as at_the_end:
        at_the_end.callback(process.terminate)  # a wait that gives up must not wait for its end
        give_up = time.monotonic() + 200
        while sum("\nstep " in log for log in logs_in(tmp_path)) < at_once:
            assert process.poll() is None
            assert time.monotonic() < give_up
            time.sleep(0.2)
        process.send_signal(signal.SIGHUP)
        if before:
            time.sleep(1)
            process.send_signal(signal.SIGTERM)
        output = process.communicate(timeout=200)[0]
    assert process.returncode == 128 + (signal.SIGTERM if before else signal.SIGHUP), output
    assert "the same command goes on from here" in output
    logs = logs_in(tmp_path)
    assert len(logs) == at_once
    assert all(re.search(r"stopped by SIG\w+ after step", log) for log in logs)


def logs_in(directory: Path) -> list[str]:
    return [log.read_text(errors="replace") for log in directory.rglob("log.txt")]


@pytest.mark.parametrize("name", ["here", "joblib"])
def test_where_a_run_fails_the_others_go_on_and_the_end_says_why(name: str, tmp_path: Path) -> None:
    wrong = Training("wrong", 20, 1.0, (*SMALL, "trainer.precision=none"))
    with pytest.raises(TrainingFailed, match=r"(?s)^wrong seed 0: .*precision.*more: .*log.txt$"):
        run([wrong, TRIED], ONE, tmp_path, Runner(name, 2))  # type: ignore[arg-type]
    assert finished_jobs(TRIED, ONE, tmp_path) is not None  # which has a trial first
    (job,) = last_jobs(wrong, ONE, tmp_path)
    assert "Traceback" in job.log.read_text()


def test_a_place_that_cannot_be_written_stops_no_other(tmp_path: Path) -> None:
    linked = Training("linked", 20, 1.0, SMALL)
    (job,) = last_jobs(linked, ONE, tmp_path)
    job.place.mkdir(parents=True)
    (job.place / "log.txt").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(TrainingFailed, match="^linked seed 0: .*link"):
        run([linked, SHORT], ONE, tmp_path, Runner("joblib", 2))
    assert finished_jobs(SHORT, ONE, tmp_path) is not None
    assert not (tmp_path / "elsewhere").exists()


def test_a_job_whose_time_is_up_saves_its_state_and_goes_on_later(tmp_path: Path) -> None:
    training = Training("long", 300, 1.0, SMALL, validations=6)
    (job,) = last_jobs(training, ONE, tmp_path)

    def run_out(job: Job) -> None:
        stop_at(job.log, "step 100/300", TIME_IS_UP)
        train_job(job)

    runner = Runner("submitit", 1, {"timeout_min": 10})
    with pytest.raises(TrainingFailed, match="long seed 0 was stopped.*the same command goes on"):
        run([training], ONE, tmp_path, runner, run_out)
    assert "stopped by SIGTERM after step" in job.log.read_text()
    run([training], ONE, tmp_path)
    assert job.log.read_text().count("step 50/300") == 1


def test_a_job_that_its_cluster_ends_is_told_with_the_reason(tmp_path: Path) -> None:
    dies = SHORT._replace(name="dies")

    def kill(job: Job) -> None:
        if job.training.name == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        train_job(job)

    runner = Runner("submitit", 2, {"timeout_min": 10})
    with pytest.raises(TrainingFailed, match=r"(?s)^dies seed 0: .*more: .*log.txt, .*\.err$"):
        run([dies, SHORT], ONE, tmp_path, runner, kill)
    assert finished_jobs(SHORT, ONE, tmp_path) is not None


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"slurm_partitin": "x"}, "submitit: Unknown argument 'partitin'"),
        ({"timeout_min": "long"}, 'submitit: Parameter "timeout_min" expected type'),
    ],
)
def test_what_submitit_does_not_take_is_refused(
    parameters: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        run([SHORT], ONE, tmp_path, Runner("submitit", 1, parameters))


def test_a_job_that_is_not_taken_by_its_cluster_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from submitit import AutoExecutor

    submit = AutoExecutor.submit

    def refuse(self: Any, do: Any, to_do: Any, job: Job, k: int) -> Any:
        if job.training.name == "refused":
            raise RuntimeError("sbatch: error: invalid partition")
        return submit(self, do, to_do, job, k)

    monkeypatch.setattr(AutoExecutor, "submit", refuse)
    refused = SHORT._replace(name="refused", max_steps=20)
    with pytest.raises(TrainingFailed, match="^refused seed 0: sbatch: error: invalid partition$"):
        run([refused, SHORT], ONE, tmp_path, Runner("submitit", 2, {"timeout_min": 10}))
    assert finished_jobs(SHORT, ONE, tmp_path) is not None


def test_a_seed_that_diverged_ends_the_plan_with_what_to_do(tmp_path: Path) -> None:
    wild = Training("wild", 10, 1.0, (*SMALL, "data.inputs.r=1e30"))
    effort = Effort(seeds=(0, 1), num_episodes=50)
    with pytest.raises(TrainingFailed, match="every seed has diverged"):
        run([wild], effort, tmp_path)
    (job,) = last_jobs(wild, effort, tmp_path)

    def half(job: Job) -> None:
        for directory in (job.directory, job.run_dirs[0]):
            directory.mkdir(exist_ok=True)
            (directory / "metrics.json").touch()

    with pytest.raises(TrainingFailed) as caught:
        run([wild], effort, tmp_path, do=half)
    assert str(caught.value).startswith("seed_1 of wild 2 seeds ended without a result")
    assert str(caught.value).endswith(f"rm -r {job.place} to train it anew")


def test_a_run_that_was_stopped_from_outside_is_said_to_go_on(tmp_path: Path) -> None:
    with pytest.raises(TrainingFailed, match="short seed 0 was stopped.*the same command goes on"):
        run([SHORT], ONE, tmp_path, do=lambda job: None)


def test_what_another_seed_has_trained_is_not_taken_for_this_one(tmp_path: Path) -> None:
    run([SHORT], TINY, tmp_path)
    jobs = last_jobs(SHORT, TINY, tmp_path)
    assert training_row(jobs).num_seeds == 2
    longer = [job._replace(steps=2) for job in jobs]
    with pytest.raises(ValueError, match=r"is of seed 0 and 1 steps, not of seed 0 and 2: rm -r"):
        training_row(longer)
    one, other = (path / "checkpoint" for path in run_dirs(jobs))
    shutil.rmtree(other)
    shutil.copytree(one, other)
    with pytest.raises(ValueError, match=r"is of seed 0 and 1 steps, not of seed 1 and 1: rm -r"):
        training_row(jobs)


def test_a_curve_that_was_not_logged_is_not_drawn(tmp_path: Path) -> None:
    (tmp_path / "seed_0").mkdir()
    write_json(tmp_path / "seed_0" / "metrics.json", {})
    with pytest.raises(ValueError, match="/csv has no seed_0/val/half_mse_query"):
        validations([tmp_path / "seed_0"], "half_mse_query")


def test_what_was_trained_in_vain_counts_as_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    training = Training("x", 400_000, 1.0, together=False)
    first, second = last_jobs(training, TINY, tmp_path)
    progress = Progress(Console(), 0)
    progress.plan([first], [second.seconds])
    pretend(1.0)(first)
    progress.start -= 60.0
    progress.ended(first, failed=False)
    progress.plan([second], [second.seconds])  # in the place of the first
    pretend(1.0)(second)
    progress.start -= 60.0
    progress.ended(second, failed=False)
    # Two have taken 60 s each.
    assert capsys.readouterr().out.splitlines()[1:] == [
        "1/2  x seed 0  60 s left",
        "1/2  x seed 1  60 s left",
    ]


def test_a_runner_that_is_not_installed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"runner=joblib needs joblib: pip install 'icl-zoo\[sw"):
        run([SHORT], ONE, tmp_path, Runner("joblib"))


def test_progress_is_a_line_for_each_training_and_figure_with_the_time_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    training = Training("x", 400_000, 1.0, together=False)
    first, second = last_jobs(training, TINY, tmp_path)
    progress = Progress(Console(), 2)
    with progress.shown():
        progress.plan([first, second], [])
        pretend(1.0)(first)
        progress.start -= 60.0
        progress.ended(first, failed=False)
        progress.ended(second, failed=True)
        progress.drawn("a")
    # Two of 16 s + OVERHEAD, and two figures of 20 s; 28 of these took 60 s.
    assert capsys.readouterr().out.splitlines() == [
        "0 of 2 trainings are finished, about 2 min on one thread are left",
        "1/2  x seed 0  2 min left",
        "1/2  x seed 1  failed",
        "figure a  1 of 2",
    ]
