"""evaluate.py, from what it is asked to the files it writes."""

import csv
import io
import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import zoo
from datamodules import EpisodeSpec, create_sampler
from datamodules.episodes import Episodes, EpisodeSampler
from datamodules.stream import generators_of_test
from datamodules.suites import Setting, Suite
from tests.conftest import MakeCheckpoint
from tests.forks import Forked
from zoo.analysis.imitation import behaviour, implicit_weights, likeness, mean_likeness
from zoo.commands.resolvers import register_resolvers
from zoo.commands.settings import EvaluateSettings
from zoo.evaluation.compare import Comparison
from zoo.evaluation.entries import Entry, entries_of, solvers_of, spec_of, with_reference
from zoo.evaluation.episodes import evaluation_batches, evaluation_episodes, fresh_queries
from zoo.evaluation.measure import Evaluation, evaluate
from zoo.evaluation.report import create_report
from zoo.evaluation.results import tables_of, write_results
from zoo.evaluation.sweeps import Row
from zoo.metrics.drawing import bounds
from zoo.metrics.scoring import Scoring
from zoo.models.gd_ssm import construct_gradient_descent_
from zoo.predictor import Predictor
from zoo.references import TUNE_EPISODES, create_reference
from zoo.solvers.least_squares import LeastSquares

ROOT = Path(__file__).parents[1]


def settings_of(**given: Any) -> EvaluateSettings:
    defaults: dict[str, Any] = {
        "predictors": ["zero", "least_squares"],
        "compare_with": "gradient_descent",
        "imitates": [],
        "num_episodes": 300,
        "output": "unused",
        "device": "cpu",
        "fit_on": "setting",
        "suites": {
            "noise": {"axis": "noise", "settings": {"0.0": {}, "0.5": {"set": {"noise": 0.5}}}}
        },
        "data": {"d_x": 3, "d_y": 2, "num_context": 6},
    }
    return EvaluateSettings(**{**defaults, **given})


def rows_and_entries(settings: EvaluateSettings) -> tuple[list[Row], list[Entry]]:
    entries, compare_with = with_reference(entries_of(settings.predictors), "gradient_descent")
    evaluation = Evaluation(
        spec_of(settings.data, settings.num_episodes, entries),
        entries,
        compare_with,
        settings.num_episodes,
    )
    imitates = solvers_of(settings.imitates or [])
    return evaluate(evaluation, settings.suites, imitates, Console(quiet=True)), entries


def rows_of(settings: EvaluateSettings) -> list[Row]:
    return rows_and_entries(settings)[0]


def test_every_predictor_has_every_position_of_every_setting_and_a_paired_ratio() -> None:
    rows = rows_of(settings_of())
    losses = [row for row in rows if row.metric == "half_mse"]
    assert len(losses) == 3 * 2 * 7
    assert {row.num_examples for row in losses} == set(range(7))
    assert [row.at_query for row in losses[:7]] == [False] * 6 + [True]
    ratios = {
        (row.predictor, row.setting): row.value
        for row in rows
        if row.metric == "half_mse_ratio_to_gradient_descent"
    }
    assert ratios.keys() == {(p, s) for p in ("zero", "least_squares") for s in ("0.0", "0.5")}
    assert ratios["least_squares", "0.0"] < 1e-6 < 1 < ratios["zero", "0.0"]  # type: ignore[operator]


def test_the_numbers_are_those_of_a_plain_loop() -> None:
    settings = settings_of()
    (row,) = [
        row
        for row in rows_of(settings)
        if (row.predictor, row.setting, row.num_examples) == ("zero", "0.5", 4)
        and row.metric == "half_mse"
    ]
    assert settings.data is not None
    spec = settings.data.model_copy(update={"noise": 0.5})
    values = [
        0.5 * t.square().mean().item() for t in evaluation_episodes(spec, 300, "cpu").target[:, 4]
    ]
    assert row.value == pytest.approx(sum(values) / 300, rel=1e-5)


