"""`python reproduce.py`: plan, re-use, interruption, and the page that follows from the results."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from rich.console import Console

from studies.claims import Claim, Found, OverSeeds, compared, over_seeds
from studies.jobs import Job, overrides_of, run_dirs
from studies.measure import histories, metrics_of, model_of, of_each
from studies.page import claims_of, page, read_results, summary_rows, write_page
from studies.paper.more_steps import numbers_of_steps
from studies.paper.sources import V1
from studies.paper.study import STUDY
from studies.plan import FULL, Effort, Training
from studies.progress import Progress
from studies.reproduction import measured, reproduce
from studies.runner import Runner, Train, train_all
from studies.stages import stages
from studies.study import Places, Study, list_studies, load_study
from zoo.commands import train  # registers the resolvers of the configs
from zoo.commands.reproduce import train_job
from zoo.commands.settings import ReproduceSettings, check_model, check_values
from zoo.files import sole_writer
from zoo.hub.directory import card_bytes, read_card
from zoo.metrics.text import with_interval

ROOT = Path(__file__).parents[1]
TINY = Effort(seeds=(0, 1), share=0.04, num_episodes=50)
SMALL = ("trainer=cpu", "data.d_x=3", "data.num_context=4", "checkpoint_every=100")


@pytest.fixture(autouse=True)
def configs(undrawn: None) -> Iterator[None]:
    train.register_resolvers()
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "configs")):
        yield


def silent() -> Console:
    return Console(quiet=True)


def last_jobs(training: Training, effort: Effort, runs: Path) -> list[Job]:
    *_, jobs = stages(training, effort, runs)
    return jobs


def train_here(training: Training, effort: Effort, runs: Path) -> None:
    train_all([training], effort, runs, Runner(), train_job, Progress(silent(), 0))


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


def again(directory: Path, letters: list[str], train: Train = train_job) -> dict[str, Any]:
    places = places_in(directory)
    return reproduce(STUDY, letters, TINY, directory / "runs", Runner(), train, places, silent())


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


def refuse(job: Job) -> None:
    raise AssertionError(f"{job.run_dirs[0]} was trained again")


def test_finished_runs_are_used_again(reproduced: Path) -> None:
    results = again(reproduced, ["a", "b"], refuse)  # b needs no other runs
    assert sorted(results["figures"]) == ["a", "b"]
    assert (reproduced / "figures" / "b_weights.svg").stat().st_size < 100_000


def test_one_process_trains_all_seeds_where_nothing_is_watched_on_the_way(tmp_path: Path) -> None:
    effort = Effort(seeds=(0, 1), num_episodes=50)
    training = Training("x", 10, 1.0, SMALL, validations=1)
    train_here(training, effort, tmp_path)
    (job,) = last_jobs(training, effort, tmp_path)
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
    older = card.model_copy(
        update={"git_commit": f"{0:040}-dirty-{1:012}", "versions": {"torch": "1.0"}}
    )
    (second / "card.json").write_bytes(card_bytes(older))
    made = measured(study, "a", [[[job]]], {}, effort, tmp_path)["made"]
    times = [read_card(run / "checkpoint").training.wall_time_s for run in job.run_dirs]
    assert made["training_s"] == pytest.approx(sum(times), abs=0.1)
    assert made["git_commits"][0] == "0000000000-dirty"
    assert made["versions"]["torch"] == ["1.0", card.versions["torch"]]
    assert made["versions"]["lightning"] == [card.versions["lightning"]]


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
    content: str, tmp_path: Path
) -> None:
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "results.json").write_text(content)
    with pytest.raises(ValueError, match=r"results\.json holds no results that can be read"):
        again(tmp_path, ["a"], refuse)


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
    lacks = [name for name in STUDY.figures if name not in results["figures"]]
    assert lacks
    assert f"Figures that are not made yet: {', '.join(lacks)} (" in " ".join(text.split())
    whole = results | {"figures": dict.fromkeys(STUDY.figures, results["figures"]["a"])}
    assert "not made yet" not in page(STUDY, whole, places)
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
        letter, _, _, found, amount = summary_rows(STUDY, results["figures"])[0]
        assert (letter, found) == ("a", verdict)
        assert amount.startswith(f"ratio to one step of gradient descent {value}")
        assert f"| {verdict} |" in page(STUDY, results, places)
        assert page(STUDY, results, places) != places.page.read_text()


SHIPPED = [
    "paper",
    "architectures",
    "task_diversity",
    "recall",
    "state_tracking",
    "text",
    "inside",
    "tabular",
]


@pytest.mark.parametrize("name", SHIPPED)
def test_the_shipped_page_is_that_of_the_shipped_results(name: str) -> None:
    study = load_study(name)
    places = study.places(quick=False)
    results = read_results(study, places.results)
    stale = f"{places.page} is stale: python -m studies.page {name}"
    assert places.page.read_text() == page(study, results, places), stale
    assert results["figures"].keys() == study.figures.keys()
    for entry in results["figures"].values():
        assert not entry["made"]["quick"]
        for figure in entry["figures"]:
            assert (places.results.parent / figure["file"]).exists()


def test_a_page_needs_results(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_page(STUDY, Places(tmp_path / "paper.md", tmp_path / "results.json"))
    assert not (tmp_path / "paper.md").exists()


def test_a_model_that_was_not_trained_reproduces_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Step sizes that are fitted on fewer episodes: their errors differ by less than any bound.
    monkeypatch.setattr("zoo.references.TUNE_EPISODES", 200)
    monkeypatch.setattr("studies.paper.nonlinear.FIT_EPISODES", 500)
    untrained = Effort(seeds=(0, 1), share=1e-9, num_episodes=50, fewer_settings=True)
    places = places_in(tmp_path)
    letters = ["a", "b", "c", "e", "f"]
    results = reproduce(
        STUDY, letters, untrained, tmp_path / "runs", Runner(), train_job, places, silent()
    )
    rows = summary_rows(STUDY, results["figures"])
    assert {letter for letter, *_ in rows} == set(letters)
    verdicts = {verdict.split(":")[0] for _, _, _, verdict, _ in rows}
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
