"""`python reproduce.py`: plan, re-use, interruption, and the page that follows from the results."""

import dataclasses
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from rich.console import Console

from studies import runner
from studies.claims import Claim, Found, OverSeeds, compared, over_seeds
from studies.measure import histories, history, metrics_of, model_of, of_each
from studies.page import claims_of, page, read_results, summary_rows, write_page
from studies.paper.more_steps import numbers_of_steps
from studies.paper.sources import V1
from studies.paper.study import STUDY
from studies.plan import (
    FULL,
    OVERHEAD,
    Effort,
    Job,
    Training,
    jobs_of,
    overrides_of,
    plan,
    run_dirs,
)
from studies.reproduction import measured, reproduce
from studies.runner import TrainingFailed, train_all
from studies.study import Places, Study, list_studies, load_study
from zoo.commands import train  # registers the resolvers of the configs
from zoo.commands.settings import ReproduceSettings, check_model, check_values
from zoo.files import sole_writer
from zoo.hub.directory import card_bytes, read_card
from zoo.metrics.text import with_interval

ROOT = Path(__file__).parents[1]
TINY = Effort(seeds=(0, 1), share=0.04, num_episodes=50)
SMALL = ("trainer=cpu", "data.d_x=3", "data.num_context=4", "checkpoint_every=100")


@pytest.fixture(autouse=True)
def configs() -> Iterator[None]:
    train.register_resolvers()
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "configs")):
        yield


def silent() -> Console:
    return Console(quiet=True)