def test_a_solver_is_fitted_to_the_setting_or_to_where_the_settings_start() -> None:
    spec = EpisodeSpec(d_x=3, d_y=1, num_context=6)
    setting = Setting(times={"input_scale": 3.0})
    (descent,) = entries_of(["gradient_descent"])
    found = {}
    for fit_on in ("setting", "base"):
        evaluation = Evaluation(spec, [descent], "gradient_descent", 300, fit_on=fit_on)  # type: ignore[arg-type]
        rows = evaluation.setting("scale", "3", setting)
        (found[fit_on],) = [row.value for row in rows if row.at_query]
    for fit_on, of in (("setting", setting.apply(spec)), ("base", spec)):
        solver = create_reference("gradient_descent", of, {})
        episodes = evaluation_episodes(setting.apply(spec), 300, "cpu")
        prediction = solver.predict_query(episodes.x, episodes.y)
        error = (prediction - episodes.target[:, -1]).square().mean().item()
        assert found[fit_on] == pytest.approx(0.5 * error, rel=1e-4)


def test_a_solver_that_shares_its_name_with_an_architecture_is_written_so_in_tables() -> None:
    assert "longhorn" in zoo.list_models()
    entries = entries_of(["longhorn", {"name": "longhorn", "step_size": 0.1}, "ridge"])
    labels = ["longhorn (solver)", "longhorn (solver, step_size=0.1)", "ridge"]
    assert [entry.label for entry in entries] == labels
    assert [entry.name for entry in entries] == ["longhorn", "longhorn", "ridge"]
    assert all(entry.model is None for entry in entries)
    assert with_reference(entries, "longhorn") == (entries, labels[0])  # as it is typed


def test_what_a_solver_was_told_is_kept() -> None:
    spec = EpisodeSpec(d_x=3, d_y=1, num_context=6, noise=0.5)
    entries = entries_of(["ridge", {"name": "gradient_descent", "step_size": 0.1}])
    evaluation = Evaluation(spec, entries, "ridge", 50)
    evaluation.setting("suite", "as it is", Setting())
    place = {"suite": "suite", "setting": "as it is"}
    assert evaluation.arguments == [
        {**place, "predictor": "ridge", "arguments": {"penalty": 0.25}},
        {**place, "predictor": "gradient_descent(step_size=0.1)", "arguments": {"step_size": 0.1}},
    ]


def test_positions_that_are_not_scored_do_not_count() -> None:
    data = {"d_x": 3, "d_y": 1, "num_context": 4, "outliers": {"probability": 0.5}}
    suites = {"same": {"axis": "examples", "settings": {"same": {}}}}
    rows = rows_of(settings_of(data=data, suites=suites, predictors=["zero"]))
    episodes = evaluation_episodes(EpisodeSpec(**data), 300, "cpu")
    for row in rows:
        if (row.predictor, row.metric) == ("zero", "half_mse"):
            scored = episodes.scored[:, row.num_examples]
            values = 0.5 * episodes.target[scored, row.num_examples].square()
            assert row.num_episodes == len(values)
            assert row.value == pytest.approx(values.mean().item(), rel=1e-5)
    assert rows[-1].at_query


def test_what_cannot_be_measured_is_a_row_with_the_reason(
    make_checkpoint: MakeCheckpoint,
) -> None:
    directory = make_checkpoint()
    width = json.loads((directory / "card.json").read_text())["model_args"]["d_x"]
    suite = {
        "axis": "width",
        "settings": {
            "same": {"set": {"d_x": width, "d_y": width}},
            "other": {"set": {"d_x": width + 1, "d_y": width + 1}},
            "none": {"set": {"distractors.count": 100}},
        },
    }
    settings = settings_of(
        predictors=[f"{directory}", "zero"], suites={"width": suite}, num_episodes=20
    )
    notes = {(r.setting, r.predictor): r.note for r in rows_of(settings) if r.value is None}
    (label,) = {predictor for setting, predictor in notes if setting == "other"}
    assert label == entries_of([f"{directory}"])[0].label
    assert notes["other", label] == f"it takes d_x = {width}, this setting has {width + 1}"
    assert {s for s, _ in notes} == {"other", "none"}
    assert "distractors.count must be at most" in notes["none", "zero"]


