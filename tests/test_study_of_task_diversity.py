"""The study of task diversity, on tiny trainings and on predictors that are the algorithms."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from rich.console import Console
from torch import Tensor

import zoo
from datamodules import EpisodeSpec
from datamodules.episodes import Episodes
from datamodules.inputs import Gaussian
from datamodules.linear import Linear, LinearPool
from studies.claims import Claim, OverSeeds
from studies.history import history
from studies.jobs import TRIAL_SEED, overrides_of
from studies.measure import Runs
from studies.page import claims_of
from studies.plan import Effort
from studies.reproduction import reproduce
from studies.runner import Runner
from studies.study import Places
from studies.task_diversity import cells, distances, figures
from studies.task_diversity.cells import LEARNERS, Learner, pool_sizes
from studies.task_diversity.distances import (
    KINDS,
    NEW,
    POOL,
    Measured,
    answers,
    measured,
    predicted,
)
from studies.task_diversity.study import STUDY
from zoo.commands import train
from zoo.commands.reproduce import train_job
from zoo.evaluation.episodes import evaluation_episodes
from zoo.files import ROOT
from zoo.predictor import Predictor
from zoo.references import create_reference

NUM_EPISODES = 40
SIZES = (4, 32, 256)
EFFORT = Effort(seeds=(0,), num_episodes=NUM_EPISODES)


def spec_of_pool(pool_size: int) -> EpisodeSpec:
    function = LinearPool(pool_size=pool_size)
    inputs = Gaussian()
    return EpisodeSpec(d_x=8, d_y=1, num_context=16, function=function, inputs=inputs, noise=0.5)


@pytest.fixture
def configs() -> Iterator[None]:
    train.register_resolvers()
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "configs")):
        yield


def by_hand(spec: EpisodeSpec) -> dict[str, Predictor]:
    """Both algorithms, made of what the study's introduction says of episodes."""
    assert isinstance(spec.function, LinearPool)
    pool = LinearPool(pool_size=spec.function.pool_size).pool(8, 1).mT.tolist()
    told = {"dmmse": {"pool": pool, "noise_variance": 0.25}, "ridge": {"penalty": 0.25}}
    return {name: zoo.create_solver(name, d_x=8, d_y=1, **args) for name, args in told.items()}


def half_square(a: Tensor, b: Tensor) -> float:
    return 0.5 * (a - b)[:, -1].double().square().mean().item()


@pytest.mark.usefixtures("configs")
@pytest.mark.parametrize("learner", LEARNERS, ids=lambda learner: learner.name)
def test_pools_differ_in_size_alone_and_all_share_a_trial(learner: Learner) -> None:
    trials = set()
    for size in pool_sizes(EFFORT):
        training = learner.training(size, EFFORT)
        trials.add(training.trial)
        config = compose("train", list(overrides_of(training, EFFORT)))
        given = EpisodeSpec(**OmegaConf.to_container(config.data, resolve=True))
        assert given == spec_of_pool(size)
        assert (config.positions, config.batch_size) == ("all", 64)
    (trial,) = trials
    assert trial is not None
    assert trial.overrides == learner.training(cells.CHOSEN_AT, EFFORT).overrides


