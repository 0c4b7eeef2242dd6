"""What a study beside the paper's needs: a record, and functions that say what is in it."""

import dataclasses
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import initialize_config_dir
from rich.console import Console

import zoo
from studies.ablations import rates as rates_of_learners
from studies.claims import Claim, Found, compared, over_seeds
from studies.drawing import bars, new_figure
from studies.jobs import Job
from studies.measure import Runs, of_each, validations
from studies.page import claims_of, page, read_results, wrapped
from studies.plan import QUICK, Effort, Training
from studies.reproduction import reproduce
from studies.runner import Runner, TrainingFailed
from studies.study import Places, Study, StudyFigure, list_studies, load_study
from zoo.commands import train
from zoo.commands.reproduce import train_job
from zoo.hub.directory import read_card
from zoo.hub.io import save_checkpoint
from zoo.metrics.text import plain
from zoo.models.online_learner import OnlineLearner, construct_solver_
from zoo.terminal import StoppedBySignal

ROOT = Path(__file__).parents[1]
LOSS = ("model", "test/half_mse_query", "value")
SMALL = ("trainer=cpu", "data.d_x=3", "data.num_context=4")
SLOW = Training("slow", 20, 1.0, (*SMALL, "optim.lr=1e-9"), validations=1)
FAST = Training("fast", 20, 1.0, (*SMALL, "optim.lr=0.05"), validations=1)


def trainings(effort: Effort) -> list[Training]:
    return [FAST] if effort.fewer_settings else [SLOW, FAST]


def rates(runs: Runs, effort: Effort) -> Found:
    losses = {name: of_each(of_name, *LOSS) for name, of_name in runs.items()}
    figure, (ax,) = new_figure()
    bars(ax, losses)
    claims: list[Claim] = [
        compared(
            "0.5*MSE at the query",
            losses["fast"],
            "a rate near zero",
            losses["slow"],
            claimed="A rate of 0.05 learns more than a rate near zero.",
            source="arithmetic",
            high=1.0,
            one_sided="the less is left the better",
        ),
        Claim("0.5*MSE at a rate near zero", over_seeds(losses["slow"])),
    ]
    return Found({"losses": (figure, "Errors after 20 steps.")}, claims)


STUDY = Study(
    name="rates",
    title="Two learning rates",
    introduction="Made by `{command}` from [{results}]({results}).",
    claimed_by="common sense",
    figures={"rates": StudyFigure("Rates", trainings, rates)},
    full=Effort(seeds=(0, 1), num_episodes=50),
    quick=QUICK,
)


@pytest.fixture
def configs(undrawn: None) -> Iterator[None]:
    train.register_resolvers()
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "configs")):
        yield


def make(directory: Path, study: Study = STUDY) -> tuple[dict[str, Any], Places]:
    places = Places(directory / "rates.md", directory / "figures" / "results.json")
    console = Console(quiet=True)
    names, runs = study.chosen("all"), directory / "runs"
    return reproduce(study, names, study.full, runs, Runner(), train_job, places, console), places


@pytest.mark.usefixtures("configs")
def test_a_second_study_goes_from_trainings_to_a_page_by_the_same_functions(tmp_path: Path) -> None:
    results, places = make(tmp_path)
    assert sorted(path.name[:5] for path in (tmp_path / "runs").glob("*-*")) == ["fast-", "slow-"]
    judged, ours = claims_of(results["figures"]["rates"])
    assert judged.ratio is not None
    assert judged.ratio.num_seeds == 2
    assert judged.ratio.value < 1.0
    assert ours.verdict == "ours"
    text = places.page.read_text()
    assert text == page(STUDY, read_results(STUDY, places.results), places)
    assert text.startswith("# Two learning rates\n\nMade by `python reproduce.py study=rates` from")
    assert "| [rates](#rates-rates) | A rate of 0.05 learns more" in text
    assert "| common sense |" in text
    assert "*Common sense* (arithmetic): A rate of 0.05 learns more" in text
    assert "](figures/rates_losses.svg)" in text
    assert (places.results.parent / "rates_losses.svg").exists()
    assert "quick version" not in text  # it has its own idea of how much is all
    assert "paper" not in text
    assert "## Trainings" not in text  # it does not ask for them


