"""Checkpoints and exact algorithms as estimators of scikit-learn."""

import json
import os
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from rich.console import Console

pytest.importorskip("sklearn")

from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_iris
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import zoo
from studies.tabular.cells import CELLS, CLASSES, SHIPS
from tests.conftest import MakeCheckpoint
from zoo.commands.train import train
from zoo.estimators import InContextClassifier, InContextRegressor, MismatchWarning
from zoo.estimators.conditions import conditions_of
from zoo.estimators.scaling import input_scaling, label_scaling
from zoo.files import CONFIGS
from zoo.hub.card import CheckpointError
from zoo.hub.directory import read_card
from zoo.hub.find import CHECKPOINTS

OUTSIDE = "ignore::zoo.estimators.MismatchWarning"
MESA = "online_learner.linear_noisy_mesa"  # ridge, learned: eight inputs, one label


def linear_rows(
    num_rows: int, num_columns: int, num_labels: int = 1, noise: float = 0.1, seed: int = 0
) -> tuple[Any, Any]:
    """Correlated inputs of any mean and scale, and labels that are linear in them."""
    generator = np.random.default_rng(seed)
    mixing = generator.normal(size=(num_columns, num_columns)) * generator.uniform(
        1, 50, num_columns
    )
    x = generator.normal(size=(num_rows, num_columns)) @ mixing + 100
    weights = np.linalg.solve(mixing, generator.normal(size=(num_columns, num_labels)))
    y = 1e3 * ((x - 100) @ weights + noise * generator.normal(size=(num_rows, num_labels))) - 5e4
    return x, y if num_labels > 1 else y[:, 0]


# The contract of scikit-learn.

# Why an estimator fails a check: that one has 200 rows, and the model saw at most 16 in training.
TOO_MANY = {"check_regressors_train": "wants R2 above 0.5 after 200 examples"}


def of_tables() -> list[Any]:
    """The models that the study of tables ships, as soon as it has."""
    shipped = set(zoo.list_checkpoints())
    return [
        (InContextClassifier if experiment == CLASSES else InContextRegressor)(
            SHIPS[cell.name].name, too_wide="project"
        )
        for experiment, cells in CELLS.items()
        for cell in cells
        if SHIPS[cell.name].name in shipped
    ]


@pytest.mark.filterwarnings(OUTSIDE)
@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        (InContextRegressor(), {}),
        (InContextClassifier(), {}),
        (InContextRegressor(MESA, too_wide="project"), {}),
        (InContextRegressor("gd_ssm_deep.linear_noisy", too_wide="project"), TOO_MANY),
        (InContextClassifier("gd_ssm.classification"), {}),
        *((estimator, {}) for estimator in of_tables()),
    ],
    ids=str,
)
def test_estimators_keep_the_contract_of_scikit_learn(
    estimator: Any, expected: dict[str, str]
) -> None:
    results = check_estimator(estimator, on_fail=None, on_skip=None)
    failed = {r["check_name"]: r["exception"] for r in results if r["status"] == "failed"}
    assert failed.keys() == expected.keys(), failed
    assert sum(r["status"] == "passed" for r in results) > 45


def test_the_default_regressor_is_ridge_with_a_penalty_chosen_in_folds() -> None:
    x, y = linear_rows(60, 5, noise=2.0)
    estimator = InContextRegressor().fit(x, y)
    z = StandardScaler().fit_transform(x)
    z = input_scaling(x, "whiten", 1.0)(x)
    grid = zoo.registry.solver_class("ridge").grid  # type: ignore[attr-defined]
    penalties = grid(zoo.solvers.solver.EpisodeFacts(5, 1, 60))["penalty"]

    def error(penalty: float) -> float:
        scaled = (y - y.mean()) / y.std()
        model, total = Ridge(alpha=penalty, fit_intercept=False), 0.0
        for fold in range(5):
            out = np.arange(60) % 5 == fold
            total += np.square(model.fit(z[~out], scaled[~out]).predict(z[out]) - scaled[out]).sum()
        return total

    best = min(penalties, key=error)
    assert estimator.arguments_ == {"penalty": pytest.approx(best)}
    expected = Ridge(alpha=best).fit(z, y).predict(input_scaling(x, "whiten", 1.0)(x[:7] + 3))
    assert estimator.predict(x[:7] + 3) == pytest.approx(expected)