@pytest.mark.parametrize("name", ["dmmse", "ridge"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_an_algorithm_is_at_no_distance_from_itself(name: str, kind: distances.Kind) -> None:
    spec = spec_of_pool(4)
    beside = answers(spec, kind, NUM_EPISODES)
    found = measured(predicted(create_reference(name, spec, {}), beside.episodes), beside)
    assert found.error.shape == (NUM_EPISODES, 17)
    other = {"dmmse": "ridge", "ridge": "dmmse"}[name]
    assert found.distances[name].max() == 0
    assert found.distances[other].min() > 0


def test_algorithms_know_the_pool_of_training_on_episodes_of_both_kinds() -> None:
    spec = spec_of_pool(32)
    for kind in KINDS:
        beside = answers(spec, kind, NUM_EPISODES)
        for name, solver in by_hand(spec).items():
            torch.testing.assert_close(beside.of[name], predicted(solver, beside.episodes))


def test_episodes_of_the_pool_are_of_its_functions_and_new_ones_are_not() -> None:
    spec = spec_of_pool(32)
    own, new = (answers(spec, kind, NUM_EPISODES).episodes for kind in (POOL, NEW))
    weights = LinearPool(pool_size=32).pool(8, 1)[:, 0]  # (32, 8)

    def misfit(episodes: Episodes) -> Tensor:
        errors = episodes.x @ weights.T - episodes.target  # (batch, length, 32)
        return errors.square().mean(1).min(1).values

    assert misfit(own).max() < 1e-8
    assert misfit(new).min() > 0.1
    assert torch.equal(own.x, new.x)
    torch.testing.assert_close(own.y - own.target, new.y - new.target, atol=1e-5, rtol=0)


def test_the_distance_to_the_best_algorithm_is_what_an_error_exceeds_the_least_by() -> None:
    spec, num = spec_of_pool(4), 4_000
    for kind in KINDS:
        beside = answers(spec, kind, num)
        (other,) = {"dmmse", "ridge"} - {kind.best}
        found, best = (measured(beside.of[name], beside) for name in (other, kind.best))
        excess = (found.error - best.error)[:, -1].double()
        standard_error = excess.std().item() / num**0.5
        distance = found.distances[kind.best][:, -1].double().mean().item()
        assert distance > 10 * standard_error
        assert excess.mean().item() == pytest.approx(distance, abs=4 * standard_error)


def test_functions_that_are_not_of_a_pool_are_refused() -> None:
    with pytest.raises(ValueError, match="must be those of linear_pool, got linear"):
        NEW.episodes(EpisodeSpec())


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    """A run of each training on three pools, with nothing in it but a log."""
    monkeypatch.setattr(cells, "POOL_SIZES", SIZES)
    found = {}
    for training in cells.trainings(EFFORT):
        run = tmp_path / training.name / "seed_0"
        log = run / "csv" / "version_0" / "metrics.csv"
        log.parent.mkdir(parents=True)
        log.write_text("step,val/half_mse_all\n225,0.5\n450,0.25\n")
        found[training.name] = [run]
    return found


def size_of(run: Path) -> int:
    return int(run.parent.name.rpartition("-")[2])


def of_quantity(claims: list[Claim], start: str) -> dict[str, Claim]:
    return {claim.quantity: claim for claim in claims if claim.quantity.startswith(start)}


@pytest.mark.filterwarnings("ignore:Data has no positive values")  # distances of zero
def test_a_model_that_is_dmmse_is_nearer_to_it_and_best_on_the_pool(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "spec_of", lambda run: spec_of_pool(size_of(run)))
    loaded = []

    def model_of(run: Path) -> Predictor:
        loaded.append(run)
        return by_hand(spec_of_pool(size_of(run)))["dmmse"]

    monkeypatch.setattr(figures, "model_of", model_of)
    monkeypatch.setattr(figures, "rate_of", lambda run: 0.001 if "net-32" in str(run) else 0.003)
    found = figures.distances(runs, EFFORT)
    own = of_quantity(found.claims, "distance to dmmse")
    assert len(own) == len(LEARNERS) * len(SIZES) * len(KINDS)
    for claim in own.values():
        assert claim.measured.value == 0
        assert claim.ratio == OverSeeds(0, 0, 1)
        assert claim.reference_value is not None
        assert claim.reference_value > 0
    for _, caption in found.figures.values():
        said = "diverged at one: delta_net, 0.001 on the pool of 32, 0.003 on most."
        assert caption.endswith(said)
    between = of_quantity(found.claims, "distance of dmmse and ridge, new functions")
    values = [claim.measured.value for claim in between.values()]
    assert values == sorted(values, reverse=True)  # the larger the pool, the nearer
    found = figures.errors(runs, EFFORT)
    for claim in of_quantity(found.claims, "0.5*MSE, functions of the pool, transformer").values():
        assert (claim.reference, claim.difference) == ("dmmse", OverSeeds(0, 0, 1))
    assert {claim.verdict for claim in found.claims} == {"ours"}
    for drawing, start in (("pool", "dmmse"), ("new", "ridge")):
        figure, caption = figures.positions(runs, EFFORT).figures[drawing]
        assert f"from those of {start} after" in caption
        assert [len(ax.lines) for ax in figure.axes] == [len(SIZES)] * len(LEARNERS)
    assert sorted(loaded) == sorted([run for (run,) in runs.values()] * len(KINDS))  # not again
    (line, *_) = figures.losses(runs, EFFORT).figures["losses"][0].axes[0].lines
    assert (list(line.get_xdata()), list(line.get_ydata())) == ([225, 450], [0.5, 0.25])


def test_where_a_tail_is_heavy_neither_error_nor_excess_has_an_interval() -> None:
    generator = torch.Generator().manual_seed(0)
    fair = 1 + torch.rand((1_000, 1), generator=generator)
    heavy = fair.clone()
    heavy[7] = 5_000.0
    for error, least in ((heavy, fair), (fair, heavy)):
        claim = figures._beside_best("error", Measured(error, {}, least), "ridge")
        assert claim.difference is None
    claim = figures._beside_best("error", Measured(heavy, {}, fair), "ridge")
    assert claim.measured.ci95 is None
    assert claim.measured.median == pytest.approx(1.5, abs=0.05)
    apart = figures._beside_best("error", Measured(fair + 1, {}, fair), "ridge").difference
    assert apart == OverSeeds(pytest.approx(1), pytest.approx(0, abs=1e-6), 1)


def test_a_page_without_other_rates_names_none(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "rate_of", lambda run: 0.003)
    assert figures._other_rates(runs, EFFORT) == ""


def test_the_page_says_how_much_shorter_trainings_are_than_the_published_ones() -> None:
    steps, batch = 500_000, 64
    text = " ".join(STUDY.reading.split())
    assert f"{steps / cells.MAX_STEPS:.0f} times fewer steps" in text
    small, base = (steps * published / (cells.MAX_STEPS * batch) for published in (512, 256))
    assert f"{small:.0f} times fewer episodes than those of the small model" in text
    assert f"{base:.0f} times fewer than those of the base model" in text
    assert f"{cells.MAX_STEPS * batch:,} episodes" in " ".join(STUDY.introduction.split())


@pytest.mark.usefixtures("configs")
def test_distances_on_the_page_are_those_of_trained_models_by_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = ("recipe=gd_ssm", "batch_size=8", "optim.warmup_steps=0")
    tiny = Learner("gd_ssm", 1.0, small, heavy_tailed=True)
    monkeypatch.setattr(cells, "LEARNERS", (tiny,))
    monkeypatch.setattr(figures, "LEARNERS", (tiny,))
    monkeypatch.setattr(cells, "POOL_SIZES", (4, 0, 32))
    effort = Effort((0,), 20 / cells.MAX_STEPS, NUM_EPISODES, 20, fewer_settings=True)
    study = dataclasses.replace(STUDY, full=effort)
    places = Places(tmp_path / "page.md", tmp_path / "figures" / "results.json")
    directory = tmp_path / "runs"
    results = reproduce(
        study,
        ["a", "c"],
        effort,
        directory,
        Runner(),
        train_job,
        places,
        Console(quiet=True),
    )
    claims = {c.quantity: c for name in "ac" for c in claims_of(results["figures"][name])}
    (trial,) = directory.glob("gd_ssm-rates-*")
    assert "pool_size: 256" in (trial / f"seed_{TRIAL_SEED}" / "config.yaml").read_text()
    text = places.page.read_text()
    for size in (4, 32):
        (run,) = directory.glob(f"gd_ssm-{size}-*/seed_0")
        model, spec = zoo.load(run / "checkpoint"), spec_of_pool(size)
        assert EpisodeSpec(**zoo.load(run / "checkpoint").card.data) == spec
        assert len(history(run, f"val/{figures.LOSS}")) == cells.VALIDATIONS
        new = spec.model_copy(update={"function": Linear()})
        for kind, asked in (("functions of the pool", spec), ("new functions", new)):
            x, y, target, _ = evaluation_episodes(asked, tiny.num_episodes(effort))
            with torch.no_grad():
                predictions = {n: p(x, y) for n, p in ({"m": model} | by_hand(spec)).items()}
            of_model, dmmse, ridge = predictions.values()
            distance = claims[f"distance to dmmse, {kind}, gd_ssm, pool of {size}"]
            assert distance.measured.value == pytest.approx(half_square(of_model, dmmse))
            assert distance.reference_value == pytest.approx(half_square(of_model, ridge))
            between = claims[f"distance of dmmse and ridge, {kind}, pool of {size}"]
            x, y, *_ = evaluation_episodes(asked, NUM_EPISODES)  # not the first of more
            dmmse, ridge = (solver(x, y) for solver in by_hand(spec).values())
            assert between.measured.value == pytest.approx(half_square(dmmse, ridge))
            assert f"| {distance.quantity} | " in text
            error = claims[f"0.5*MSE, {kind}, gd_ssm, pool of {size}"]
            assert error.measured.value == pytest.approx(half_square(of_model, target))
    drawings = {path.name for path in places.results.parent.glob("*.svg")}
    assert drawings == {"a_new.svg", "a_pool.svg", "c_errors.svg"}
    assert "## Trainings" in text
