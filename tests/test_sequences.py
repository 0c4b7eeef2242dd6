"""Episodes with hidden labels, and recall: what stands beside models and how they are scored."""

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from rich.console import Console

import zoo
from datamodules import EpisodeSpec
from datamodules.datamodule import EpisodeDataModule
from datamodules.episodes import Episodes
from datamodules.suites import Setting, Suite
from tests.test_configs import CONFIGS, config_of
from zoo.commands.evaluate import default_predictors, fitting_suites, imitated
from zoo.commands.resolvers import register_resolvers
from zoo.commands.train import train
from zoo.evaluation.compare import Comparison, losses
from zoo.evaluation.entries import Entry, entries_of, spec_of
from zoo.evaluation.episodes import evaluation_batches, evaluation_episodes
from zoo.evaluation.measure import Evaluation, evaluate
from zoo.evaluation.report import Report, create_report, report_tables
from zoo.evaluation.results import tables_of
from zoo.evaluation.sweeps import Row
from zoo.hub.card import MAX_CARD_BYTES
from zoo.hub.charts import chart
from zoo.hub.directory import card_bytes, read_card
from zoo.hub.index import index_entry
from zoo.hub.leaderboard import leaderboard
from zoo.hub.pages import card_page, comparisons
from zoo.metrics.errors import Summary
from zoo.metrics.scoring import Scoring
from zoo.predictor import Predictor
from zoo.references import beside, create_reference, references_of, scoring_of
from zoo.training.callbacks import TimeToSolution
from zoo.training.card import measured_fields
from zoo.training.remeasure import measured_again
from zoo.training.run import Run
from zoo.training.runs import read_run
from zoo.training.settings import ModelSettings

# Small episodes of every family whose labels are hidden, and of recall.
FAMILIES: dict[str, dict[str, Any]] = {
    "automaton": {"num_context": 60},
    "induction": {"num_context": 20},
    "list_ops": {"num_context": 40, "min_length": 5},
    "noisy_recall": {"num_context": 40},
    "recall": {"d_x": 16, "d_y": 16, "num_queries": 3},
    "selective_copy": {"num_context": 20, "num_copied": 5},
    "text": {"num_context": 30},
    "word_problem": {"num_context": 20},
}
EXACT = {
    "induction": "symbol_lookup",
    "list_ops": "list_ops_parser",
    "noisy_recall": "symbol_lookup",
    "selective_copy": "symbol_copy",
    "word_problem": "group_table",
}
HIDDEN = sorted(FAMILIES.keys() - {"recall"})


@pytest.fixture(autouse=True)
def few_episodes_to_fit_algorithms_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoo.references.TUNE_EPISODES", 50)


def spec_of_family(name: str, **further: Any) -> EpisodeSpec:
    settings = FAMILIES[name] | further
    sizes = {key: settings.pop(key) for key in ("d_x", "d_y", "num_context") if key in settings}
    return EpisodeSpec.model_validate({**sizes, "function": {"name": name, **settings}})


def comparison_of(spec: EpisodeSpec, num_episodes: int = 200) -> Comparison:
    found = Comparison(lambda i: evaluation_batches(spec, num_episodes, number=i), scoring_of(spec))
    for name, solver in references_of(spec, {}).items():
        found.add(name, solver)
    return found


@pytest.mark.parametrize("family", EXACT)
def test_the_exact_algorithm_of_a_family_is_always_right(family: str) -> None:
    spec = spec_of_family(family)
    assert EXACT[family] in beside(spec)
    found = comparison_of(spec)
    exact = found.errors[EXACT[family]]
    assert (exact["accuracy"][-1] == 1).all()
    assert exact["cross_entropy"][-1].max() < 1e-6
    assert found.is_rounding(EXACT[family], "cross_entropy")


def test_the_dictionary_knows_every_value_of_recall() -> None:
    spec = spec_of_family("recall")
    found = comparison_of(spec)
    assert next(iter(found.errors)) == "gradient_descent"
    assert (found.errors["dictionary"]["accuracy"][-1] == 1).all()
    assert (found.errors["dictionary"]["half_mse"][-1] == 0).all()
    of_step = found.errors["gradient_descent"]["accuracy"][-2].mean()
    assert 0.2 < of_step < 0.9