def test_arguments_that_are_given_are_kept_and_wrong_ones_refused() -> None:
    x, y = linear_rows(30, 3)
    fitted = InContextRegressor("ridge", arguments={"penalty": 7.0}).fit(x, y)
    assert fitted.arguments_ == {"penalty": 7.0}
    with pytest.raises(ValueError, match=r"unknown argument of ridge 'penal'.*'penalty'"):
        InContextRegressor("ridge", arguments={"penal": 7.0}).fit(x, y)
    with pytest.raises(ValueError, match="arguments are those of a solver"):
        InContextRegressor(MESA, arguments={"penalty": 7.0}).fit(x, y)


def test_pipelines_searches_and_clones_take_it() -> None:
    x, y = linear_rows(60, 3)
    search = GridSearchCV(
        make_pipeline(StandardScaler(), InContextRegressor()),
        {
            "incontextregressor__predictor": ["zero", "least_squares"],
            "incontextregressor__scaling": ["whiten", "standard", None],
        },
        cv=3,
    ).fit(x, y)
    assert search.best_params_["incontextregressor__predictor"] == "least_squares"
    assert search.score(x, y) > 0.98
    model = zoo.load(MESA)
    copy = clone(InContextRegressor(model, scaling=None))
    assert isinstance(copy.predictor, type(model))
    assert copy.scaling is None


def test_a_table_of_pandas_is_taken_by_its_columns() -> None:
    pandas = pytest.importorskip("pandas")
    x, y = linear_rows(40, 3)
    table = pandas.DataFrame(x, columns=["age", "size", "mass"])
    estimator = InContextRegressor().fit(table, pandas.Series(y))
    assert estimator.feature_names_in_.tolist() == ["age", "size", "mass"]
    assert np.array_equal(estimator.predict(table), InContextRegressor().fit(x, y).predict(x))
    with pytest.raises(ValueError, match="feature names"):
        estimator.predict(table[["size", "age", "mass"]])


def test_columns_and_labels_that_hold_no_numbers_are_named() -> None:
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"area": [1.0, 2.0, 3.0], "town": ["A", "B", "A"], "year": [1, 2, 3]})
    y, numbers = pandas.Series([1.0, 2.0, 3.0]), table[["area", "year"]]
    for estimator, labels in ((InContextRegressor(), y), (InContextClassifier(), y > 1)):
        with pytest.raises(ValueError, match="columns that hold no numbers: town; OneHotEncoder"):
            estimator.fit(table, labels)
    dated = numbers.assign(day=pandas.to_datetime(["2026-01-01"] * 3))
    with pytest.raises(ValueError, match="columns that hold no numbers: day; OneHotEncoder"):
        InContextRegressor().fit(dated, y)
    with pytest.raises(ValueError, match="y holds no numbers; InContextClassifier"):
        InContextRegressor().fit(numbers, table["town"])
    with pytest.raises(ValueError, match="got 'houses.csv'; pandas.read_csv reads a file"):
        InContextRegressor().fit("houses.csv", y)
    with pytest.raises(ValueError, match="Input X contains NaN"):  # that of scikit-learn
        InContextRegressor().fit(numbers.astype({"year": "Int64"}).replace(2, None), y)


# Scaling.


def test_whitened_inputs_have_the_identity_as_their_second_moment_and_stay_close() -> None:
    x, _ = linear_rows(200, 4)
    z = input_scaling(x, "whiten", 0.25)(x)
    assert z.T @ z / 200 == pytest.approx(0.25 * np.eye(4), abs=1e-9)
    standard = (x - x.mean(0)) / x.std(0)
    assert all((z * standard).sum(0) > 0)
    assert input_scaling(x, "standard", 0.25)(x) == pytest.approx(0.5 * standard)


def test_columns_without_or_with_repeated_content_do_no_harm() -> None:
    x, y = linear_rows(200, 3)
    wide = np.column_stack([x, x[:, 0] + x[:, 1], np.full(200, 7.0)])
    for scaling in ("whiten", "standard"):
        estimator = InContextRegressor("least_squares", scaling=scaling)
        plain = estimator.fit(x, y).predict(x)
        assert estimator.fit(wide, y).predict(wide) == pytest.approx(plain, rel=1e-6)


def test_projection_keeps_the_leading_components() -> None:
    x, _ = linear_rows(300, 6)
    standard = (x - x.mean(0)) / x.std(0)
    left = np.linalg.svd(standard)[0][:, :2]
    for kind in ("whiten", "standard"):
        z = input_scaling(x, kind, 1.0, width=2)(x)  # type: ignore[arg-type]
        assert np.abs(np.diag(left.T @ z / np.linalg.norm(z, axis=0))) == pytest.approx(1)
    z = input_scaling(x, "whiten", 1.0, width=2)(x)
    assert z.T @ z / 300 == pytest.approx(np.eye(2))
    z = input_scaling(x, "standard", 0.25, width=2)(x)
    variances = np.square(np.linalg.svd(standard)[1][:2])
    assert z.T @ z / 300 == pytest.approx(0.5 * np.diag(variances / variances.sum()))
    assert not input_scaling(np.ones((9, 3)), "standard", 1.0, width=2)(x[:, :3]).any()