def one_job(training: Training, runs: Path, seeds: tuple[int, ...] = (0,)) -> Job:
    return jobs_of(training, Effort(seeds=seeds, num_episodes=50), runs)[0]


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the runs, results and page of a tiny figure a."""
    directory = tmp_path_factory.mktemp("paper")
    train.register_resolvers()
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "configs")):
        again(directory, ["a"])
    return directory


def places_in(directory: Path) -> Places:
    return Places(directory / "paper.md", directory / "figures" / "results.json")


def again(directory: Path, letters: list[str]) -> dict[str, Any]:
    places = places_in(directory)
    return reproduce(STUDY, letters, TINY, directory / "runs", 2, places, silent())


def test_an_unknown_figure_is_refused_with_those_there_are() -> None:
    assert STUDY.chosen("all") == list("abcdefgh")
    assert STUDY.chosen(["d", "a", "d"]) == ["d", "a"]
    assert STUDY.chosen(["d", "all"]) == list("abcdefgh")
    for given, got in (("z", "'z'"), (["a", "Z"], "'Z'"), ([], "none")):
        with pytest.raises(ValueError, match=f"all or some of a, b, c, d, e, f, g, h, got {got}"):
            STUDY.chosen(given)


@pytest.mark.parametrize("name", list_studies())
def test_every_training_is_one_that_train_can_run(name: str) -> None:
    study = load_study(name)
    for training in every_training(study, study.full):
        named = ("run_dir=x", "checkpoint_tag=x")  # Hydra knows them only while it runs
        config = compose("train", [*overrides_of(training, study.full), *named])
        plain: Any = OmegaConf.to_container(config, resolve=True)
        check_values("train", plain)
        check_model(plain)


@pytest.mark.parametrize("name", list_studies())
def test_quick_is_a_part_of_full(name: str) -> None:
    study = load_study(name)
    full, quick = (
        {training.name: training for training in every_training(study, effort)}
        for effort in (study.full, study.quick)
    )
    assert quick.keys() <= full.keys()
    assert all(set(training.rates) <= set(full[name].rates) for name, training in quick.items())


def every_training(study: Study, effort: Effort) -> list[Training]:
    every = (t for figure in study.figures.values() for t in figure.trainings(effort))
    return list(dict.fromkeys(every))


def test_a_run_is_kept_by_everything_but_its_seed(tmp_path: Path) -> None:
    training = Training("x", 10, 1.0, together=False)
    first, second = jobs_of(training, TINY, tmp_path)
    assert first.directory == second.directory
    assert [path.name for path in run_dirs([first, second])] == ["seed_0", "seed_1"]
    others = [
        training._replace(max_steps=100),
        training._replace(overrides=("data.noise=0.1",)),
        training._replace(overrides=("optim.lr=0.1",)),
    ]
    directories = {jobs_of(other, TINY, tmp_path)[0].directory for other in others}
    assert len(directories | {first.directory}) == 4
    same = training._replace(step_ms=9.0, overrides=("checkpoint_tag=named",))
    assert jobs_of(same, TINY, tmp_path)[0].directory == first.directory


def test_several_rates_are_trained_in_one_process_and_take_as_many_times_as_long(
    tmp_path: Path,
) -> None:
    one = Training("x", 1_000, 10.0, rates=(0.001,))
    three = one._replace(rates=(0.001, 0.003, 0.01))
    ((first,), (job,)) = (jobs_of(training, TINY, tmp_path) for training in (one, three))
    assert "optim.lr=[0.001,0.003,0.01]" in job.command
    assert "seeds=2" in job.command
    assert job.seconds - OVERHEAD == pytest.approx(3 * (first.seconds - OVERHEAD))
    assert job.directory != first.directory


def test_figures_share_a_training_and_none_takes_the_name_of_another(tmp_path: Path) -> None:
    training = Training("x", 10, 1.0)
    assert list(plan([training, training], TINY, tmp_path)) == ["x"]
    with pytest.raises(ValueError, match="two trainings are called 'x'"):
        plan([training, training._replace(max_steps=20)], TINY, tmp_path)


def test_finished_runs_are_used_again(reproduced: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(job: Job) -> None:
        raise AssertionError(f"{job.run_dirs[0]} was trained again")

    monkeypatch.setattr(runner, "_start", refuse)
    results = again(reproduced, ["a", "b"])  # b needs no other runs
    assert sorted(results["figures"]) == ["a", "b"]
    assert (reproduced / "figures" / "b_weights.svg").stat().st_size < 100_000


def test_an_interrupted_plan_goes_on_within_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = one_job(Training("long", 300, 1.0, SMALL, validations=6), tmp_path)
    sleep = time.sleep

    def interrupt(seconds: float) -> None:
        if job.log.exists() and "step 100/300" in job.log.read_text():
            monkeypatch.undo()  # Popen.wait sleeps as well
            raise KeyboardInterrupt
        sleep(seconds)

    monkeypatch.setattr(runner.time, "sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train_all([job], 2, silent())
    assert not job.finished
    assert "stopped by SIGINT after step" in job.log.read_text()
    assert 0 < job.seconds_done() < job.seconds
    train_all([job], 2, silent())
    assert job.finished
    assert job.seconds_done() == job.seconds
    assert job.log.read_text().count("step 50/300") == 1
    steps = list(history(job.run_dirs[0], "val/half_mse_query"))
    assert steps == list(range(50, 301, 50))


@pytest.mark.parametrize("before", [[], ["nohup"]])
def test_a_signal_stops_the_runs_under_way_with_their_state_saved(
    before: list[str], tmp_path: Path
) -> None:
    command = [*before, sys.executable, "reproduce.py", "figure=a", f"runs={tmp_path}"]
    inherited = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # it is ignored if this is under nohup
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    signal.signal(signal.SIGHUP, inherited)
    with process:
        give_up = time.monotonic() + 200
        while "step 100/" not in "".join(logs_in(tmp_path)):
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
    assert "stopped by SIGINT after step" in "".join(logs_in(tmp_path))


def logs_in(directory: Path) -> list[str]:
    return [log.read_text(errors="replace") for log in directory.rglob("log.txt")]


def test_one_process_trains_all_seeds_where_nothing_is_watched_on_the_way(tmp_path: Path) -> None:
    effort = Effort(seeds=(0, 1), num_episodes=50)
    (job,) = jobs_of(Training("x", 10, 1.0, SMALL, validations=1), effort, tmp_path)
    train_all([job], 1, silent())
    assert [path.name for path in run_dirs([job])] == ["seed_0", "seed_1"]
    losses = of_each(run_dirs([job]), "model", "test/half_mse_query", "value")
    assert len(set(losses)) == 2
    assert [model_of(run).d_x for run in run_dirs([job])] == [3, 3]

    def make(runs: Any, effort: Effort) -> Found:
        return Found({}, [])

    changed = {**STUDY.figures, "a": STUDY.figures["a"]._replace(make=make)}
    study = dataclasses.replace(STUDY, figures=changed)
    second = job.run_dirs[1] / "checkpoint"
    card = read_card(second)
    older = card.model_copy(update={"git_commit": "0" * 40, "versions": {"torch": "1.0"}})
    (second / "card.json").write_bytes(card_bytes(older))
    made = measured(study, "a", [[job]], effort, tmp_path)["made"]
    times = [read_card(run / "checkpoint").training.wall_time_s for run in job.run_dirs]
    assert made["training_s"] == pytest.approx(sum(times), abs=0.1)
    assert made["git_commits"][0] == "0" * 10
    assert made["versions"]["torch"] == ["1.0", card.versions["torch"]]
    assert made["versions"]["lightning"] == [card.versions["lightning"]]


def test_a_run_that_fails_ends_the_plan_with_its_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails = [sys.executable, "-c", "print('why'); raise SystemExit(3)"]
    monkeypatch.setattr(Job, "command", property(lambda job: fails))
    with pytest.raises(TrainingFailed, match=r"(?s)exit code 3 from.*SystemExit.*why.*log.txt"):
        train_all([one_job(Training("wrong", 10, 1.0), tmp_path)], 1, silent())


def test_a_seed_that_diverged_ends_the_plan_with_what_to_do(tmp_path: Path) -> None:
    effort = Effort(seeds=(0, 1), num_episodes=50)
    wild = Training("wild", 10, 1.0, (*SMALL, "data.inputs.r=1e30"))
    (job,) = jobs_of(wild, effort, tmp_path)
    with pytest.raises(TrainingFailed, match="every seed has diverged"):
        train_all([job], 1, silent())
    for run in job.run_dirs:
        run.mkdir()
    (job.run_dirs[0] / "metrics.json").touch()
    text = runner._failure(job, 0)
    assert text.startswith("seed_1 of wild ended without a result")
    assert text.endswith(f"rm -r {job.place} to train it anew")


def test_a_damaged_result_is_named(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text('{"model": ')
    with pytest.raises(ValueError, match=r"metrics\.json is damaged .*; delete it to measure"):
        metrics_of(tmp_path)


def test_a_second_reproduction_with_the_same_runs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    with (
        sole_writer(tmp_path / "runs"),
        pytest.raises(ValueError, match="another process is writing to .*runs"),
    ):
        again(tmp_path, ["a"])


@pytest.mark.parametrize(
    "content",
    [
        *("", "{", "[]", "{}", '{"layout": 3}', '{"layout": 2, "figures": {}}'),
        '{"layout": 3, "figures": []}',
        '{"layout": 3, "figures": null}',
        '{"layout": 3, "figures": {"a": {"claims": ["x"]}}}',
        '{"layout": 3, "figures": {"a": {"claims": []}}}',
        '{"layout": 3, "figures": {"of another study": {}}}',
    ],
)
def test_results_that_cannot_be_read_are_found_before_training(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "_start", lambda job: pytest.fail("trained"))
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "results.json").write_text(content)
    with pytest.raises(ValueError, match=r"results\.json holds no results that can be read"):
        again(tmp_path, ["a"])


def test_progress_is_a_line_for_each_run_with_the_time_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = jobs_of(Training("x", 10, 1.0, together=False), TINY, tmp_path)
    with runner._PlanProgress(jobs, Console()) as progress:
        progress.start -= 60.0
        progress.finished(jobs[0], [])
    assert capsys.readouterr().out == "1/2  x seed 0  60 s left\n"


def test_curves_of_seeds_have_the_steps_that_all_of_them_have(reproduced: Path) -> None:
    (directory,) = (reproduced / "runs").glob("one-step-*")
    runs = sorted(directory.glob("seed_*"))
    steps, values = histories(runs, "val/half_mse_query")
    assert steps == list(range(2, 61, 2))
    assert [len(of_run) for of_run in values] == [30, 30]
    # The run also logs how the test episodes agree, after the last step.
    assert histories(runs, "alignment/cosine")[0] == steps


def test_the_page_follows_from_the_results_file(reproduced: Path) -> None:
    places = places_in(reproduced)
    results = json.loads(places.results.read_text())
    text = places.page.read_text()
    assert text == page(STUDY, results, places)
    for figure in results["figures"]["a"]["figures"]:
        assert f"](figures/{figure['file']})" in text
        assert (reproduced / "figures" / figure["file"]).exists()
    assert "quick version" in text  # less than in full, and it says so
    claim = results["figures"]["a"]["claims"][0]
    assert with_interval(claim["measured"]["value"], claim["measured"]["ci95"]) in text
    assert with_interval(claim["ratio"]["value"], claim["ratio"]["ci95"]) in text


def test_a_changed_number_changes_the_page_and_the_verdict(reproduced: Path) -> None:
    places = places_in(reproduced)
    results = json.loads(places.results.read_text())
    claim = results["figures"]["a"]["claims"][0]
    for value, ci95, verdict in (
        (1.002, 0.001, "reproduced"),
        (1.3, 0.1, "not reproduced"),
        (1.002, 0.01, "not decided"),
    ):
        claim["ratio"] |= {"value": value, "ci95": ci95}
        letter, _, found, amount = summary_rows(results["figures"])[0]
        assert (letter, found) == ("a", verdict)
        assert amount.startswith(f"ratio to one step of gradient descent {value}")
        assert f"| {verdict} |" in page(STUDY, results, places)
        assert page(STUDY, results, places) != places.page.read_text()


SHIPPED = ["paper", "recall", "state_tracking", "text"]


@pytest.mark.parametrize("name", SHIPPED)
def test_the_shipped_page_is_that_of_the_shipped_results(name: str) -> None:
    study = load_study(name)
    places = study.places(quick=False)
    results = read_results(study, places.results)
    stale = f"{places.page} is stale: python -m studies.page {name}"
    assert places.page.read_text() == page(study, results, places), stale
    assert sorted(results["figures"]) == sorted(study.figures)
    for entry in results["figures"].values():
        assert not entry["made"]["quick"]
        for figure in entry["figures"]:
            assert (places.results.parent / figure["file"]).exists()


def test_a_page_needs_results(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_page(STUDY, Places(tmp_path / "paper.md", tmp_path / "results.json"))
    assert not (tmp_path / "paper.md").exists()


def test_a_model_that_was_not_trained_reproduces_nothing(tmp_path: Path) -> None:
    untrained = Effort(seeds=(0, 1), share=1e-9, num_episodes=50, fewer_settings=True)
    places = places_in(tmp_path)
    letters = ["a", "b", "c", "e", "f"]
    results = reproduce(STUDY, letters, untrained, tmp_path / "runs", 2, places, silent())
    rows = summary_rows(results["figures"])
    assert {letter for letter, *_ in rows} == set(letters)
    verdicts = {verdict.split(":")[0] for _, _, verdict, _ in rows}
    assert verdicts == {"not reproduced", "not judged"}


def test_the_page_is_written_without_training(reproduced: Path, tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    results.write_text((reproduced / "figures" / "results.json").read_text())
    write_page(STUDY, Places(tmp_path / "paper.md", results))
    assert "](./a_loss_over_training.svg)" in (tmp_path / "paper.md").read_text()


SAID = {"claimed": "same", "source": V1}
AGREES = {**SAID, "low": 0.99, "high": 1.01}


def verdict(values: list[float], **bounds: Any) -> str:
    return compared("loss", values, "exact", [2.0] * len(values), **bounds).verdict


def test_a_claim_is_reproduced_where_the_whole_interval_over_seeds_is_within_the_bounds() -> None:
    assert verdict([2.0, 2.001], **AGREES) == "reproduced"
    assert verdict([2.0, 2.004], **AGREES) == "not decided"  # the mean is within, t is 12.7
    assert verdict([2.1, 2.1001], **AGREES) == "not reproduced"
    assert verdict([2.0, 2.1], **AGREES) == "not decided"
    assert verdict([2.0], **AGREES) == "not decided"  # one seed has no interval
    assert verdict([5.0], **AGREES) == "not decided"
    nothing = Claim("loss", OverSeeds(float("nan"), float("nan"), 2), **AGREES)
    assert nothing.verdict == "not decided"
    cosine = Claim("cosine", over_seeds([0.98, 0.9801]), **SAID, low=0.99, one_sided="at most 1")
    assert cosine.verdict == "not reproduced"
    assert cosine.criterion == "at least 0.99 (at most 1)"
    assert Claim.of(cosine.as_dict()) == cosine


def test_a_claim_without_bounds_is_not_judged_and_ours_has_no_verdict() -> None:
    assert verdict([2.0, 2.1], **SAID) == "not judged"
    assert verdict([2.0, 2.1]) == "ours"
    for wrong in ({"claimed": "same"}, {"source": V1}, {"low": 0.99, "high": 1.01}):
        with pytest.raises(ValueError, match="loss: a claim, its source and bounds belong"):
            verdict([2.0, 2.1], **wrong)


def test_a_difference_is_judged_in_place_of_a_ratio() -> None:
    bounds = {**SAID, "low": -0.03, "high": 0.03}
    claim = compared("accuracy", [0.51, 0.512], "exact", [0.5, 0.5], by="difference", **bounds)
    assert (claim.ratio, claim.verdict) == (None, "reproduced")
    assert claim.difference == over_seeds([0.51 - 0.5, 0.512 - 0.5])
    assert Claim.of(claim.as_dict()) == claim
    better = compared("accuracy", [0.6, 0.602], "exact", [0.5, 0.5], by="difference", **bounds)
    assert better.verdict == "not reproduced"


def test_one_bound_needs_a_reason() -> None:
    for wrong in ({"high": 1.01}, {"low": 0.99}, {"one_sided": "why"}):
        with pytest.raises(ValueError, match="loss: give two bounds, or one and why"):
            verdict([2.0, 2.1], **SAID, **wrong)
    with pytest.raises(ValueError, match="loss: give two bounds, or one and why"):
        verdict([2.0, 2.1], **AGREES, one_sided="why")


def test_several_steps_are_judged_beside_the_best_schedule_of_as_many() -> None:
    results = read_results(STUDY, STUDY.places(quick=False).results)
    claims = claims_of(results["figures"]["e"])
    judged = {claim.reference: claim for claim in claims if claim.claimed}
    assert list(judged) == [f"{k} gradient steps of the best sizes" for k in numbers_of_steps(FULL)]
    assert all((claim.low, claim.high) == (0.99, 1.01) for claim in judged.values())


def test_a_mean_over_seeds_has_the_interval_of_students_t() -> None:
    assert over_seeds([1.0]) == OverSeeds(1.0, None, 1)
    found = over_seeds([1.0, 2.0, 3.0])
    assert found.ci95 == pytest.approx(4.303 / 3**0.5, rel=1e-3)


def test_the_settings_of_the_command_are_those_of_its_config() -> None:
    plain: Any = OmegaConf.to_container(compose("reproduce"), resolve=True)
    settings = ReproduceSettings(**plain)
    assert (settings.study, settings.figure, settings.runs) == ("paper", "all", "runs/paper")
    plain: Any = OmegaConf.to_container(compose("reproduce", ["figure=[a,d]", "quick=true"]))
    assert ReproduceSettings(**plain).figure == ["a", "d"]
    with pytest.raises(ValueError, match="side_by_side"):
        ReproduceSettings(**{**plain, "side_by_side": 0})