def test_accuracy_of_recall_is_that_of_the_nearest_vector_of_the_code_book() -> None:
    spec = spec_of_family("recall", num_values=5)
    book = spec.function.tensors(16, 16)["code_book"]
    episodes = evaluation_episodes(spec, 50)
    step = create_reference("gradient_descent", spec, {})
    found = losses(step, episodes, scoring_of(spec))["accuracy"]
    prediction = step(episodes.x, episodes.y)
    for b in range(50):
        for i in (24, 25, 26):
            distances = [(prediction[b, i] - value).norm().item() for value in book]
            nearest = book[min(range(5), key=distances.__getitem__)]
            assert found[b, i] == float(torch.equal(nearest, episodes.target[b, i]))


def test_ngrams_stand_between_a_guess_and_the_entropy() -> None:
    spec = spec_of_family("automaton", num_context=200)
    found = comparison_of(spec)
    at = {name: found.compared(name, "cross_entropy").mean().item() for name in found.errors}
    assert at["uniform"] == pytest.approx(math.log(18))
    target = evaluation_episodes(spec, 200)
    entropy = torch.special.entr(target.target).sum(-1)[target.scored].mean().item()
    assert entropy < at["context_ngrams"] < 0.7 * at["uniform"]
    text = comparison_of(spec_of_family("text", num_context=100))
    bits = {name: text.compared(name, "bits_per_byte").mean().item() for name in text.errors}
    assert bits["uniform"] == pytest.approx(8, rel=1e-5)
    assert bits["fitted_ngrams"] < 3 < bits["context_ngrams"] < 8


