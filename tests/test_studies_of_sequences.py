"""Studies of sequences: what they claim and measure, on numbers that are made up."""

import csv
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from datamodules import EpisodeSpec
from studies.claims import Found
from studies.jobs import overrides_of
from studies.plan import Effort, Training
from studies.recall import figures as recall
from studies.recall.learners import (
    DECAYING_MESA,
    DECAYING_SUM,
    DELTA,
    FORGETTING,
    LEARNERS,
    MESA,
    SUM,
    Ceiling,
    Setting,
    ceiling,
    training,
)
from studies.state_tracking import figures as tracking
from studies.state_tracking.cells import PARITY, S3, TRAINED, Cell
from studies.text import figures as text
from tests.conftest import MakeCheckpoint
from zoo.commands import train
from zoo.files import ROOT
from zoo.predictor import Predictor
from zoo.references import create_reference

EFFORT = Effort(seeds=(0, 1), num_episodes=60)
MakeRuns = Callable[[list[Training], float], dict[str, list[Path]]]


@pytest.fixture
def configs() -> Iterator[None]:
    train.register_resolvers()
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "configs")):
        yield


@pytest.fixture
def make_runs(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> MakeRuns:
    """Runs of two seeds, whose accuracies at the query differ by 0.001."""
    checkpoint = make_checkpoint("gd_ssm")

    def make(trainings: list[Training], accuracy: float) -> dict[str, list[Path]]:
        runs = {}
        for name in (t.name for t in trainings):
            runs[name] = [tmp_path / name / f"seed_{seed}" for seed in EFFORT.seeds]
            logged = {"step": 2.0}
            for seed, run in enumerate(runs[name]):
                shutil.copytree(checkpoint, run / "checkpoint")
                set_accuracy(run, accuracy + 0.001 * seed)
                for loss in ("half_mse_query", "cross_entropy_all"):
                    logged[f"{run.name}/val/{loss}"] = 0.3
            log = tmp_path / name / "csv" / "version_0" / "metrics.csv"
            log.parent.mkdir(parents=True)
            with log.open("w") as file:
                writer = csv.DictWriter(file, logged)
                writer.writeheader()
                writer.writerow({**logged, "step": 2})
        return runs

    return make


def set_accuracy(run: Path, accuracy: float, verdict: str = "converged") -> None:
    measured = {
        "convergence": {"verdict": verdict, "fall": 0.0 if verdict == "converged" else 0.1},
        "model": {"test/accuracy_query": {"value": accuracy}},
    }
    (run / "metrics.json").write_text(json.dumps(measured))


def verdicts(found: Found, claimed: str) -> dict[str, str]:
    return {c.quantity: c.verdict for c in found.claims if c.claimed == claimed}


def test_a_layer_is_judged_by_how_far_it_is_from_its_algorithm(
    make_runs: MakeRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recall, "ceiling", lambda *_: Ceiling("exact", 0.8))
    runs = make_runs(recall.trainings_updated(EFFORT), 0.81)
    name = training(DELTA, recall.UPDATED, EFFORT).name
    for seed, run in enumerate(runs[name]):
        set_accuracy(run, 0.9 + 0.001 * seed)
    found = recall.updated(runs, EFFORT)
    judged = verdicts(found, recall.OWN)
    assert len(judged) == len(LEARNERS)
    assert judged.pop("accuracy, delta rule, d = 16") == "not reproduced"
    assert set(judged.values()) == {"reproduced"}
    _, caption = found.figures["accuracy"]
    assert caption.endswith("by more than 0.03, with the whole interval over seeds: delta rule.")


@pytest.mark.parametrize(
    ("accuracy", "verdict"), [(0.7, "not decided"), (0.81, "not decided"), (0.9, "not reproduced")]
)
def test_a_layer_that_may_go_on_to_learn_is_not_judged_by_less(
    accuracy: float, verdict: str, make_runs: MakeRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recall, "ceiling", lambda *_: Ceiling("exact", 0.8))
    runs = make_runs(recall.trainings_updated(EFFORT), 0.81)
    for seed, run in enumerate(runs[training(DELTA, recall.UPDATED, EFFORT).name]):
        set_accuracy(run, accuracy + 0.001 * seed, ("converged", "not converged")[seed])
    judged = verdicts(recall.updated(runs, EFFORT), recall.OWN)
    assert judged.pop("accuracy, delta rule, d = 16") == verdict
    assert set(judged.values()) == {"reproduced"}


def test_the_order_of_rules_is_judged_pair_by_pair(
    make_runs: MakeRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recall, "ceiling", lambda *_: Ceiling("exact", 0.8))
    runs = make_runs(recall.trainings_updated(EFFORT), 0.5)
    for learner, accuracy in ((DECAYING_SUM, 0.6), (DELTA, 0.55), (DECAYING_MESA, 0.9)):
        for seed, run in enumerate(runs[training(learner, recall.UPDATED, EFFORT).name]):
            set_accuracy(run, accuracy + 0.001 * seed)
    assert verdicts(recall.updated(runs, EFFORT), recall.ORDER) == {
        f"accuracy, {DECAYING_SUM.name}": "reproduced",
        f"accuracy, {DELTA.name}": "not reproduced",
        f"accuracy, {DECAYING_MESA.name}": "reproduced",
    }


def test_of_sizes_every_other_width_has_its_algorithms_and_nothing_is_judged(
    make_runs: MakeRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recall, "ceiling", lambda *given: Ceiling("exact", given[3].d / 40))
    runs = make_runs(recall.trainings_of_sizes(EFFORT), 0.2)
    claims = {claim.quantity: claim for claim in recall.sizes(runs, EFFORT).claims}
    assert claims.keys() == {f"accuracy, {x.name}, d = {d}" for x in LEARNERS for d in (4, 8)}
    assert {claim.verdict for claim in claims.values()} == {"ours"}
    found = claims[f"accuracy, {MESA.name}, d = 4"]
    assert found.difference is not None
    assert found.difference.value == pytest.approx(0.1, abs=1e-3)


@pytest.mark.usefixtures("configs")
@pytest.mark.parametrize("setting", [recall.ONCE, Setting(8, 8)])
def test_algorithms_are_measured_on_the_episodes_that_layers_are_trained_on(
    setting: Setting,
) -> None:
    config = compose("train", list(overrides_of(training(SUM, setting, EFFORT), EFFORT)))
    assert EpisodeSpec(**OmegaConf.to_container(config.data, resolve=True)) == setting.spec


def test_a_solver_that_forgets_has_the_forgetting_of_least_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("studies.recall.learners.CHOICE_EPISODES", 200)
    monkeypatch.setattr("zoo.references.TUNE_EPISODES", 200)
    forgets = ceiling("ridge", (), True, recall.UPDATED, 200)
    inner = FORGETTING[1:-1]  # neither end: the best there is would not be among those tried
    assert forgets.label in {f"ridge(forgetting={factor:g})" for factor in inner}
    assert forgets.accuracy > 0.97
    keeps = ceiling("ridge", (("forgetting", 1.0),), False, recall.UPDATED, 200)
    assert 0.6 < keeps.accuracy < 0.8


def test_scaled_accuracy_is_zero_for_guessing_and_one_for_all_right() -> None:
    assert tracking.scaled(0.5, 2) == pytest.approx(0.0)
    assert tracking.scaled(1 / 6, 6) == pytest.approx(0.0)
    assert tracking.scaled(1.0, 6) == 1.0


@pytest.mark.parametrize(
    ("cells", "make", "group"), [(PARITY, tracking.parity, "Z2"), (S3, tracking.s3, "S3")]
)
def test_models_are_judged_by_positions_beyond_those_of_training(
    cells: tuple[Cell, ...],
    make: Callable[..., Found],
    group: str,
    make_runs: MakeRuns,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = EpisodeSpec(num_context=TRAINED, function={"name": "word_problem", "group": group})
    solved = {cell.training(EFFORT).name for cell in cells if cell.solves}

    def model(run: Path) -> Predictor:
        name = "group_table" if run.parent.name in solved else "uniform"
        return create_reference(name, spec, {})

    monkeypatch.setattr(tracking, "spec_of", lambda run: spec)
    monkeypatch.setattr(tracking, "model_of", model)
    found = make(make_runs([cell.training(EFFORT) for cell in cells], 0.0), EFFORT)
    judged = [claim for claim in found.claims if claim.claimed]
    assert len(judged) == len(cells)
    assert {claim.verdict for claim in judged} == {"reproduced"}
    solvers = [claim for claim in judged if claim.quantity.endswith("[-1, 1]") and claim.low == 0.9]
    assert [claim.measured.value for claim in solvers] == [1.0] * len(solved)


def test_bits_per_byte_have_the_interval_over_windows_and_stand_beside_ngrams(
    tmp_path: Path, make_checkpoint: MakeCheckpoint
) -> None:
    runs = {}
    for model in text.MODELS:
        run = tmp_path / model.name / "seed_0"
        shutil.copytree(make_checkpoint("gd_ssm"), run / "checkpoint")
        log = run / "csv" / "version_0" / "metrics.csv"
        log.parent.mkdir(parents=True)
        log.write_text("step,val/bits_per_byte_all\n60,2.5\n")
        of_model, of_ngrams = (
            {"test/bits_per_byte_all": {"value": value, "ci95": 0.01}} for value in (2.0, 2.3)
        )
        references = dict.fromkeys(text.NGRAMS, of_ngrams)
        content = {"model": of_model, "references": references}
        (run / "metrics.json").write_text(json.dumps(content))
        runs[model.name] = [run]
    claims = text.bits_per_byte(runs, EFFORT).claims
    assert [claim.measured.value for claim in claims] == [2.0] * len(text.MODELS) + [2.3, 2.3]
    assert all(claim.measured.ci95 == 0.01 and claim.verdict == "ours" for claim in claims)
    (line,) = text.bits_per_byte(runs, EFFORT).figures["bits"][0].axes[0].lines[:1]
    assert list(line.get_xdata()) == [60]