@pytest.mark.usefixtures("configs")
def test_where_a_training_fails_the_figures_without_it_are_made(tmp_path: Path) -> None:
    wrong = SLOW._replace(name="wrong", overrides=(*SMALL, "trainer.precision=none"))
    figures = {
        "lacking": StudyFigure("Lacking", lambda effort: [wrong, FAST], rates),
        **STUDY.figures,
    }
    with pytest.raises(TrainingFailed, match="(?s)^wrong 2 seeds: .*precision"):
        make(tmp_path, dataclasses.replace(STUDY, figures=figures))
    results = read_results(STUDY, tmp_path / "figures" / "results.json")
    assert list(results["figures"]) == ["rates"]
    assert (tmp_path / "rates.md").read_text().startswith("# Two learning rates")


@pytest.mark.usefixtures("configs")
def test_after_a_signal_it_says_for_which_figures_all_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    later = SLOW._replace(name="later", step_ms=0.1)
    figures = {
        "needs_both": StudyFigure("Both", lambda effort: [FAST, later], rates),
        "ready": StudyFigure("Ready", lambda effort: [FAST], rates),
    }
    study = dataclasses.replace(STUDY, figures=figures)
    places = Places(tmp_path / "rates.md", tmp_path / "figures" / "results.json")

    def stop(job: Job) -> None:
        if job.training.name == "later":
            raise StoppedBySignal(signal.SIGINT)
        train_job(job)

    arguments = (study, ["needs_both", "ready"], study.full, tmp_path / "runs", Runner(), stop)
    with pytest.raises(StoppedBySignal):
        reproduce(*arguments, places, Console(width=200))
    assert "all is trained for figure=[ready]\n" in capsys.readouterr().out
    assert not places.results.exists()


@pytest.mark.usefixtures("configs")
def test_of_several_rates_the_page_says_which_were_tried_and_which_was_kept(tmp_path: Path) -> None:
    schedule = ("optim.schedule=constant_then_decay", "optim.warmup_steps=0")
    grid = Training("grid", 20, 1.0, (*SMALL, *schedule), validations=20, rates=(1e-9, 0.05))
    found: dict[str, Any] = {}

    def look(runs: Runs, effort: Effort) -> Found:
        found["runs"], found["losses"] = runs["grid"], validations(runs["grid"], "half_mse_query")
        return Found({}, [])

    figures = {"grid": StudyFigure("Grid", lambda effort: [grid], look)}
    study = dataclasses.replace(STUDY, figures=figures, shows_trainings=True)
    results, places = make(tmp_path, study)
    steps, losses = found["losses"]
    assert (steps, len(losses)) == (list(range(1, 21)), 2)
    assert losses[0][-1] < 0.98 * losses[0][0]  # of the rate that was kept
    (row,) = results["figures"]["grid"]["trainings"]
    assert (row["rates"], row["best_rate"], row["num_seeds"]) == ([1e-9, 0.05], 0.05, 2)
    assert sum(row["converged"].values()) == 2
    cards = [read_card(run / "checkpoint") for run in found["runs"]]
    seconds = 2 * sum(card.training.wall_time_s for card in cards)  # of both rates
    assert row["seconds"] == pytest.approx(seconds, abs=0.1)
    assert results["figures"]["grid"]["made"]["training_s"] == pytest.approx(seconds, abs=0.1)
    section = places.page.read_text().partition("## Trainings\n")[2]
    (line,) = (line for line in section.splitlines() if line.startswith("| grid "))
    errors = [plain(error, 3) for error in row["errors"]]
    tried = f"1e-09 ({errors[0]}), 0.05 ({errors[1]})"
    assert f"| interleaved | at the query | {tried} | 0.05, edge" in line
    assert "| 2 | 20 of 64 |" in line
    assert row["zero_error"] >= row["errors"][1]


