"""From the finished runs of a study to checkpoints."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import initialize_config_dir
from pydantic import TypeAdapter

import zoo
from studies.architectures.cells import Cell, deep, of_task, with_curriculum
from studies.architectures.shipped import ships
from studies.claims import Found
from studies.jobs import TRIAL_SEED, Job
from studies.measure import Runs
from studies.plan import Effort, Training
from studies.ship import main, ship
from studies.stages import stages
from studies.study import Shipped, Study, StudyFigure
from zoo.files import CONFIGS, write_json
from zoo.hub.card import CheckpointName
from zoo.hub.directory import read_card
from zoo.hub.io import save_checkpoint
from zoo.hub.pages import card_page

EFFORT = Effort(seeds=(0, 1, 2), num_episodes=50)
CELLS = [Cell("gd_ssm", "linear", None, 40, 1.0), Cell("s5", "linear", "shifted", 40, 1.0)]
ALL, FIRST = Shipped("gd_ssm.all", num_seeds=3), Shipped("s5.first")
ONE = Shipped("gd_ssm.one")
# By rate; at the largest every seed has diverged.
AT = str(TRIAL_SEED)
ERRORS = {"0.001": {AT: 0.5}, "0.003": {AT: 0.25}, "0.01": {AT: 0.375}, "0.03": {}}


@pytest.fixture
def configs() -> Iterator[None]:
    with initialize_config_dir(version_base="1.3", config_dir=str(CONFIGS)):
        yield


VALIDATED = "val/half_mse_query"


def validated(job: Job, error: float = 0.2) -> None:
    """Leaves what seeds log of their error in validation, by which the trial must hold."""
    names = [f"seed_{k}/{VALIDATED}" for k in job.seeds] if len(job.seeds) > 1 else [VALIDATED]
    table = job.place / "csv" / "version_0" / "metrics.csv"
    table.parent.mkdir(parents=True, exist_ok=True)
    table.write_text(f"step,{','.join(names)}\n10,{','.join([str(error)] * len(names))}\n")


@pytest.fixture
def runs(tmp_path: Path, card_fields: dict[str, Any], configs: None) -> Path:
    """What is left of the trainings, but for the training."""
    for cell in CELLS:
        described = card_fields | {
            "name": f"{cell.architecture}.linear",
            "architecture": cell.architecture,
            "data": {"function": {"name": "linear"}, "d_x": 3, "d_y": 3, "num_context": 6},
        }
        for jobs in stages(cell.training(EFFORT), EFFORT, tmp_path / "runs"):
            for seed, run in zip(jobs[0].seeds, jobs[0].run_dirs, strict=True):
                model = zoo.create_model(cell.architecture, d_x=3, d_y=3)
                how = {"seed": seed, "optimizer": {"lr": 0.003}}
                training = {"training": card_fields["training"] | how}
                save_checkpoint(run / "checkpoint", model, described | training)
                for directory in {run, jobs[0].place}:
                    write_json(directory / "metrics.json", {"rates": ERRORS})
            write_json(jobs[0].place / "metrics.json", {"rates": ERRORS})  # of all seeds
            validated(jobs[0])
    return tmp_path / "runs"


def study(ships: dict[str, Shipped]) -> Study:
    def trainings(effort: Effort) -> list[Training]:
        return [cell.training(effort) for cell in CELLS]

    def make(runs: Runs, effort: Effort) -> Found:
        return Found({}, [])

    figures = {"cells": StudyFigure("Cells", trainings, make)}
    return Study("a", "A", "", "nobody", figures, ships=ships)


def test_seeds_of_a_study_are_shipped_with_the_choice_of_their_rate(
    runs: Path, tmp_path: Path
) -> None:
    asked, target = study({"linear-gd_ssm": ALL, "linear-s5-shifted": FIRST}), tmp_path / "target"
    (target / "gd_ssm.all").mkdir(parents=True)  # it is replaced
    paths, unfinished = ship(asked, EFFORT, runs, target)
    names = ["gd_ssm.all", "gd_ssm.all@1", "gd_ssm.all@2", "s5.first"]
    assert ([path.name for path in paths], unfinished) == (names, [])
    assert zoo.list_checkpoints(url=str(target)) == names
    for seed, path in enumerate(paths[:3]):
        training = read_card(path).training
        assert (training.seed, training.num_seeds) == (seed, 3)
        assert training.study == "a/linear-gd_ssm"
        assert training.optimizer == {"lr": 3e-3, "rates": ERRORS, "rates_steps": 10}
        said = (
            "one of 3 seeds; learning rate 0.003, the best in validation after 10 steps of "
            "0.001 (0.5), 0.003 (0.25), 0.01 (0.375), 0.03 (diverged)"
        )
        assert said in card_page(read_card(path))
    weights = [(path / "model.safetensors").read_bytes() for path in paths[:3]]
    trained = sorted(runs.glob("linear-gd_ssm-*/seed_*/checkpoint/model.safetensors"))
    of_seeds = [path.read_bytes() for path in trained if "rates" not in str(path)]
    assert weights == of_seeds


def test_a_card_names_the_better_rates_at_which_seeds_diverged(runs: Path, tmp_path: Path) -> None:
    cell = CELLS[0]
    (best,) = (run for run in runs.glob("linear-gd_ssm-*/seed_0") if "rates" not in str(run))
    (best.parent / "seed_1" / "metrics.json").unlink()
    write_json(best.parent / "metrics.json", {"diverged": [1]})
    *_, jobs = stages(cell.training(EFFORT), EFFORT, runs)
    assert "optim.lr=0.01" in jobs[0].overrides
    shutil.copytree(best.parent, jobs[0].place)
    for run in jobs[0].run_dirs:
        write_json(run / "metrics.json", {"rates": ERRORS})
    (path,), _ = ship(study({"linear-gd_ssm": ONE}), EFFORT, runs, tmp_path / "target")
    card = read_card(path)
    assert card.training.optimizer["rates_given_up"] == {"0.003": 1}
    said = (
        "the best in validation after 10 steps of those at which no seed diverged: 0.001 (0.5), "
        "0.003 (0.25; then 1 of 3 seeds diverged), 0.01 (0.375), 0.03 (diverged)"
    )
    assert said in card_page(card)


def test_a_card_names_a_rate_that_was_best_by_luck(runs: Path, tmp_path: Path) -> None:
    cell = CELLS[0]
    *_, (lucky,) = stages(cell.training(EFFORT), EFFORT, runs)
    columns = ",".join(f"seed_{seed}/val/half_mse_query" for seed in lucky.seeds)
    (lucky.place / "csv" / "version_0" / "metrics.csv").write_text(
        f"step,{columns}\n40,0.5,0.2,0.5\n"
    )
    *_, (next_best,) = stages(cell.training(EFFORT), EFFORT, runs)
    assert "optim.lr=0.01" in next_best.overrides
    shutil.copytree(lucky.place, next_best.place)
    (path,), _ = ship(study({"linear-gd_ssm": ONE}), EFFORT, runs, tmp_path / "target")
    card = read_card(path)
    assert card.training.study == "a/linear-gd_ssm"
    assert card.training.optimizer["rates_fell_short"] == {"0.003": 2}
    said = (
        "the best in validation after 10 steps of those that held: 0.001 (0.5), "
        "0.003 (0.25; then 2 of 3 seeds ended above that), 0.01 (0.375), 0.03 (diverged)"
    )
    assert said in card_page(card)


def test_a_training_is_left_as_it_is_until_all_its_seeds_have_finished(
    runs: Path, tmp_path: Path
) -> None:
    (late,) = (run for run in runs.glob("linear-gd_ssm-*/seed_2") if "rates" not in str(run))
    (late / "metrics.json").unlink()
    asked = study({"linear-gd_ssm": ALL, "linear-s5-shifted": FIRST})
    paths, unfinished = ship(asked, EFFORT, runs, tmp_path / "target")
    assert [path.name for path in paths] == ["s5.first"]
    assert unfinished == ["linear-gd_ssm"]


def test_what_the_study_does_not_train_is_not_shipped(runs: Path, tmp_path: Path) -> None:
    for training, said in (
        ("linear-gd_sm", "unknown training 'linear-gd_sm'. Did you mean 'linear-gd_ssm'"),
        ("linear-gd_ssm", "a checkpoint of gd_ssm is named gd_ssm.TAG, got 's5.first'"),
    ):
        with pytest.raises(ValueError, match=said):
            ship(study({training: FIRST}), EFFORT, runs, tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_models_of_the_study_of_architectures_are_shipped_under_names_of_their_own() -> None:
    cells = [*of_task("noisy"), *deep(), *with_curriculum()]
    architectures = {cell.name: cell.architecture for cell in cells}
    names = [shipped.name for shipped in ships().values()]
    assert len({*names}) == len(names)
    for training, shipped in ships().items():
        assert shipped.name.startswith(f"{architectures[training]}.")
        assert "@" not in TypeAdapter(CheckpointName).validate_python(shipped.name)


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["recal"], "error: unknown study 'recal'. Did you mean 'recall'"),
        (["recall"], "error: the study recall ships no checkpoints"),
        (["architectures", "nowhere"], "error: there is no directory nowhere"),
        (["architectures", "tests"], "error: nothing is finished, so nothing was written"),
        ([], "usage: python -m studies.ship NAME"),
    ],
)
def test_the_command_says_what_cannot_be_shipped(
    typed: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["ship.py", *typed])
    with pytest.raises(SystemExit, match=said):
        main()