def test_a_constructed_model_is_found_to_be_its_algorithm() -> None:
    spec = EpisodeSpec(d_x=3, d_y=2, num_context=6)
    algorithm = create_reference("gradient_descent", spec, {"num_steps": 3})
    model = zoo.create_model("gd_ssm", d_x=3, d_y=2, num_steps=3, decay="none")
    construct_gradient_descent_(model, algorithm.step_size)
    entry = Entry("constructed", "gd_ssm", model.requires_grad_(False), None, {})
    evaluation = Evaluation(spec, [entry], "zero", 200)

    def found(given: str | dict[str, Any]) -> dict[str, float | None]:
        rows = evaluation.imitation(solvers_of([given])[0])
        assert {row.setting for row in rows} == {solvers_of([given])[0].label}
        return {row.metric: row.value for row in rows}

    of_one_step, of_ridge = found("gradient_descent"), found("ridge")
    assert of_one_step["best_matching_steps"] == 3
    assert "best_matching_steps" not in of_ridge
    of_three_steps = found({"name": "gradient_descent", "num_steps": 3})
    assert of_three_steps["model_difference"] == pytest.approx(0, abs=1e-4)
    assert "best_matching_steps" not in of_three_steps
    one_step = create_reference("gradient_descent", spec, {})
    episodes = evaluation_episodes(spec, 200, "cpu")
    x, y, target = episodes.x, episodes.y, episodes.target
    f, g = algorithm.predict_query(x, y), one_step.predict_query(x, y)
    assert of_one_step["prediction_difference"] == pytest.approx(
        (f - g).norm(dim=1).mean().item(), rel=1e-4
    )
    errors = torch.nn.functional.cosine_similarity(f - target[:, -1], g - target[:, -1])
    assert of_one_step["error_cosine"] == pytest.approx(errors.mean().item(), rel=1e-3)
    (queries,) = fresh_queries(spec, 200)
    behaviours = (behaviour(p, x, y, queries) for p in (model, algorithm))
    same = mean_likeness(likeness(*behaviours, target[:, -1]))
    assert same.prediction_difference.value < 1e-5
    assert same.weight_difference.value < 1e-4
    for cosine in (same.cosine, same.weight_cosine):
        assert cosine is not None
        assert cosine.value > 1 - 1e-5


def test_implicit_weights_of_a_linear_predictor_are_its_own() -> None:
    spec = EpisodeSpec(d_x=3, d_y=2, num_context=6)
    ridge = create_reference("ridge", spec, {"penalty": 0.3})
    episodes = evaluation_episodes(spec, 50, "cpu")
    x, y = episodes.x, episodes.y
    expected = ridge.predict(
        ridge.observe(ridge.init_state(50), x[:, :-1], y[:, :-1]), torch.eye(3).expand(50, 3, 3)
    )
    (queries,) = fresh_queries(spec, 50)
    found = implicit_weights(ridge, x, y, queries)
    torch.testing.assert_close(found, expected.double(), rtol=1e-3, atol=1e-4)


def test_classes_are_measured_by_accuracy_and_never_beside_values(
    make_checkpoint: MakeCheckpoint,
) -> None:
    directory = make_checkpoint(output="logits")
    data = {
        "d_x": 3,
        "d_y": 3,
        "num_context": 6,
        "function": {"name": "linear_classification"},
        "inputs": {"name": "gaussian"},
    }
    predictors = [
        f"{directory}",
        "ridge",
        "softmax_gradient_descent",
        {"name": "ridge", "penalty": 1.0},
    ]
    settings = settings_of(
        predictors=predictors,
        data=data,
        imitates=["ridge", "softmax_gradient_descent"],
        suites={"same": {"axis": "examples", "settings": {"same": {}}}},
    )
    rows = rows_of(settings)
    label = entries_of([f"{directory}"])[0].label
    metrics = {(row.predictor, row.metric) for row in rows if row.suite == "same"}
    assert {(label, "accuracy"), (label, "cross_entropy"), ("ridge", "accuracy")} <= metrics
    assert ("ridge", "cross_entropy") not in metrics
    notes = [row.note for row in rows if row.suite == "imitation" and row.setting == "ridge"]
    assert notes == ["it predicts logits and ridge predicts value"]
    of_values = rows_of(settings_of(predictors=[f"{directory}"], data={"d_x": 3, "d_y": 3}))
    assert {row.note for row in of_values if row.predictor == label} == {
        "it predicts classes, and the labels are values"
    }