def test_scaled_labels_come_back() -> None:
    y = np.random.default_rng(0).normal(size=(20, 3)) * [1, 1e4, 0] + [0, 5, 9]
    scaling = label_scaling(y, 4.0)
    assert np.square(scaling(y)).mean(0) == pytest.approx([4, 4, 0])
    assert scaling.back(scaling(y)) == pytest.approx(y)


@pytest.mark.filterwarnings(OUTSIDE)
def test_a_model_sees_inputs_and_labels_of_the_variance_on_its_card(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x, y = linear_rows(100, 10, 10)
    seen = []
    model = zoo.load("gd_ssm.linear", dtype=torch.float64)  # x of 1/12, y of 10/12
    observe = type(model).observe

    def watched(self: Any, state: Any, x: Any, y: Any) -> Any:
        seen.append((x, y))
        return observe(self, state, x, y)

    monkeypatch.setattr(type(model), "observe", watched)
    InContextRegressor(model).fit(x, y)
    ((inputs, labels),) = seen
    assert inputs.square().mean((0, 1)).numpy() == pytest.approx(np.full(10, 1 / 12))
    assert labels.square().mean((0, 1)).numpy() == pytest.approx(np.full(10, 10 / 12))
    assert inputs.mean((0, 1)).numpy() == pytest.approx(np.zeros(10), abs=1e-9)
    InContextRegressor(model, scaling=None).fit(x, y)
    assert np.array_equal(seen[-1][0][0].numpy(), x)
    assert np.array_equal(seen[-1][1][0].numpy(), y)


def test_units_of_inputs_and_labels_do_not_matter() -> None:
    x, y = linear_rows(16, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # sixteen rows of eight columns are those of training
        estimator = InContextRegressor(MESA).fit(x, y)
    other = InContextRegressor(MESA).fit(x * 1e-3 + 5, y * 1e6 - 1)
    assert other.predict(x * 1e-3 + 5) == pytest.approx(estimator.predict(x) * 1e6 - 1)


def test_a_given_transformer_is_cloned_fitted_and_taken_as_it_is() -> None:
    x, y = linear_rows(100, 3)
    y = y + 300 * ((x[:, 0] - 100) / 50) ** 2
    given = make_pipeline(StandardScaler(), PolynomialFeatures(2))
    estimator = InContextRegressor("least_squares", scaling=given).fit(x, y)
    assert estimator.score(x, y) > 0.99 > InContextRegressor("least_squares").fit(x, y).score(x, y)
    assert not hasattr(given[0], "mean_")
    with pytest.raises(ValueError, match=r"unknown scaling 'whitened'.*'whiten'"):
        InContextRegressor(scaling="whitened").fit(x, y)


# Widths.


@pytest.mark.filterwarnings(OUTSIDE)
def test_narrower_inputs_are_filled_and_wider_ones_refused_or_projected() -> None:
    x, y = linear_rows(40, 5)
    assert InContextRegressor(MESA).fit(x, y).score(x, y) > 0.9
    x, y = linear_rows(40, 9)
    with pytest.raises(ValueError, match=r"takes at most 8 inputs, got 9.*too_wide='project'"):
        InContextRegressor(MESA).fit(x, y)
    projected = InContextRegressor(MESA, too_wide="project").fit(x, y)
    assert projected.scaling_.matrix.shape == (9, 8)
    with pytest.raises(ValueError, match="needs scaling 'whiten' or 'standard'"):
        InContextRegressor(MESA, too_wide="project", scaling=None).fit(x, y)
    with pytest.raises(ValueError, match=r"unknown too_wide 'cut'"):
        InContextRegressor(MESA, too_wide="cut").fit(x, y)  # type: ignore[arg-type]


@pytest.mark.filterwarnings(OUTSIDE)
def test_more_rows_than_a_model_has_positions_for_are_refused_by_its_name() -> None:
    x, y = linear_rows(66, 3)
    refusal = r"transformer.linear_noisy takes no context of 66 rows: .*max_context = 64"
    with pytest.raises(ValueError, match=refusal):
        InContextRegressor("transformer.linear_noisy").fit(x, y)
    estimator = InContextRegressor("transformer.linear_noisy").fit(x[:60], y[:60])
    with pytest.raises(ValueError, match=refusal):
        estimator.partial_fit(x[60:], y[60:])


@pytest.mark.filterwarnings(OUTSIDE)
@pytest.mark.parametrize("name", [MESA, "gd_ssm.linear"])
def test_labels_of_any_number_are_predicted_as_if_one_by_one(name: str) -> None:
    x, y = linear_rows(30, 4, num_labels=12)
    together = InContextRegressor(name).fit(x, y)
    assert together.predict(x).shape == (30, 12)
    if name == MESA:  # one label at a time
        for column in (0, 11):
            alone = InContextRegressor(name).fit(x, y[:, column]).predict(x)
            assert together.predict(x)[:, column] == pytest.approx(alone)
    else:  # ten at a time, and then two with zeros
        rest = InContextRegressor(name).fit(x, y[:, 10:]).predict(x)
        assert together.predict(x)[:, 10:] == pytest.approx(rest)


# What a card says.


def test_conditions_are_those_of_the_episodes_on_the_card() -> None:
    conditions = conditions_of(read_card(CHECKPOINTS / "gd_ssm.linear"), 10)
    assert conditions.num_context == 10
    assert conditions.input_variance == pytest.approx(1 / 12)
    assert conditions.label_variance == pytest.approx(10 / 12)
    assert conditions.num_inputs == conditions.num_labels == (10, 10)
    assert conditions.input_square.low < 1 / 12 < conditions.input_square.high < 0.12
    assert 0 <= conditions.eigenvalues.low < 1e-3 < 1 / 12 < conditions.eigenvalues.high < 0.6


def test_a_model_of_tables_of_any_width_takes_them_without_a_word() -> None:
    data = {"d_x": 6, "d_y": 1, "num_context": 200, "inputs": {"name": "padded"}}
    card = read_card(CHECKPOINTS / "gd_ssm.linear")
    card = card.model_copy(update={"data": data | {"function": {"name": "tabular"}}})
    assert conditions_of(card, 50).input_variance == pytest.approx(1)
    for num_columns in (1, 4, 6):
        x, y = linear_rows(60, num_columns)
        x, y = input_scaling(x, "whiten", 1.0)(x), label_scaling(y[:, None], 1.0)(y[:, None])
        found = conditions_of(card, 60).mismatches(torch.tensor(x), torch.tensor(y), classes=False)
        assert found == []


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda x, y: (np.tile(x, (2, 1)), np.tile(y, 2)), "32 examples, in training at most 16"),
        (lambda x, y: (x[:, :5], y), "5 inputs, in training 8"),
        (lambda x, y: (x * 100, y), r"mean square of the inputs .*e\+03, in training 0\."),
        (lambda x, y: (x, y * 1e3), r"mean square of the labels .*e\+06, in training \d"),
        (
            lambda x, y: (x.mean(1, keepdims=True) * 3 + x * 0.01, y),
            r"eigenvalues of the inputs .* to .*, in train",
        ),
    ],
    ids=["examples", "inputs", "scale", "labels", "eigenvalues"],
)
def test_data_unlike_those_of_training_are_warned_of_with_numbers_and_refused_if_asked(
    change: Any, text: str
) -> None:
    generator = np.random.default_rng(1)
    x = generator.normal(size=(16, 8))
    y = x @ generator.normal(size=8)
    estimator = InContextRegressor(MESA, scaling=None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        estimator.fit(x, y)  # as in training
    with pytest.warns(MismatchWarning, match=f"{MESA}: .*{text}"):
        estimator.fit(*change(x, y))
    with pytest.raises(ValueError, match=text):
        clone(estimator).set_params(on_mismatch="raise").fit(*change(x, y))


def test_columns_that_go_together_are_outside_unless_they_are_whitened() -> None:
    generator = np.random.default_rng(0)
    common = generator.normal(size=(16, 1))
    x = 3 * common + generator.normal(size=(16, 8)) * 0.01
    y = x @ generator.normal(size=8)
    with pytest.raises(ValueError, match=r"eigenvalues of the inputs .* to 8, in training"):
        InContextRegressor(MESA, scaling="standard", on_mismatch="raise").fit(x, y)
    InContextRegressor(MESA, scaling="whiten", on_mismatch="raise").fit(x, y)


def test_columns_that_follow_from_others_have_an_eigenvalue_of_zero() -> None:
    x, y = linear_rows(16, 7)
    pair = (x[:, :1] > 100).astype(float)  # town A or B, one-hot
    x = np.column_stack([x[:, 1:], pair, 1 - pair])
    with pytest.warns(MismatchWarning, match=r"eigenvalues of the inputs 0 to 1, in training 0\.0"):
        InContextRegressor(MESA).fit(x, y)


def test_warnings_name_the_line_of_the_user() -> None:
    x, y = linear_rows(40, 8)
    wild = InContextRegressor("gradient_descent", arguments={"step_size": 1e30, "num_steps": 1})
    wild.fit(x, y)
    stream = InContextRegressor(MESA).partial_fit(x[:16], y[:16])
    labels = y > y.mean()
    classes = InContextClassifier("gd_ssm.classification")
    for call in (
        lambda: InContextRegressor(MESA).fit(x, y),
        lambda: InContextRegressor(MESA).partial_fit(x, y),
        lambda: stream.partial_fit(x[16:], y[16:]),
        lambda: wild.predict(x),
        lambda: wild.score(x, y),
        lambda: make_pipeline(StandardScaler(), InContextRegressor(MESA)).fit(x, y),
        lambda: classes.fit(x[:, :3], labels),
        lambda: clone(classes).partial_fit(x[:, :3], labels, classes=[False, True]),
    ):
        with pytest.warns(MismatchWarning) as caught:
            call()
        assert {Path(warning.filename) for warning in caught} == {Path(__file__)}


def test_a_refused_fit_leaves_nothing_of_an_earlier_one() -> None:
    x, y = linear_rows(16, 8)
    estimator = InContextRegressor(MESA, on_mismatch="raise").fit(x, y)
    with pytest.raises(ValueError, match="examples"):
        estimator.fit(*linear_rows(17, 8))
    with pytest.raises(ValueError, match="not fitted"):
        estimator.predict(x)


def test_too_few_rows_to_whiten_are_said() -> None:
    x, y = linear_rows(9, 5)
    with pytest.warns(MismatchWarning, match="ridge: 9 rows to scale 5 columns by, at least 10"):
        InContextRegressor().fit(x, y)


def test_predictions_that_are_none_are_said() -> None:
    x, y = linear_rows(100, 3)
    far = InContextRegressor("gradient_descent", arguments={"step_size": 1e30, "num_steps": 1})
    with pytest.warns(MismatchWarning, match="a prediction of size"):
        far.fit(x, y).predict(x)


def test_models_of_sequences_and_of_other_labels_are_refused() -> None:
    x, y = linear_rows(30, 3)
    with pytest.raises(ValueError, match="gd_ssm.classification predicts classes"):
        InContextRegressor("gd_ssm.classification").fit(x, y)
    with pytest.raises(ValueError, match="ridge predicts values, .* such as logistic_regression"):
        InContextClassifier("ridge").fit(x, y > y.mean())
    with pytest.raises(ValueError, match="at most 4 classes, got 5"):
        InContextClassifier("gd_ssm.classification").fit(x, np.arange(30) % 5)
    model = zoo.load("gd_ssm.linear")
    model.card = model.card.model_copy(update={"data": {"function": {"name": "induction"}}})
    with pytest.raises(ValueError, match="trained on induction, not on pairs"):
        InContextRegressor(model).fit(x, y)


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ("rigde", ValueError, "unknown solver or checkpoint 'rigde'. Did you mean 'ridge'"),
        ("gd_ssm.lineer", ValueError, "gd_ssm.linear"),
        ("mesa_net", ValueError, "Known: mesa_net.linear, mesa_net.linear@1"),
        (3, TypeError, "predictor must be a name, a path or a zoo.Predictor, got int"),
    ],
)
def test_an_unknown_predictor_is_refused(given: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        InContextRegressor(given).fit(*linear_rows(30, 3))


# Streams.


@pytest.mark.filterwarnings(OUTSIDE)
@pytest.mark.parametrize("name", ["ridge", "gd_ssm_deep.linear_noisy", MESA])
def test_a_stream_is_the_context_that_its_rows_make_with_the_scaling_of_the_first(
    name: str,
) -> None:
    x, y = linear_rows(50, 4, noise=1.0)
    estimator = InContextRegressor(name, arguments={"penalty": 2.0} if name == "ridge" else None)
    stream = clone(estimator).partial_fit(x[:12], y[:12])
    scaling = stream.scaling_
    before = stream.state_
    stream.partial_fit(x[12:13], y[12:13]).partial_fit(x[13:], y[13:])
    assert stream.scaling_ is scaling
    assert stream.state_ is not before
    assert stream.num_examples_ == 50
    first = clone(estimator).fit(x[:12], y[:12])
    whole = clone(estimator).set_params(scaling=None)
    if name != "ridge":
        whole.set_params(predictor=zoo.load(name, dtype=torch.float64))
    whole.fit(first.scaling_(x), first.label_scaling_(y[:, None]))
    answers = first.label_scaling_.back(whole.predict(first.scaling_(x)))[:, 0]
    assert stream.predict(x) == pytest.approx(answers, rel=1e-6)


def test_a_stream_begins_with_two_rows_for_each_column_or_without_scaling() -> None:
    x, y = linear_rows(30, 4)
    with pytest.raises(ValueError, match="7 rows to scale 4 columns by, at least 8"):
        InContextRegressor().partial_fit(x[:7], y[:7])
    with pytest.raises(ValueError, match="labels in it are all equal"):
        InContextRegressor().partial_fit(x[:8], np.ones(8))
    InContextRegressor().partial_fit(x[:8], y[:8])
    stream = InContextRegressor("ridge", arguments={"penalty": 1e-9}, scaling=None)
    for row in range(30):
        stream.partial_fit(x[row : row + 1] - 100, y[row : row + 1] + 5e4)
    assert stream.score(x - 100, y + 5e4) > 0.98


def test_a_stream_warns_once_it_is_longer_than_contexts_of_training() -> None:
    x, y = linear_rows(20, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stream = InContextRegressor(MESA, on_mismatch="raise").partial_fit(x[:16], y[:16])
    with pytest.raises(ValueError, match="17 examples, in training at most 16"):
        stream.partial_fit(x[16:17], y[16:17])
    assert stream.num_examples_ == 16


def test_later_rows_of_a_stream_are_held_against_the_card_with_those_before() -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(16, 8))
    y = x @ generator.normal(size=8)
    stream = InContextRegressor(MESA, scaling=None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stream.partial_fit(x[:8], y[:8]).partial_fit(x[8:12], y[8:12])
    assert stream.input_square_ == pytest.approx(np.square(x[:12]).mean())
    assert stream.label_square_ == pytest.approx(np.square(y[:12]).mean())
    strict = clone(stream).set_params(on_mismatch="raise").partial_fit(x[:12], y[:12])
    for rows, labels, text in (
        (1e3 * x[12:], y[12:], r"mean square of the inputs .*e\+05, in training 0\."),
        (x[12:], 1e3 * y[12:], r"mean square of the labels .*e\+0[56], in training \d"),
    ):
        with pytest.raises(ValueError, match=text):
            strict.partial_fit(rows, labels)
    assert strict.num_examples_ == 12
    assert strict.input_square_ == pytest.approx(stream.input_square_)
    strict.partial_fit(x[12:], y[12:])  # refused rows are not counted
    with pytest.warns(MismatchWarning, match="mean square of the inputs"):
        stream.partial_fit(1e3 * x[12:14], y[12:14])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stream.partial_fit(1e3 * x[14:], y[14:])  # said once


def test_a_scaling_of_few_rows_makes_later_ones_larger_and_a_stream_says_so() -> None:
    x, y = linear_rows(10_016, 8)
    stream = InContextRegressor(MESA)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stream.partial_fit(x[:16], y[:16])
    assert stream.input_square_ == pytest.approx(1)
    with pytest.warns(MismatchWarning, match="mean square of the inputs 3.24, in tr"):
        stream.partial_fit(x[16:], y[16:])
    # (n + 1) / (n - d_x - 2) of normal rows, in the mean over the first n.
    found = []
    for start in range(0, 8_000, 40):
        scaling = input_scaling(x[start : start + 40], "whiten", 1.0)
        found.append(np.square(scaling(x[start + 40 : start + 2_040])).mean())
    assert np.mean(found) == pytest.approx(41 / 30, rel=0.02)


@pytest.mark.filterwarnings(OUTSIDE)
def test_a_saved_stream_is_held_against_what_it_was_before(tmp_path: Path) -> None:
    x, y = linear_rows(40, 8)
    stream = InContextRegressor(MESA).partial_fit(x[:16], y[:16]).partial_fit(x[16:], y[16:])
    stream.save(tmp_path / "fitted")
    loaded = InContextRegressor.load(tmp_path / "fitted")
    for name in ("num_first_", "num_examples_", "input_square_", "label_square_", "conditions_"):
        assert getattr(loaded, name) == getattr(stream, name)


# Classes.


def test_iris_is_classified_by_the_default_and_in_a_stream() -> None:
    x, y = load_iris(return_X_y=True)
    names = np.array(["setosa", "versicolor", "virginica"])[y]
    estimator = InContextClassifier().fit(x, names)
    assert estimator.score(x, names) > 0.95
    assert estimator.predict_proba(x).sum(1) == pytest.approx(np.ones(150))
    assert (estimator.classes_[estimator.predict_proba(x).argmax(1)] == estimator.predict(x)).all()
    order = np.random.default_rng(0).permutation(150)
    stream = InContextClassifier()
    with pytest.raises(ValueError, match="classes must be passed"):
        stream.partial_fit(x[order[:75]], names[order[:75]])
    stream.partial_fit(x[order[:75]], names[order[:75]], classes=np.unique(names))
    stream.partial_fit(x[order[75:]], names[order[75:]])
    assert stream.score(x, names) > 0.95
    with pytest.raises(ValueError, match=r"must be of the classes .*got \['rose'\]"):
        stream.partial_fit(x[:1], ["rose"])


def test_a_stream_of_classes_may_begin_without_some_of_them() -> None:
    x, y = load_iris(return_X_y=True)
    stream = InContextClassifier(scaling="standard")
    stream.partial_fit(x[:100], y[:100], classes=[0, 1, 2])
    assert stream.predict_proba(x)[:, 2].max() < 0.5
    stream.partial_fit(x[100:], y[100:])
    assert stream.score(x, y) > 0.9


@pytest.mark.filterwarnings(OUTSIDE)
def test_a_model_of_more_classes_never_answers_with_one_that_is_not_there() -> None:
    x, _ = linear_rows(40, 4)
    y = np.where(x[:, 0] > 100, 3, -2)
    estimator = InContextClassifier("gd_ssm.classification").fit(x, y)
    assert estimator.predict_proba(x).shape == (40, 2)
    assert estimator.score(x, y) > 0.9


# Files.


@pytest.mark.filterwarnings(OUTSIDE)
@pytest.mark.parametrize("name", ["ridge", "knn", "gd_ssm_deep.linear_noisy"])
def test_a_saved_regressor_predicts_and_goes_on_to_the_last_bit(name: str, tmp_path: Path) -> None:
    x, y = linear_rows(40, 4, num_labels=2)
    estimator = InContextRegressor(name).fit(x[:30], y[:30])
    estimator.save(tmp_path / "fitted.safetensors")
    loaded = InContextRegressor.load(tmp_path / "fitted.safetensors")
    assert loaded.get_params() == estimator.get_params()
    assert loaded.arguments_ == estimator.arguments_
    assert np.array_equal(loaded.predict(x), estimator.predict(x))
    ends = [part.partial_fit(x[30:], y[30:]).predict(x) for part in (loaded, estimator)]
    assert np.array_equal(*ends)


@pytest.mark.parametrize("classes", [["no", "yes"], [0, 1], [-1.0, 2.0], [False, True]])
def test_a_saved_classifier_has_its_classes(classes: list[Any], tmp_path: Path) -> None:
    x, y = linear_rows(40, 3)
    names = np.array(classes)[(y > y.mean()).astype(int)]
    estimator = InContextClassifier().fit(x, names)
    estimator.save(tmp_path / "fitted")
    loaded = InContextClassifier.load(tmp_path / "fitted")
    assert loaded.classes_.dtype == estimator.classes_.dtype
    assert np.array_equal(loaded.predict(x), estimator.predict(x))
    with pytest.raises(CheckpointError, match="is an InContextClassifier, not an InContextReg"):
        InContextRegressor.load(tmp_path / "fitted")


@pytest.mark.filterwarnings(OUTSIDE)
def test_a_file_names_no_place_and_no_other_weights(
    tmp_path: Path, make_checkpoint: MakeCheckpoint
) -> None:
    x, y = linear_rows(40, 3)
    directory = make_checkpoint()
    estimator = InContextRegressor(directory).fit(x, y)
    estimator.save(tmp_path / "fitted")
    assert str(directory).encode() not in (tmp_path / "fitted").read_bytes()
    with pytest.raises(ValueError, match="without a name: give it to load"):
        InContextRegressor.load(tmp_path / "fitted")
    loaded = InContextRegressor.load(tmp_path / "fitted", predictor=directory)
    assert np.array_equal(loaded.predict(x), estimator.predict(x))
    other = zoo.create_model("gd_ssm", d_x=3, d_y=3).double()
    with pytest.raises(CheckpointError, match="another predictor"):
        InContextRegressor.load(tmp_path / "fitted", predictor=other)
    objects = InContextRegressor("ridge", scaling=StandardScaler()).fit(x, y)
    with pytest.raises(ValueError, match="use pickle"):
        objects.save(tmp_path / "fitted")
    again = pickle.loads(pickle.dumps(objects))
    assert np.array_equal(again.predict(x), objects.predict(x))


def test_a_directory_and_nothing_are_no_files(tmp_path: Path) -> None:
    x, y = linear_rows(40, 3)
    fitted = InContextRegressor("ridge").fit(x, y)
    with pytest.raises(IsADirectoryError, match=f"^{tmp_path} is a directory, not a file"):
        fitted.save(tmp_path)
    assert not [*tmp_path.parent.glob(f"{tmp_path.name}.*")]
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileExistsError, match="/pipe is no file that can be replaced"):
        fitted.save(tmp_path / "pipe")
    assert (tmp_path / "pipe").is_fifo()
    with pytest.raises(CheckpointError, match=f"^{tmp_path} is a directory, not a file"):
        InContextRegressor.load(tmp_path)
    with pytest.raises(CheckpointError, match="/nothing.safetensors is not there"):
        InContextRegressor.load(tmp_path / "nothing.safetensors")


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    from safetensors import safe_open
    from safetensors.torch import save_file

    x, y = linear_rows(40, 3)
    path = tmp_path / "fitted"
    InContextRegressor().fit(x, y).save(path)
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        said = json.loads(file.metadata()["estimator"])
    changes: dict[str, Any] = {
        "predictor": "https://elsewhere/model",
        "scaling": "pickle",
        "schema_version": 99,
        "num_columns": 4,
        "fitted_arguments": {"penalty": -1.0},
        "kind": "os",
    }
    for name, value in changes.items():
        save_file(tensors, path, {"estimator": json.dumps(said | {name: value})})
        with pytest.raises(ValueError, match=r"fitted|penalty"):
            InContextRegressor.load(path)
    save_file({}, path, {"estimator": json.dumps(said)})
    with pytest.raises(CheckpointError, match="has no scaling"):
        InContextRegressor.load(path)


# From training to tables.

SHORT = [
    *("trainer=cpu", "max_steps=10", "val_every=10", "batch_size=4", "eval_episodes=20"),
    *("model.num_layers=1", "model.d_model=8", "model.num_heads=2", "model.d_head=4"),
    *("data.num_context=40", "~callbacks.figures", "~logger.csv", "~logger.tensorboard"),
]


def trained(experiment: str, directory: Path) -> Path:
    """The checkpoint of a short training of an experiment."""
    with initialize_config_dir(version_base="1.3", config_dir=str(CONFIGS)):
        config = compose("train", [f"experiment={experiment}", *SHORT, f"run_dir={directory}"])
    train(config, directory, Console(quiet=True), [])
    return directory / "checkpoint"


def test_what_the_experiments_on_tables_train_takes_tables_of_many_shapes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zoo.references.TUNE_EPISODES", 20)
    path = trained("tabular", tmp_path / "values")
    for num_columns in (1, 7, 20):
        x, y = linear_rows(40, num_columns)
        estimator = InContextRegressor(path, on_mismatch="raise").fit(x, y)
        assert np.isfinite(estimator.predict(x)).all()
    with pytest.raises(ValueError, match="at most 20 inputs, got 21"):
        estimator.fit(*linear_rows(40, 21))
    with pytest.raises(ValueError, match="43 examples, in training at most 40"):
        estimator.fit(*linear_rows(43, 20))
    path = trained("tabular_classification", tmp_path / "classes")
    for num_classes in (2, 3, 10):
        x, _ = linear_rows(40, 5)
        y = np.arange(40) % num_classes
        classifier = InContextClassifier(path, on_mismatch="raise").fit(x, y)
        assert classifier.predict_proba(x).shape == (40, num_classes)
    with pytest.raises(ValueError, match="at most 10 classes, got 11"):
        classifier.fit(x, np.arange(40) % 11)


# A standard data set.


@pytest.mark.filterwarnings(OUTSIDE)
def test_diabetes_is_as_good_as_with_ridge_where_raw_data_are_far_off() -> None:
    x, y = load_diabetes(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=0.2, random_state=0)
    ridge = make_pipeline(StandardScaler(), Ridge()).fit(x_train, y_train).score(x_test, y_test)
    for predictor in ("ridge", MESA):
        estimator = InContextRegressor(predictor, too_wide="project").fit(x_train, y_train)
        assert estimator.score(x_test, y_test) > ridge - 0.03
    raw = InContextRegressor("gd_ssm.linear_sparse", scaling=None).fit(x_train, y_train)
    assert raw.score(x_test, y_test) < -100
