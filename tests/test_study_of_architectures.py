"""The study of architectures: its tables, drawings and claims against the runs behind them."""

import csv
import dataclasses
import json
import math
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import pytest

from studies.architectures import figures
from studies.architectures.cells import Cell, with_curriculum
from studies.architectures.figures import CURRICULUM, DRIFT, NOISY, ONE_LAYER, SCALAR, Task
from studies.architectures.study import STUDY
from studies.claims import Claim, Found
from studies.jobs import overrides_of
from studies.page import page
from studies.plan import Effort
from tests.forks import Forked
from zoo.files import ROOT
from zoo.metrics.text import plain

EFFORT = Effort(seeds=(0, 1), num_episodes=60, num_validation=30, fewer_settings=True)
LOSS = "test/half_mse_query"
TINY = (
    "model.d_model=8",
    "model.num_layers=1",
    "model.num_heads=2",
    "trainer=cpu",
    "optim.lr=0.003",
)
Change = Callable[[dict[str, Any]], None]
MakeRuns = Callable[[Task], dict[str, list[Path]]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of a small transformer on `noisy`, as the study trains it."""
    directory = tmp_path_factory.mktemp("architectures")
    training = cell_of(NOISY, "transformer, pairs").training(EFFORT)._replace(max_steps=20)
    overrides = (*overrides_of(training, EFFORT), *TINY, "seed=0", f"hydra.run.dir={directory}")
    training_run = Forked(["train.py", *overrides], ROOT)
    output = training_run.communicate(timeout=300)
    assert training_run.returncode == 0, output
    return directory


@pytest.fixture
def make_runs(trained: Path, tmp_path: Path) -> MakeRuns:
    """Runs of all cells of a task: copies of one, with the exact algorithms of the task."""

    def make(task: Task) -> dict[str, list[Path]]:
        runs = {}
        names = (task.exact, *task.others)
        for cell in task.chosen(EFFORT):
            directory = tmp_path / cell.name
            shutil.copytree(trained, directory)
            for path in (*directory.glob("*/metrics.json"), *directory.glob("csv/*/metrics.csv")):
                text = path.read_text()
                for other, name in zip(("ridge", "least_squares"), names, strict=False):
                    text = text.replace(other, name)
                path.write_text(text)
            runs[cell.name] = [directory / f"seed_{seed}" for seed in EFFORT.seeds]
        return runs

    return make


def cell_of(task: Task, label: str) -> Cell:
    return next(cell for cell in task.chosen(EFFORT) if cell.label == label)


def content_of(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "metrics.json").read_text())
    return content


def change(run: Path, by: Change, file: str = "metrics.json") -> None:
    content = json.loads((run / file).read_text())
    by(content)
    (run / file).write_text(json.dumps(content))


def set_ratio(runs: list[Path], beside: str, ratio: float) -> None:
    """Gives the seeds ratios that are 0.0001 apart."""
    for seed, run in enumerate(runs):
        found = ratio + 1e-4 * seed

        def by(content: dict[str, Any], found: float = found) -> None:
            content["model"][f"test/ratio_to_{beside}"]["value"] = found

        change(run, by)


def set_converged(runs: list[Path], verdicts: tuple[str, ...]) -> None:
    for run, verdict in zip(runs, verdicts, strict=True):
        found = {"verdict": verdict, "fall": 0.0 if verdict == "converged" else 0.1}
        change(run, lambda content, found=found: content["convergence"].update(found))


def page_of(claims: list[Claim]) -> str:
    """The page of one figure with these claims."""
    made = {
        **dict.fromkeys(("command", "date"), "x"),
        "quick": False,
        "seeds": [0],
        "num_episodes": 1,
        "training_s": 1.0,
        "git_commits": [],
        "versions": {},
    }
    entry = {
        "title": "x",
        "figures": [],
        "claims": [claim.as_dict() for claim in claims],
        "trainings": [{"num_seeds": 3}, {"num_seeds": 5}],
        "made": made,
    }
    study = dataclasses.replace(STUDY, shows_trainings=False)
    return page(study, {"figures": {"noisy": entry}}, STUDY.places(quick=False))


def row_of(found: Found, quantity: str) -> Claim:
    """The line of the table of all models."""
    (row,) = (c for c in found.claims if c.quantity == quantity and "tokens" in c.also)
    return row


def interval(values: list[float]) -> float:
    return 12.706 * stdev(values) / math.sqrt(2)


def test_each_number_of_the_table_is_that_of_the_runs(make_runs: MakeRuns) -> None:
    runs = make_runs(NOISY)
    of_cell = runs[cell_of(NOISY, "transformer, pairs").name]
    set_converged(of_cell, ("converged", "not converged"))
    row = row_of(figures.compared(NOISY, runs, EFFORT), "0.5*MSE at the query, transformer, pairs")
    contents = [content_of(run) for run in of_cell]
    losses = [content["model"][LOSS] for content in contents]
    values = [loss["value"] for loss in losses]
    ridge = contents[0]["references"]["ridge"][LOSS]["value"]
    assert len(set(values)) == 2
    assert row.measured[:3] == pytest.approx((mean(values), interval(values), 2))
    assert (row.reference, row.reference_value) == ("ridge", ridge)
    ratios = [value / ridge for value in values]
    assert row.ratio is not None
    assert row.ratio[:3] == pytest.approx((mean(ratios), interval(ratios), 2))
    above = [value - ridge for value in values]
    assert row.difference is not None
    assert row.difference[:3] == pytest.approx((mean(above), interval(above), 2))
    card = json.loads((of_cell[0] / "checkpoint" / "card.json").read_text())
    assert row.also == {
        "tokens": "pairs",
        "loss": "over all scored positions",
        "median": pytest.approx(mean(loss["median"] for loss in losses)),
        "worst 0.1 %": f"{100 * max(loss['tail_share'] for loss in losses):.1f} %",
        "parameters": card["num_parameters"],
        "state": card["state_size"],
        "episodes": 20 * 64,
        "converged": "1 of 2",
        "fell in the decay": f"{100 * fell(of_cell[0].parent):.1f} %",
    }


def fell(directory: Path) -> float:
    """Share by which the loss fell after step 16 of 20, below the median of 14, 15 and 16."""
    (log,) = directory.glob("csv/*/metrics.csv")
    with log.open() as file:
        rows = list(csv.DictReader(file))
    found = []
    for seed in EFFORT.seeds:
        column = f"seed_{seed}/val/half_mse_query"
        losses = {int(row["step"]): float(row[column]) for row in rows if row[column]}
        found.append(1 - losses[20] / median(losses[step] for step in (14, 15, 16)))
    return median(found)


def test_seeds_that_have_not_left_zero_are_counted(make_runs: MakeRuns) -> None:
    runs = make_runs(NOISY)
    of_cell = runs[cell_of(NOISY, "transformer, pairs").name]
    set_converged(of_cell, ("converged", "converged"))
    zero = content_of(of_cell[0])["references"]["zero"][LOSS]["value"]
    for shares, said in (
        ((1.0, 0.96), "2 of 2, 2 at zero"),
        ((1.04, 0.94), "2 of 2, 1 at zero"),
        ((0.5, 1e3), "2 of 2"),
    ):
        for run, share in zip(of_cell, shares, strict=True):
            change(run, partial(set_loss, loss=share * zero))
        found = figures.compared(NOISY, runs, EFFORT)
        assert row_of(found, "0.5*MSE at the query, transformer, pairs").also["converged"] == said


def test_exact_algorithms_stand_above_the_models(make_runs: MakeRuns) -> None:
    runs = make_runs(NOISY)
    rows = figures.compared(NOISY, runs, EFFORT).claims
    references = content_of(runs["noisy-gd_ssm"][0])["references"]
    for row, name in zip(rows[:3], ("zero", "gradient_descent", "ridge"), strict=True):
        assert row.quantity == f"0.5*MSE at the query, {name} (exact)"
        of_name = references[name][LOSS]
        assert (row.measured.value, row.measured.ci95) == (of_name["value"], of_name["ci95"])
        assert row.also["median"] == references[name][LOSS]["median"]
    assert len(rows) == 3 + len(NOISY.chosen(EFFORT))
    assert {row.verdict for row in rows} == {"ours"}


def _loss(content: dict[str, Any]) -> None:
    content["model"][LOSS]["value"] += 1.0


def _median(content: dict[str, Any]) -> None:
    content["model"][LOSS]["median"] += 1.0


def _tail(content: dict[str, Any]) -> None:
    content["model"][LOSS]["tail_share"] = 0.09


def _ratio(content: dict[str, Any]) -> None:
    content["model"]["test/ratio_to_ridge"]["value"] += 1.0


def _verdict(content: dict[str, Any]) -> None:
    content["convergence"]["verdict"] = "converged"


@pytest.mark.parametrize("by", [_loss, _median, _tail, _ratio, _verdict])
def test_another_number_in_one_seed_changes_the_table(by: Change, make_runs: MakeRuns) -> None:
    runs = make_runs(NOISY)
    quantity = "0.5*MSE at the query, transformer, pairs"
    before = row_of(figures.compared(NOISY, runs, EFFORT), quantity)
    change(runs["noisy-transformer-pairs"][1], by)
    assert row_of(figures.compared(NOISY, runs, EFFORT), quantity) != before


@pytest.mark.parametrize("part", ["references", "curves"])
def test_a_run_without_the_best_exact_algorithm_is_no_run_of_the_task(
    part: str, make_runs: MakeRuns
) -> None:
    runs = make_runs(NOISY)
    change(runs["noisy-gd_ssm"][0], lambda content: content[part].pop("ridge"))
    with pytest.raises(KeyError, match="ridge"):
        figures.compared(NOISY, runs, EFFORT)


def test_where_single_episodes_decide_the_median_stands_before_the_mean_of_each_seed(
    make_runs: MakeRuns,
) -> None:
    def heavy(content: dict[str, Any]) -> None:
        tail = {"ci95": None, "tail_share": 0.75, "lowest": 0.142, "highest": 2e7}
        content["model"][LOSS] |= tail | {"value": 0.5596, "median": 0.0471}
        content["model"]["test/ratio_to_ridge"] |= tail | {"value": 12.34}

    runs = make_runs(NOISY)
    of_cell = runs["noisy-linear_transformer"]
    change(of_cell[1], heavy)
    row = row_of(figures.compared(NOISY, runs, EFFORT), "0.5*MSE at the query, linear_transformer")
    first = content_of(of_cell[0])
    light, of_light = first["model"][LOSS], first["model"]["test/ratio_to_ridge"]["value"]
    median = (light["median"] + 0.0471) / 2
    assert row.measured[1:] == (None, 2, pytest.approx(median), [light["value"], 0.5596])
    assert row.ratio is not None
    assert row.ratio[1:] == (None, 2, None, [of_light, 12.34])
    assert row.difference is not None
    assert row.difference.ci95 is None
    assert row.also["worst 0.1 %"] == "75.0 %"
    text = page_of([row])
    means = f"mean by seed {plain(light['value'], 2)}, 0.56"
    assert f"| median {plain(median, 2)}; {means} |" in text
    assert f"| by seed {plain(of_light, 2)}, 12 |" in text
    assert "20000000" not in text
    assert "| pairs | over all scored positions |" in text
    assert "; 3 to 5 seeds, 1 test episodes" in text
    assert Claim.of(json.loads(json.dumps(row.as_dict()))) == row


def test_without_noise_least_squares_is_exact_and_errors_stand_beside_one_step(
    make_runs: MakeRuns,
) -> None:
    def exact(content: dict[str, Any]) -> None:
        rounding = {"value": 1e-12, "ci95": None, "tail_share": None}
        content["references"]["least_squares"][LOSS] |= rounding

    task = SCALAR._replace(cells=lambda: SCALAR.cells()[:1])
    runs = make_runs(task)
    for run in runs["scalar-gd_ssm"]:
        change(run, exact)
    found = figures.compared(task, runs, EFFORT)
    row = row_of(found, "0.5*MSE at the query, gd_ssm")
    assert (row.reference, row.difference) == ("gradient_descent", None)
    (figure, caption) = found.figures["errors"]
    assert "least squares" in caption
    uprights = [x for x in figure.axes[2].lines if list(x.get_ydata()) == [0, 1]]
    references = content_of(runs["scalar-gd_ssm"][0])["references"]
    assert [x.get_xdata()[0] for x in uprights] == [
        references[name][LOSS]["value"] for name in ("zero", "gradient_descent")
    ]


def test_excess_is_drawn_from_the_first_example_on_as_a_mean_over_seeds(
    make_runs: MakeRuns,
) -> None:
    runs = make_runs(DRIFT)
    (figure, caption) = figures.compared(DRIFT, runs, EFFORT).figures["errors"]
    assert "above that of kalman_filter" in caption
    line = figure.axes[1].lines[0]
    curves = [content_of(run)["curves"] for run in runs["drift-gd_ssm"]]
    wanted = [
        mean(c["model"][i]["value"] - c["kalman_filter"][i]["value"] for c in curves)
        for i in range(1, len(curves[0]["model"]))
    ]
    assert list(line.get_xdata()) == list(range(1, 17))
    assert list(line.get_ydata()) == pytest.approx(
        [w if w > 0 else math.nan for w in wanted], nan_ok=True
    )
    labels = [tick.get_text() for tick in figure.axes[2].get_yticklabels()]
    assert labels == [cell.label for cell in DRIFT.chosen(EFFORT)]


def test_losses_in_validation_are_drawn_against_the_steps_that_were_logged(
    make_runs: MakeRuns,
) -> None:
    runs = make_runs(NOISY)
    (figure, _) = figures.compared(NOISY, runs, EFFORT).figures["errors"]
    line = figure.axes[0].lines[0]
    (log,) = runs["noisy-gd_ssm"][0].parent.glob("csv/*/metrics.csv")
    with log.open() as file:
        rows = list(csv.DictReader(file))
    columns = [f"seed_{seed}/val/half_mse_query" for seed in EFFORT.seeds]
    wanted = {
        int(row["step"]): mean(float(row[column]) for column in columns)
        for row in rows
        if row[columns[0]]
    }
    assert list(wanted) == list(range(1, 21))
    assert list(line.get_xdata()) == list(wanted)
    assert list(line.get_ydata()) == pytest.approx(list(wanted.values()))


@pytest.mark.parametrize(
    ("label", "claimed", "ratios"),
    [
        (
            "gd_ssm",
            figures.GD_SSM,
            {1.002: "reproduced", 1.05: "not reproduced", 0.9: "not reproduced"},
        ),
        (
            "linear_transformer",
            figures.LINEAR_ATTENTION,
            {1.002: "reproduced", 1.05: "not reproduced", 0.9: "not reproduced"},
        ),
        (
            "transformer, pairs",
            figures.SOFTMAX,
            {0.95: "reproduced", 0.99: "not decided", 0.995: "not reproduced"},
        ),
    ],
)
def test_one_layer_is_judged_by_its_ratio_to_one_step(
    label: str, claimed: str, ratios: dict[float, str], make_runs: MakeRuns
) -> None:
    runs = make_runs(ONE_LAYER)
    set_converged(runs[cell_of(ONE_LAYER, label).name], ("converged", "converged"))
    for ratio, verdict in ratios.items():
        set_ratio(runs[cell_of(ONE_LAYER, label).name], "gradient_descent", ratio)
        found = figures.of_one_layer(runs, EFFORT)
        judged = {c.claimed: c.verdict for c in found.claims if c.claimed}
        assert len(judged) == 3
        assert judged[claimed] == verdict


@pytest.mark.parametrize(
    ("label", "claimed"), [("gd_ssm", figures.GD_SSM), ("transformer, pairs", figures.SOFTMAX)]
)
def test_what_more_training_could_bring_into_the_bounds_or_out_of_them_is_not_decided(
    label: str, claimed: str, make_runs: MakeRuns
) -> None:
    runs = make_runs(ONE_LAYER)
    of_cell = runs[cell_of(ONE_LAYER, label).name]
    set_converged(of_cell, ("converged", "not converged"))
    for ratio in (1.05, 1.0, 0.95):
        set_ratio(of_cell, "gradient_descent", ratio)
        (claim,) = (c for c in figures.of_one_layer(runs, EFFORT).claims if c.claimed == claimed)
        # Errors fall: into both bounds, out of them again, and below one bound for good.
        below = "not reproduced" if claim.low else "reproduced"
        assert claim.verdict == (below if ratio == 0.95 else "not decided")
        assert str(claim.also["converged"]).startswith("1 of 2")
        assert Claim.of(json.loads(json.dumps(claim.as_dict()))) == claim


def test_a_seed_passes_one_step_where_two_validations_in_a_row_are_below_it(
    make_runs: MakeRuns,
) -> None:
    runs = make_runs(ONE_LAYER)
    cell = cell_of(ONE_LAYER, "transformer, interleaved")
    (log,) = runs[cell.name][0].parent.glob("csv/*/metrics.csv")
    log.write_text(
        "step,seed_0/val/half_mse_query,seed_1/val/half_mse_query,val/half_mse_query/zero,"
        "val/half_mse_query/gradient_descent,val/half_mse_query/least_squares,"
        "seed_0/val/ratio_to_gradient_descent,seed_1/val/ratio_to_gradient_descent\n"
        "5,2.0,2.0,4.0,2.0,0.1,0.98,1.5\n"
        "8,2.0,2.0,4.0,2.0,0.1,0.995,0.98\n"
        "10,2.0,2.0,4.0,2.0,0.1,0.98,1.4\n"
        "15,2.0,2.0,4.0,2.0,0.1,0.9,0.995\n"
        "20,2.0,2.0,4.0,2.0,0.1,1.12,0.98\n"
    )

    def minutes(card: dict[str, Any]) -> None:
        card["training"]["wall_time_s"] = 240.0

    for run, near in zip(runs[cell.name], (7, None), strict=True):
        first = {"first_step_within_1_percent": near}
        change(run, lambda content, first=first: content.update(first))
        change(run / "checkpoint", minutes, "card.json")
    found = figures.of_one_layer(runs, EFFORT)
    quantity = f"ratio to one step in the last validation, {cell.label}"
    (claim,) = (c for c in found.claims if c.quantity == quantity)
    assert claim.measured.value == pytest.approx(1.05)
    assert claim.also == {
        "seeds below 0.99 twice in a row": "1 of 2",
        "first at step": "10; never",
        "minutes, a share of the stacked run": "2; never",
        "within 1 % at step": "7; never",
    }


@pytest.mark.parametrize("quick", [False, True])
def test_a_curriculum_has_all_dimensions_before_rates_are_chosen(quick: bool) -> None:
    effort = STUDY.effort(quick)
    growing = [cell for cell in with_curriculum() if cell.starts_with is not None]
    assert len(growing) == 3
    for cell in growing:
        training = cell.training(effort)
        (every,) = (int(n) for o in training.overrides for n in re.findall(r"every: (\d+)", o))
        assert training.trial is not None
        steps = (10 - (cell.starts_with or 0)) * every
        assert steps < round(training.trial.max_steps * effort.share)


def test_with_a_curriculum_s5_has_to_leave_zero_and_what_it_had_reached_stands_beside(
    make_runs: MakeRuns,
) -> None:
    runs = make_runs(CURRICULUM)
    for cell in CURRICULUM.chosen(EFFORT):
        ratio = {"linear": 0.86, "scalar_10": 0.81}[cell.task] if cell.variant else 1.0
        set_ratio(runs[cell.name], "zero", ratio)
        set_converged(runs[cell.name], ("converged", "converged"))
    found = figures.of_curriculum(runs, EFFORT)
    judged = [claim for claim in found.claims if claim.claimed]
    assert [(c.high, c.verdict) for c in judged] == [
        (0.87, "reproduced"),  # of two widths
        (0.87, "reproduced"),
        (0.80, "not reproduced"),
    ]
    assert judged[0].also["ratio by seed"] == "0.86, 0.86"
    text = page_of(judged)
    assert "*Ours, earlier* (one training, of one seed): S5 leaves the zero predictor" in text
    assert sorted(found.figures) == ["scalar", "vector"]
    quantities = [c.quantity for c in found.claims if not c.claimed]
    assert len(quantities) == len(set(quantities)) == (3 + 3) + (3 + 2)


def test_where_an_interval_is_wide_each_seed_stands_beside_it(make_runs: MakeRuns) -> None:
    runs = make_runs(NOISY)
    cell = cell_of(NOISY, "transformer, pairs")
    quantity = "0.5*MSE at the query, transformer, pairs"
    for ratios, told in (((0.5, 1.0), True), ((1.0, 1.001), False)):
        for run, ratio in zip(runs[cell.name], ratios, strict=True):
            change(run, partial(set_loss, loss=0.3 * ratio))
        row = row_of(figures.compared(NOISY, runs, EFFORT), quantity)
        assert row.measured.by_seed == ([0.15, 0.3] if told else None)
        assert row.measured.ci95 == pytest.approx(interval([0.3 * ratio for ratio in ratios]))
        assert row.difference is not None
        assert row.difference.ci95 is not None
        assert (" (0.15, 0.3) |" in page_of([row])) == told


def set_loss(content: dict[str, Any], loss: float) -> None:
    content["model"][LOSS]["value"] = loss


def test_the_page_is_not_the_one_that_lists_architectures() -> None:
    for quick in (True, False):
        assert STUDY.places(quick).page.name == "comparison.md"
    assert (ROOT / "docs" / "architectures.md").read_text().startswith("# Architectures\n")


def test_a_figure_compares_fewer_architectures_in_the_quick_version() -> None:
    for figure in STUDY.figures.values():
        full, quick = (figure.trainings(effort) for effort in (STUDY.full, STUDY.quick))
        assert 2 <= len(quick) <= len(full)
        assert {x.name for x in quick} <= {x.name for x in full}