def test_an_automaton_is_right_with_any_symbol_that_may_come_next() -> None:
    target = torch.tensor([[0.5, 0.5, 0.0]] * 3)
    prediction = torch.tensor([[1.0, 2.0, 0.0], [2.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    assert Scoring(classes=True).losses(prediction, target, "logits")["accuracy"].tolist() == [
        1,
        1,
        0,
    ]


@pytest.mark.parametrize("family", HIDDEN)
def test_nothing_that_learns_from_labels_is_offered_where_they_are_hidden(family: str) -> None:
    spec = spec_of_family(family)
    names = list(references_of(spec, {"num_layers": 4, "num_steps": 2}))
    assert names[0] == "uniform"
    assert names[1:] == list(spec.function.beside)
    assert default_predictors(spec) == names
    for name in ("zero", "ridge", "softmax_gradient_descent", "dictionary"):
        with pytest.raises(ValueError, match=f"{name} learns from labels, and those of {family}"):
            create_reference(name, spec, {})
    with pytest.raises(ValueError, match=f"those of {family} are hidden"):
        imitated(spec, ["ridge"])
    assert imitated(spec, None) == []


def test_default_predictors_of_shown_labels_are_those_of_regression() -> None:
    expected = ["gradient_descent", "ridge", "least_squares", "zero"]
    assert default_predictors(None) == expected
    assert default_predictors(spec_of_family("recall")) == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_episodes_of_a_set_do_not_depend_on_its_size(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datamodules.episodes.SEQUENCE_BATCH", 30)
    spec = spec_of_family(family)
    whole = list(evaluation_batches(spec, 100))
    assert [len(batch.x) for batch in whole] == [30, 30, 30, 10]
    joined = Episodes.joined(whole)
    for number in (10, 30, 45):
        for part, of_whole in zip(evaluation_episodes(spec, number), joined, strict=True):
            assert torch.equal(part, of_whole[:number])
    other = Episodes.joined(evaluation_batches(spec, 100, number=1)).x
    assert not any(map(torch.equal, joined.x, other))


def test_a_large_set_of_long_windows_is_never_in_memory_at_once() -> None:
    spec = spec_of_family("text", num_context=255)
    assert spec.set_batch * spec.num_numbers <= 2**23
    module = EpisodeDataModule(spec, eval_episodes=10_000)
    assert module.eval_batch_size == spec.set_batch
    assert len(next(module.test_batches()).x) == spec.set_batch


MEASURED = """
import resource
from datamodules import EpisodeSpec
from zoo.evaluation.compare import Comparison
from zoo.evaluation.episodes import evaluation_batches
from zoo.references import create_reference, scoring_of

spec = EpisodeSpec(num_context=1023, function={"name": "text"})
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = Comparison(lambda i: evaluation_batches(spec, 300, number=i), scoring_of(spec))
found.add("uniform", create_reference("uniform", spec, {}))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_measuring_takes_less_memory_than_the_episodes() -> None:
    spec = spec_of_family("text", num_context=1023)
    run = subprocess.run([sys.executable, "-c", MEASURED], capture_output=True, text=True)
    megabytes = 300 * spec.num_numbers * 4 // 2**20
    assert int(run.stdout) < megabytes / 2, run.stderr


def report_of(spec: EpisodeSpec, model: Predictor) -> Report:
    return create_report(
        model,
        references_of(spec, {}),
        None,
        lambda i: evaluation_batches(spec, 60, number=i),
        scoring_of(spec),
    )


def untrained(spec: EpisodeSpec) -> Predictor:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return zoo.create_model(
            "delta_net",
            d_x=spec.d_x,
            d_y=spec.d_y,
            num_layers=1,
            d_model=8,
            tokens="inputs",
            output="logits",
        ).eval()


@pytest.mark.parametrize("family", HIDDEN)
def test_a_report_compares_over_all_scored_positions(family: str) -> None:
    spec = spec_of_family(family)
    model = untrained(spec)
    report = report_of(spec, model)
    numbers = report.model_metrics()
    assert not [name for name in numbers if "_query" in name or "alignment" in name]
    assert "test/accuracy_all" in numbers
    assert set(report.ratio) == {"uniform"}
    assert set(report.difference) == set(spec.function.beside)
    episodes = evaluation_episodes(spec, 60)
    with torch.no_grad():
        logits = model(episodes.x, episodes.y)
    entropy = -(episodes.target * logits.log_softmax(-1)).sum(-1)
    each = [row[s].mean() for row, s in zip(entropy, episodes.scored, strict=True)]
    found = numbers["test/cross_entropy_all"].value
    assert found == pytest.approx(torch.stack(each).mean().item(), rel=1e-5)
    assert numbers["test/ratio_to_uniform"].value == pytest.approx(found / math.log(spec.d_y))
    assert ("test/bits_per_byte_all" in numbers) == (family == "text")
    assert (report.floor is not None) == (family == "automaton")
    tables = report_tables(report)
    assert len(tables) == 1
    assert report.as_dict()["curves"].keys() == report.curves.keys()


def test_an_exact_algorithm_is_differed_from_and_never_divided_by() -> None:
    spec = spec_of_family("word_problem")
    report = report_of(spec, untrained(spec))
    difference = report.difference["group_table"]
    expected = report.over_all["cross_entropy"]["model"].value
    assert difference.value == pytest.approx(expected, rel=1e-5)
    assert difference.ci95 is not None
    assert "group_table" not in report.ratio


def rows_of(spec: EpisodeSpec, predictors: list[Any], compare_with: str) -> list[Row]:
    entries = entries_of(predictors)
    evaluation = Evaluation(spec, entries, compare_with, 50)
    suites = {"length": Suite(axis="length", settings={"20": Setting(), "40": LONGER})}
    return evaluate(evaluation, suites, [], Console(quiet=True))


LONGER = Setting(set={"num_context": 40})


def test_an_evaluation_has_losses_over_all_positions_ratios_and_differences() -> None:
    spec = spec_of_family("word_problem")
    rows = rows_of(spec, ["uniform", "group_table"], "group_table")
    found = {(r.predictor, r.setting, r.metric): r.value for r in rows if r.at_query}
    assert found["group_table", "40", "accuracy_all"] == 1
    difference = found["uniform", "40", "cross_entropy_all_difference_to_group_table"]
    assert difference == pytest.approx(math.log(6))
    assert not [metric for *_, metric in found if "ratio" in metric]
    suites = {"length": Suite(axis="length", settings={"20": Setting(), "40": LONGER})}
    (table,) = tables_of(rows, suites, "group_table")
    assert table.headings == ["length", "predictor", "accuracy", "cross_entropy - group_table"]
    rows = rows_of(spec, ["uniform", "group_table"], "uniform")
    (table,) = tables_of(rows, suites, "uniform")
    assert table.headings[-1] == "cross_entropy / uniform"
    assert table.title == "length: accuracy over all scored positions ± 95 %"


@pytest.mark.parametrize(
    ("data", "names"),
    [
        ("linear", ["learning_curve", "input_scale", "weight_scale"]),
        ("word_problem", ["learning_curve"]),
        ("text", ["learning_curve"]),
        ("recall", ["as_given"]),
    ],
)
def test_default_suites_are_those_that_episodes_can_take(data: str, names: list[str]) -> None:
    with initialize_config_dir(version_base="1.3", config_dir=str(CONFIGS)):
        config = compose("evaluate", [f"data={data}"])
    register_resolvers()
    plain: Any = {
        key: OmegaConf.to_container(config[key], resolve=True) for key in ("data", "suites")
    }
    suites = {name: Suite(**suite) for name, suite in plain["suites"].items()}
    spec = EpisodeSpec(**plain["data"])
    assert list(fitting_suites(spec, suites)) == names


@pytest.mark.parametrize(("family", "shared"), [("text", "text"), ("word_problem", "table")])
def test_what_all_episodes_share_is_no_argument_that_is_written(family: str, shared: str) -> None:
    spec = spec_of_family(family)
    evaluation = Evaluation(spec, entries_of(list(spec.function.beside)), "uniform", 20)
    evaluation.setting("", "", Setting())
    assert shared in create_reference(spec.function.beside[0], spec, {}).state_dict()
    assert len(json.dumps(evaluation.arguments)) < 400


def test_the_first_of_several_queries_of_recall_is_reported_apart() -> None:
    spec = spec_of_family("recall")
    model = zoo.create_model("gd_ssm", d_x=16, d_y=16)
    report = report_of(spec, model)
    references = report.as_dict()["references"]
    step = create_reference("gradient_descent", spec, {})
    found = losses(step, evaluation_episodes(spec, 60), scoring_of(spec))["accuracy"]
    stated = references["gradient_descent"]["test/accuracy_first_query"]["value"]
    assert stated == pytest.approx(found[:, 24].mean().item())
    assert "test/accuracy_first_query" in report.model_metrics()
    assert report_tables(report)[0].headings[3:5] == [
        "accuracy, first query",
        "accuracy, all queries",
    ]
    one = report_of(spec_of_family("recall", num_queries=1), model)
    assert "test/accuracy_first_query" not in one.model_metrics()


def test_the_table_of_a_report_gives_an_accuracy_its_interval() -> None:
    spec = spec_of_family("noisy_recall")
    (table,) = report_tables(report_of(spec, untrained(spec)))
    cells = [cell for row in table.rows for cell in row[1:3]]
    assert len(cells) == 2 * len(references_of(spec, {})) + 2
    assert not [cell for cell in cells if "heavy" in cell]


def test_a_solver_that_learns_from_labels_is_a_row_with_the_reason() -> None:
    rows = rows_of(spec_of_family("word_problem"), ["uniform", "ridge"], "uniform")
    notes = {row.predictor: row.note for row in rows if row.value is None}
    assert notes == {
        "ridge": "ridge learns from labels, and those of word_problem are hidden: uniform, "
        "group_table"
    }


def test_the_card_of_a_text_model_may_ask_for_as_many_episodes_as_any(tmp_path: Path) -> None:
    spec = spec_of_family("text", num_context=255)
    entry = Entry("m", "delta_net", None, type("C", (), {"data": spec.model_dump()})(), {})
    assert spec_of(None, 10_000, [entry]) == spec


def settings_of(family: str, **model: Any) -> ModelSettings:
    return ModelSettings(data=spec_of_family(family), model={"name": "mamba", **model})  # type: ignore[arg-type]


def test_models_read_the_inputs_alone_where_labels_are_hidden() -> None:
    for model in ({}, {"tokens": "interleaved"}, {"tokens": "inputs"}):
        assert settings_of("word_problem", **model).model.arguments["tokens"] == "inputs"
    with pytest.raises(ValueError, match="tokens must be inputs, as the labels of word_problem"):
        settings_of("word_problem", tokens="shifted")
    with pytest.raises(ValueError, match="gd_ssm learns from labels, and those of word_problem"):
        settings_of("word_problem", name="gd_ssm")
    with pytest.raises(ValueError, match="tokens=inputs never reads the labels of recall"):
        settings_of("recall", tokens="inputs")
    assert settings_of("recall", tokens="shifted").model.arguments["tokens"] == "shifted"


@pytest.fixture(autouse=True)
def no_figures(undrawn: None) -> None:
    """What is looked at are the numbers."""


def trained(tmp_path: Path, *overrides: str) -> tuple[dict[str, Any], Run]:
    """A run of a few steps."""
    config = config_of(
        "model=delta_net",
        "model.d_model=8",
        "model.num_layers=1",
        "trainer=cpu",
        "max_steps=4",
        "val_every=2",
        "trainer.log_every_n_steps=2",
        "batch_size=8",
        "eval_episodes=40",
        "checkpoint_tag=test",
        f"run_dir={tmp_path}",
        *overrides,
    )
    return train(config, tmp_path, Console(quiet=True), [])


@pytest.mark.parametrize("positions", ["all", "last"])
@pytest.mark.parametrize("seeds", [1, 2])
def test_training_logs_what_is_right_over_all_scored_positions(
    positions: str, seeds: int, tmp_path: Path
) -> None:
    data = ("data=parity", "data.num_context=12")
    _, run = trained(tmp_path, *data, f"positions={positions}", f"seeds={seeds}")
    logged = set(run.trainer.callback_metrics)
    place = "all" if positions == "all" else "query"
    accuracy = "val/accuracy_all" if positions == "all" else "val/accuracy"
    assert {f"val/cross_entropy_{place}", accuracy, "val/ratio_to_uniform"} <= logged
    assert {f"val/cross_entropy_{place}/{name}" for name in ("uniform", "group_table")} <= logged
    assert not [name for name in logged if "alignment" in name or "gradient" in name]
    assert not [name for name in logged if "calibration" in name]
    found = run.trainer.callback_metrics
    ratio = found[f"val/cross_entropy_{place}"] / math.log(2)
    assert found["val/ratio_to_uniform"].item() == pytest.approx(ratio.item(), rel=1e-4)
    directory = run.directory_of(0)
    card = read_card(directory / "checkpoint")
    assert card.model_args["tokens"] == card.token_layout == "inputs"
    assert set(card.reference_metrics) == {"uniform", "group_table"}
    assert {"test/cross_entropy_all_first_tenth", "test/difference_to_group_table"} <= set(
        card.metrics
    )
    entry = index_entry(card, card_bytes(card), "")
    assert (entry.metric, entry.family) == ("test/cross_entropy_all", "word_problem")
    assert "cross entropy over all scored positions" in card_page(card)
    (comparison,) = comparisons([card])
    assert comparison.reference == "uniform"
    assert "| / uniform |" in leaderboard([card])
    chart(comparison)
    if seeds == 1:
        again = measured_again(directory / "checkpoint", 40)
        assert again.metrics["test/cross_entropy_all"].value == pytest.approx(
            card.metrics["test/cross_entropy_all"].value, rel=1e-5
        )


def test_bits_accuracy_and_floors_of_recall_text_and_automata(tmp_path: Path) -> None:
    data = ("data=text", "data.num_context=30", "positions=all")
    metrics, run = trained(tmp_path / "text", *data)
    assert "val/bits_per_byte_all" in run.trainer.callback_metrics
    assert metrics["model"]["test/bits_per_byte_all"]["value"] == pytest.approx(8, rel=0.05)
    metrics, _ = trained(tmp_path / "automaton", "data=automaton", "data.num_context=30")
    assert 0.3 < metrics["floor/cross_entropy_all"] < math.log(3)
    metrics, run = trained(tmp_path / "recall", "data=recall")
    assert "val/accuracy" in run.trainer.callback_metrics
    assert metrics["references"]["dictionary"]["test/accuracy_query"]["value"] == 1
    assert "alignment/cosine" in metrics["model"]


def test_the_first_step_is_that_at_which_answers_are_right(tmp_path: Path) -> None:
    callback = TimeToSolution(metric="val/accuracy_all")
    module = SimpleNamespace()
    for step, accuracy in ((1, 0.5), (2, 0.98), (3, 0.995), (4, 1.0)):
        found = {"val/accuracy_all": torch.tensor(accuracy)}
        trainer = SimpleNamespace(callback_metrics=found, global_step=step)
        callback.on_validation_end(trainer, module)  # type: ignore[arg-type]
    assert callback.first_step == 3
    _, run = trained(tmp_path, "data=parity", "data.num_context=4", "positions=all")
    (watched,) = (
        c.metric
        for c in run.trainer.callbacks  # type: ignore[attr-defined]
        if isinstance(c, TimeToSolution)
    )
    assert watched == "val/accuracy_all"
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert "first_step_99_percent_right" in metrics
    assert "first_step_within_1_percent" not in metrics
    metrics["first_step_99_percent_right"] = 2
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    (trial,) = read_run(tmp_path).trials
    assert trial.numbers["first step with 99 % right"] == 2


def test_the_curves_of_long_sequences_fit_into_a_card() -> None:
    point = Summary(math.pi, 1e-9 / 3, 1 / 3, 1e-9 / 3)
    curve: list[Summary | None] = [point] * 4_000
    spec = spec_of_family("word_problem")
    report = replace(report_of(spec, untrained(spec)), curves={str(i): curve for i in range(5)})
    curves = measured_fields(report)["curves"]
    assert len(json.dumps(curves, indent=1)) < MAX_CARD_BYTES
    for found in curves.values():
        kept = [i for i, value in enumerate(found) if value is not None]
        assert len(found) == 4_000
        assert kept == [*range(0, 4_000, 14), 3_999]
    short = replace(report, curves={"model": curve[:300]})
    assert None not in measured_fields(short)["curves"]["model"]