def test_what_does_not_converge_or_is_not_installed_costs_no_other_result(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(self: Any, x: Any, y: Any) -> None:
        raise RuntimeError("no convergence")

    monkeypatch.setattr(LeastSquares, "forward", fail)
    rows = rows_of(settings_of())
    assert {row.note for row in rows if row.predictor == "least_squares"} == {"no convergence"}
    assert any(row.value for row in rows if row.predictor == "zero")


def test_where_there_is_no_bar_a_line_says_what_is_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = settings_of(num_episodes=20)
    evaluation = Evaluation(settings.data or EpisodeSpec(), entries_of(["zero"]), "zero", 20)
    said = []
    for quiet in (1e9, 0.0):
        monkeypatch.setattr("zoo.evaluation.measure.QUIET", quiet)
        output = io.StringIO()
        evaluate(evaluation, settings.suites, [], Console(file=output))
        said.append(output.getvalue())
    assert said == ["", "measuring 1 of 2: noise 0.0\nmeasuring 2 of 2: noise 0.5\n"]


def test_a_curriculum_is_over_when_a_model_is_evaluated() -> None:
    curriculum = {"points": {"start": 3, "end": 7, "increment": 1, "every": 10}}
    settings = settings_of(data={"d_x": 3, "num_context": 6, "curriculum": curriculum})
    assert spec_of(settings.data, settings.num_episodes, []).curriculum is None


def test_what_others_are_compared_with_may_be_a_checkpoint(make_checkpoint: MakeCheckpoint) -> None:
    directory = make_checkpoint()
    entries, label = with_reference(entries_of([f"{directory}"]), f"{directory}")
    assert [entry.label for entry in entries] == [label]
    entries, label = with_reference(entries, {"name": "gradient_descent", "num_steps": 2})
    assert [entry.label for entry in entries][1] == label == "gradient_descent(num_steps=2)"


def test_episodes_come_from_the_cards_or_have_to_be_said(
    make_checkpoint: MakeCheckpoint,
) -> None:
    directory = make_checkpoint()
    entries = entries_of([f"{directory}"])
    card = entries[0].card
    assert card is not None
    assert spec_of(None, 10_000, entries) == EpisodeSpec(**card.data)
    assert spec_of(None, 10_000, entries_of(["zero"])) == EpisodeSpec()
    other = entries[0]._replace(card=card.model_copy(update={"data": {"d_x": 7, "d_y": 7}}))
    with pytest.raises(ValueError, match="as in data=linear"):
        spec_of(None, 10_000, [*entries, other])


@pytest.mark.parametrize(
    "data",
    [
        {"num_context": 10**6},
        {"num_context": 20_000},
        {"function": {"name": "relu_network", "hidden": 10**7}},
        {"function": {"name": "decision_tree", "depth": 20}},
        {"function": {"name": "linear_pool", "pool_size": 10**9}},
    ],
)
def test_a_card_does_not_ask_for_more_episodes_than_can_be_drawn(
    make_checkpoint: MakeCheckpoint, data: dict[str, Any]
) -> None:
    checkpoint = make_checkpoint()
    card = json.loads((checkpoint / "card.json").read_text())
    card["data"] |= data
    (checkpoint / "card.json").write_text(json.dumps(card))
    settings = settings_of(predictors=[str(checkpoint)], data=None, num_episodes=1000)
    with pytest.raises(ValueError, match="the card's data ask for .* numbers in 2000 episodes"):
        spec_of(settings.data, settings.num_episodes, entries_of(settings.predictors))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("ridgee", "'ridgee' is neither a solver nor a checkpoint"),
        ("gd_ssm.lineer", "Did you mean 'gd_ssm.linear'"),
        ({"name": "rigde"}, "Did you mean 'ridge'"),
        ("runs/*/nothing", "matches no checkpoint"),
        (
            {"name": "ridge", "penalt": 1.0},
            "unknown argument of ridge 'penalt'. Did you mean 'penalty'?",
        ),
        ({"name": "ridge", "d_x": 3}, "unknown argument of ridge 'd_x'"),
        ({"name": "ridge", "penalty": "x"}, "solver ridge: penalty: .*valid number, got 'x'"),
        ({"name": "knn", "k": 0}, "solver knn: k: .*greater than 0, got 0"),
        ({"name": "gd_ssm"}, "unknown solver 'gd_ssm'"),
        ({"num_steps": 3}, "say which solver, as in {name: ridge}"),
    ],
)
def test_an_unknown_predictor_is_refused_with_what_is_known(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        entries_of([given])


def test_equal_names_are_told_apart(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    directory = make_checkpoint()
    copy = tmp_path / "copy" / "checkpoint"
    shutil.copytree(directory, copy)
    entries = entries_of([f"{directory}", f"{copy}", f"{directory}", "zero", "zero"])
    assert len(entries) == 3
    assert [entry.label.endswith(entry.place) for entry in entries] == [True] * 3
    assert len({entry.label for entry in entries}) == 3


def test_a_setting_sets_and_multiplies_by_dotted_name() -> None:
    spec = EpisodeSpec(num_context=10)
    changed = Setting(
        set={"distractors.count": 2, "inputs": {"name": "gaussian"}},
        times={"num_context": 4, "function.scale": 0.5},
    ).apply(spec)
    assert (changed.num_context, changed.distractors.count) == (40, 2)
    assert (changed.function.scale, changed.inputs.name) == (0.5, "gaussian")  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="function.hidden is no number"):
        Setting(times={"function.hidden": 2}).apply(spec)
    for name in ("noise.size", "distractor.count", "no.such.name"):
        with pytest.raises(ValueError, match=f"{name} is no part"):
            Setting(set={name: 2}).apply(spec)
    with pytest.raises(ValueError, match="num_context is whole, got 1.25 times 10"):
        Setting(times={"num_context": 1.25}).apply(spec)


def test_fresh_queries_are_none_of_the_examples() -> None:
    spec = EpisodeSpec(d_x=3, d_y=1, num_context=5)
    (queries,) = fresh_queries(spec, 10)
    assert queries.shape == (10, 12, 3)
    x = evaluation_episodes(spec, 10, "cpu").x
    assert not torch.isin(queries, x).any()


def test_results_are_written_as_tables_figures_and_runs(tmp_path: Path) -> None:
    settings = settings_of(
        suites={
            "curve": {"axis": "examples", "settings": {"same": {}}},
            "inputs": {
                "axis": "inputs",
                "settings": {"uniform": {}, "gaussian": {"set": {"inputs": {"name": "gaussian"}}}},
            },
            **settings_of().model_dump()["suites"],
        }
    )
    rows, entries = rows_and_entries(settings)
    write_results(rows, entries, settings.suites, tmp_path)
    with (tmp_path / "results.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == len(rows) == len(json.loads((tmp_path / "results.json").read_text()))
    assert float(table[3]["value"]) == rows[3].value
    for name in settings.suites:
        for kind in ("png", "svg"):
            assert (tmp_path / "figures" / f"{name}.{kind}").stat().st_size > 1_000
    events = EventAccumulator(str(tmp_path / "tensorboard" / "least_squares"))
    events.Reload()
    curve = [event.value for event in events.Scalars("curve/half_mse")]
    expected = [
        row.value
        for row in rows
        if (row.suite, row.predictor, row.metric) == ("curve", "least_squares", "half_mse")
    ]
    assert curve == pytest.approx(expected)
    assert [event.step for event in events.Scalars("curve/half_mse")] == list(range(7))
    assert [event.step for event in events.Scalars("noise/half_mse")] == [0, 1]  # at the query
    console = Console(record=True, width=100, file=StringIO())
    for text in tables_of(rows, settings.suites, "gradient_descent"):
        console.print(text)
    assert console.export_text().count("least_squares") == 5  # settings in all


def test_a_name_is_printed_as_it_is(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(d_x=2, d_y=2)
    for name in ("[red]a", ":smile:b"):  # what a console takes for a colour, and for a picture
        shutil.copytree(checkpoint, tmp_path / "found" / name)
    place = (f"hydra.run.dir={tmp_path}/out", f"predictors=['{tmp_path}/found/*']")
    episodes = ("data=linear", "data.d_x=2", "data.d_y=2", "num_episodes=20")
    words = ["evaluate.py", *place, *episodes, "suite=[noise]", "imitates=[]"]
    process = Forked(words, ROOT, os.environ | {"COLUMNS": "400"})
    output = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert "found/[red]a " in output
    assert "found/:smile:b " in output


def test_every_shipped_suite_applies_to_the_default_episodes_or_those_it_is_made_for() -> None:
    register_resolvers()
    made_for = {
        "expression_length": {"num_context": 511, "function": {"name": "list_ops"}},
        "window_length": {"num_context": 255, "function": {"name": "text"}},
        "word_length": {"num_context": 40, "function": {"name": "word_problem"}},
    }
    for path in sorted((ROOT / "configs" / "suite").glob("*.yaml")):
        content: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
        suite = Suite(**content)
        spec = EpisodeSpec.model_validate(made_for.get(path.stem, {}))
        lengths = [setting.apply(spec).num_context for setting in suite.settings.values()]
        if path.stem in made_for:
            assert sorted(set(lengths)) == lengths
            assert lengths[0] <= spec.num_context < lengths[-1]


def test_the_command_line_measures_and_refuses_without_a_trace(tmp_path: Path) -> None:
    place = f"hydra.run.dir={tmp_path}/out"
    short = ["data=linear", "data.d_x=2", "num_episodes=20", "suite=[noise]"]
    done = subprocess.run(
        [sys.executable, "evaluate.py", place, *short],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert done.returncode == 0, done.stderr
    assert "noise: half_mse at the query" in done.stdout
    assert (tmp_path / "out" / "results.csv").exists()

    def refused(*overrides: str) -> str:
        process = Forked(["evaluate.py", place, *short, *overrides], ROOT)
        output = process.communicate(timeout=300)
        assert process.returncode == 1, output
        assert "Traceback" not in output
        return output

    said = refused("predictors=[least_square]")
    assert "neither a solver nor a checkpoint" in said
    assert "Did you mean 'least_squares'" in said
    assert len(said) < 1200
    for device in ("foo", "cuda:99"):
        assert f"error: device={device} cannot be used" in refused(f"device={device}")
    # Not told how many steps: said once more at the end, and no success.
    output = refused("predictors=[newton]", "imitates=[]")
    assert "'num_steps' is missing" in output
    assert "newton could not be measured in any setting" in output


def test_what_is_refused_leaves_no_directory(tmp_path: Path) -> None:
    command = [sys.executable, "evaluate.py", f"hydra.run.dir={tmp_path}/out"]
    done = subprocess.run([*command, "predictors=[nonsense]"], cwd=ROOT, capture_output=True)
    assert done.returncode == 1
    assert not (tmp_path / "out").exists()


def test_a_path_that_is_there_is_no_pattern(make_checkpoint: MakeCheckpoint) -> None:
    directory = make_checkpoint()
    odd = directory.parent / "[b]*"
    directory.rename(odd)
    (entry,) = entries_of([f"{odd}"])
    assert entry.card is not None
    assert entry.place.endswith("[b]*")
    run = odd.parent / "[run]"
    (run / "checkpoint").mkdir(parents=True)
    odd.rename(run / "checkpoint" / "inner")
    with pytest.raises(ValueError, match=r"has no card.json"):
        entries_of([f"{run}"])


@pytest.mark.parametrize("function", ["linear", "linear_drift", "sine", "relu_network"])
def test_a_set_drawn_in_batches_is_the_set_drawn_at_once(
    monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    spec = EpisodeSpec(d_x=1, d_y=1, num_context=3, function={"name": function}, noise=0.5)
    whole = evaluation_episodes(spec, 50)
    monkeypatch.setattr("datamodules.episodes.SET_BATCH", 10)
    batches = list(evaluation_batches(spec, 50))
    assert [len(batch.x) for batch in batches] == [10, 10, 10, 10, 10]
    first = create_sampler(spec).sample(10, generators_of_test())
    for one, other in zip(batches[0], first, strict=True):
        assert torch.equal(one, other)
    if function == "linear":  # each of its components is drawn by one call
        torch.testing.assert_close(Episodes.joined(batches).x, whole.x)
    others = [list(evaluation_batches(spec, 50, number=i)) for i in (1, 2)]
    drawn = torch.cat([Episodes.joined(part).x.flatten() for part in (batches, *others)])
    assert len(drawn.unique()) == len(drawn), "further sets are other episodes"


def test_no_predictor_sees_more_episodes_at_once_where_there_are_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn, sample = [], EpisodeSampler.sample

    def counted(self: EpisodeSampler, number: int, *rest: Any) -> Episodes:
        drawn.append(number)
        return sample(self, number, *rest)

    monkeypatch.setattr("datamodules.episodes.SET_BATCH", 40)
    monkeypatch.setattr(EpisodeSampler, "sample", counted)
    rows = rows_of(settings_of(imitates=["gradient_descent"], num_episodes=1_000))
    assert {row.num_episodes for row in rows if row.suite == "noise"} == {1_000}
    assert max(n for n in drawn if n != TUNE_EPISODES) < 80


def test_a_heavy_tail_is_said_in_tables_and_rows_with_the_range_of_ten_sets(
    tmp_path: Path,
) -> None:
    # Steps of this size diverge in the few episodes with large inputs.
    steps = {"name": "gradient_descent", "num_steps": 40, "step_size": 0.22}
    data = {"d_x": 2, "d_y": 1, "num_context": 12}
    settings = settings_of(predictors=["zero", steps], num_episodes=1_000, data=data)
    rows, entries = rows_and_entries(settings)
    (row,) = (
        row
        for row in rows
        if "num_steps" in row.predictor
        and (row.setting, row.metric, row.at_query) == ("0.0", "half_mse", True)
    )
    assert row.tail_share is not None
    assert row.tail_share > 0.1
    assert row.ci95 is None
    assert row.lowest is not None
    assert row.highest is not None
    assert row.lowest < row.highest
    text = StringIO()
    for table in tables_of(rows, settings.suites, "gradient_descent"):
        Console(file=text, width=200).print(table)
    assert "heavy tail" in text.getvalue()
    for line in text.getvalue().splitlines():
        if "±" in line:
            for value, ci95 in re.findall(r"([\d.]+) ± ([\d.]+)", line):
                assert float(ci95) <= float(value)
    write_results(rows, entries, settings.suites, tmp_path)
    header = (tmp_path / "results.csv").read_text().splitlines()[0]
    assert "value,ci95,median,tail_share,lowest,highest" in header


def test_a_reference_that_is_not_finite_is_left_out_of_a_report_and_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = EpisodeSpec(d_x=2, d_y=1, num_context=3)
    model = zoo.create_model("gd_ssm", d_x=2, d_y=1)
    names = {"gradient_descent": {"step_size": 0.1}, "least_squares": {}, "zero": {}}
    references = {n: zoo.create_solver(n, d_x=2, d_y=1, **given) for n, given in names.items()}

    def spoilt(self: LeastSquares, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.where(torch.arange(len(x))[:, None, None] == 3, torch.nan, 0 * y)

    monkeypatch.setattr(LeastSquares, "forward", spoilt)
    with pytest.warns(UserWarning, match="least_squares is left out of the report"):
        report = create_report(
            model, references, None, lambda i: evaluation_batches(spec, 20), Scoring()
        )
    assert set(report.at_query["half_mse"]) == {"model", "gradient_descent", "zero"}
    assert set(report.ratio) == {"gradient_descent", "zero"}


def test_heavy_positions_of_a_model_and_its_heavy_mean_have_the_range_of_ten_sets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = EpisodeSpec(d_x=2, d_y=1, num_context=3)
    model = zoo.create_model("gd_ssm", d_x=2, d_y=1)
    step = zoo.create_solver("gradient_descent", d_x=2, d_y=1, step_size=0.1)
    references = {"gradient_descent": step}
    for predictor in (model, step):
        forward = type(predictor).forward

        def rarely_wrong(
            self: Predictor, x: torch.Tensor, y: torch.Tensor, forward: Any = forward
        ) -> torch.Tensor:
            wrong = (x[:, :1, :1] > 0.47) & (torch.arange(4)[:, None] == 1)
            return torch.where(wrong, 50.0, forward(self, x, y))

        monkeypatch.setattr(type(predictor), "forward", rarely_wrong)

    def sets(number: int) -> Iterator[Episodes]:
        return evaluation_batches(spec, 60, number=number)

    report = create_report(model, references, None, sets, Scoring())
    comparison = Comparison(sets, Scoring())
    comparison.add("", model)
    further = [comparison._errors(model, i)["half_mse"] for i in range(1, 11)]
    at_one, over_all = report.curves["model"][1], report.over_all["half_mse"]["model"]
    for found, place in ((at_one, 1), (over_all, -1)):
        assert found is not None
        assert found.ci95 is None
        means = [columns[place].double().mean().item() for columns in further]
        assert (found.lowest, found.highest) == (min(means), max(means))
    for place in (0, 2, 3):
        fair = report.curves["model"][place]
        assert fair is not None
        assert fair.ci95 is not None
    assert report.at_query["half_mse"]["model"].ci95 is not None
    of_reference = report.curves["gradient_descent"][1]
    assert of_reference is not None
    assert of_reference.ci95 is None
    assert all(map(math.isnan, bounds(of_reference))), "it is not drawn as if it were certain"