def test_a_study_has_places_of_its_own() -> None:
    full, quick = STUDY.places(quick=False), STUDY.places(quick=True)
    assert full == (ROOT / "docs/rates.md", ROOT / "docs/figures/rates/results.json")
    assert quick == (ROOT / "runs/rates-quick/rates.md", ROOT / "runs/rates-quick/results.json")
    assert STUDY.command(quick=True) == "python reproduce.py study=rates quick=true"
    assert load_study("paper").command(quick=False) == "python reproduce.py"
    assert (STUDY.effort(quick=True), STUDY.effort(quick=False)) == (QUICK, STUDY.full)


def test_the_guide_to_training_has_every_study_with_its_page() -> None:
    guide = (ROOT / "docs" / "training.md").read_text()
    lines = re.findall(r"^\| `(\w+)` \| [^|]+ \| `docs/(\w+\.md)` \|$", guide, re.M)
    assert sorted(lines) == [
        (n, load_study(n).places(quick=False).page.name) for n in list_studies()
    ]
    without_table = [name for name in list_studies() if not load_study(name).shows_trainings]
    assert without_table == ["inside", "paper"]
    sentence = "All but those of `inside` and `paper` end with a table of what was trained"
    assert sentence in " ".join(guide.split())


def test_studies_are_found_by_their_directory() -> None:
    assert "paper" in list_studies()
    for name in list_studies():
        assert load_study(name).name == name


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("study=papr", "unknown study 'papr'. Did you mean 'paper'?"),
        ("figure=z", "figure must be all or some of a, b, c, d, e, f, g, h, got 'z'"),
    ],
)
def test_the_command_refuses_what_there_is_not(setting: str, said: str) -> None:
    command = [sys.executable, "reproduce.py", setting]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 1
    assert run.stderr.splitlines()[0].startswith(f"error: {said}")


def test_the_record_of_a_study_needs_no_torch() -> None:
    code = "import sys, studies.study; assert not {'torch', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_prose_of_a_page_is_wrapped_and_its_lists_stay_lists() -> None:
    words = " ".join(["word"] * 40)
    text = wrapped(f"{words}\n\n- {words}\n- two\n")
    assert all(len(line) <= 120 for line in text.splitlines())
    assert text.count("\n- ") == 2
    assert "\n  word" in text
    assert text.endswith("- two\n")


def test_what_a_learner_has_learned_is_printed_beside_its_solver(
    tmp_path: Path,
    card_fields: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = {"d_x": 3, "d_y": 2, "rule": "mesa"}
    model = zoo.create_model("online_learner", **arguments)
    assert isinstance(model, OnlineLearner)
    construct_solver_(model, ridge=0.25)
    name = "online_learner.noisy"
    described = {"name": name, "architecture": "online_learner", "model_args": arguments}
    data = {"d_x": 3, "d_y": 2, "num_context": 6, "noise": 0.5}
    save_checkpoint(tmp_path / name, model, {**card_fields, **described, "data": data})
    monkeypatch.setattr(rates_of_learners, "NUM_EPISODES", 50)
    monkeypatch.setattr(sys, "argv", ["rates", str(tmp_path / name)])
    rates_of_learners.main()
    (row,) = (line for line in capsys.readouterr().out.splitlines() if "decay=none" in line)
    label, solver, ratio, rate, decay, penalty, gain = map(str.strip, row.split("│")[1:-1])
    assert (label, solver, decay) == ("noisy, decay=none", "ridge", "")
    assert float(ratio.split()[0]) == pytest.approx(1.0, abs=1e-4)
    assert len(set(rate.split("; "))) == 1
    assert (penalty, gain) == ("0.250; 0.250", "1.000")
