"""The study of tables: splits and scores, what is said of them, and what is trained."""

import json
import re
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from rich.console import Console

from datamodules import EpisodeSpec
from studies.claims import Claim
from studies.jobs import overrides_of
from studies.plan import Effort
from studies.reproduction import reproduce
from studies.runner import Runner
from studies.study import Places, Study
from studies.tabular import tables
from studies.tabular.cells import CELLS, CLASSES, LAST, VALUES, trainings
from studies.tabular.figures import FIGURES, VERDICT, behind, on_tables
from studies.tabular.scores import WIDTH, Scores
from studies.tabular.study import STUDY
from tests.conftest import MakeCheckpoint
from zoo.commands import train
from zoo.estimators import MismatchWarning
from zoo.files import CONFIGS
from zoo.metrics.errors import interval_over_seeds

FEW = Effort(seeds=(0,), num_episodes=20, fewer_settings=True)


@pytest.fixture
def configs() -> Iterator[None]:
    train.register_resolvers()
    with initialize_config_dir(version_base="1.3", config_dir=str(CONFIGS)):
        yield


@pytest.fixture
def runs(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> dict[str, list[Path]]:
    """Runs of both architectures on values, of which only the losses are looked at."""
    found = {}
    for cell in CELLS[VALUES]:
        run = tmp_path / cell.name / "seed_0"
        shutil.copytree(make_checkpoint("gd_ssm"), run / "checkpoint")
        model, ridge = ({"test/half_mse_all": {"value": v, "ci95": 0.01}} for v in (0.2, 0.1))
        no_loss = {"test/accuracy_all": {"value": 0.5, "ci95": 0.01}}
        text = json.dumps({"model": model, "references": {"ridge": ridge, "zero": no_loss}})
        (run / "metrics.json").write_text(text)
        found[cell.name] = [run]
    return found


def test_intervals_over_splits_are_wider_than_those_of_independent_numbers() -> None:
    values = [0.1, 0.3, 0.2, 0.4, 0.5, 0.2, 0.3, 0.1, 0.4, 0.2]
    mean, ci95 = interval_over_seeds(values)
    assert ci95 is not None
    # (1/10 + n_test / n_train) in place of 1/10; with 200 of 1,437 rows the test is the larger.
    for num_rows, num_test, factor in ((353, 89, 1 + 890 / 353), (200, 360, 19)):
        scores = Scores("digits", num_rows, num_test, 64, {}, {})
        found = scores.over_splits(values)
        assert found.value == mean
        assert found.ci95 == pytest.approx(ci95 * factor**0.5)
        assert scores.over_splits([0.5]).ci95 is None


def test_solvers_on_real_values_are_as_good_as_the_common_method_on_the_same_rows() -> None:
    few, full = tables.measured(["diabetes"], {"ridge": "ridge"}, 3)
    assert [(s.table, s.num_columns) for s in (few, full)] == [("diabetes", 10)] * 2
    assert (few.num_rows, full.num_rows) == (200, 353)
    assert few.num_test == full.num_test == 89
    for scores in (few, full):
        assert len({len(of_one) for of_one in scores.baselines.values()} | {3}) == 1
        assert scores.models["ridge"] == pytest.approx(scores.baselines["ridge"], abs=0.05)
    assert few.baselines["ridge"] != full.baselines["ridge"]
    assert full.best_baseline == "ridge"


def test_a_table_of_fewer_rows_than_a_context_is_measured_once() -> None:
    (scores,) = tables.measured(["iris"], {"solver": "logistic_regression"}, 2)
    assert (scores.num_rows, scores.num_test, scores.num_columns) == (120, 30, 4)
    for of_one in (*scores.baselines.values(), *scores.models.values()):
        assert len(of_one) == 2
        assert min(of_one) > 0.8


@pytest.mark.filterwarnings("error")
def test_common_methods_but_boosting_are_tuned_in_folds_of_what_they_fit() -> None:
    strengths = np.logspace(-3, 3, 13)
    neighbours = {"nearest neighbours": ("n_neighbors", [1, 3, 5, 10, 20])}
    for name, first in (
        ("iris", {"logistic regression": ("C", strengths)}),
        ("diabetes", {"ridge": ("alpha", strengths)}),
    ):
        x, y = tables.LOADERS[name](return_X_y=True)
        methods = tables.baselines(name)
        assert methods.keys() == {*first, *neighbours, "gradient boosting"}
        for method, (argument, values) in (first | neighbours).items():
            search = methods[method].fit(x[::2], y[::2])
            assert search.n_splits_ == 5
            assert search.best_index_ == search.cv_results_["mean_test_score"].argmax()
            tried = search.cv_results_[f"param_method__{argument}"].tolist()
            assert sorted(tried) == pytest.approx(values)


def test_pixels_are_centred_and_not_scaled_so_that_no_test_row_lies_far_out(
    make_checkpoint: MakeCheckpoint,
) -> None:
    path = make_checkpoint("delta_net", d_x=WIDTH, d_y=10, d_model=8, num_heads=2, output="logits")
    x, y = tables.LOADERS["digits"](return_X_y=True)
    train, test = slice(0, 200), slice(200, None)
    largest = {}
    for name in ("digits", "wine"):  # as any other table, columns would be brought to variance one
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", MismatchWarning)
            fitted = tables.learner(name, path).fit(x[train], y[train])
        *before, model = getattr(fitted, "named_steps", {"": fitted}).values()
        inputs = x[test]
        for step in before:
            inputs = step.transform(inputs)
        largest[name] = np.abs(model.scaling_(inputs)).max()
    assert largest["digits"] < 8 < 20 < largest["wine"]


def test_every_table_has_the_labels_that_its_figure_is_about() -> None:
    for name, load in tables.LOADERS.items():
        x, y = load(return_X_y=True)
        assert len(x) == len(y) >= 150
        assert (len(np.unique(y)) > 10) == (name == tables.OF_VALUES)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", tables.LOADERS)
def test_no_table_is_unlike_the_episodes_of_training_but_for_its_rows(
    name: str, make_checkpoint: MakeCheckpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "baselines", lambda name: {})
    values = name == tables.OF_VALUES
    path = untrained(make_checkpoint, VALUES if values else CLASSES)
    for scores in tables.measured([name], {"model": path}, 2):
        assert len(scores.models["model"]) == 2
        assert values or all(0 <= accuracy <= 1 for accuracy in scores.models["model"])


def test_what_else_is_unlike_training_ends_the_study(
    make_checkpoint: MakeCheckpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "baselines", lambda name: {})
    path = untrained(make_checkpoint, CLASSES, d_x=3)  # iris has four columns
    (scores,) = tables.measured(["iris"], {"model": path}, 1)
    assert len(scores.models["model"]) == 1
    x, y = tables.load_iris(return_X_y=True)
    monkeypatch.setitem(tables.LOADERS, "iris", lambda return_X_y: (x[:, :1].repeat(3, 1), y))
    with pytest.raises(MismatchWarning, match="eigenvalues of the inputs"):
        list(tables.measured(["iris"], {"model": path}, 1))


def untrained(make_checkpoint: MakeCheckpoint, experiment: str, d_x: int = WIDTH) -> Path:
    """A small model with a card that says it was trained as those of the study."""
    classes = experiment == CLASSES
    sizes = {"d_x": d_x, "d_y": 10 if classes else 1}
    more = {"output": "logits"} if classes else {}
    path = make_checkpoint("delta_net", **sizes, d_model=8, num_heads=2, **more)
    card = json.loads((path / "card.json").read_text())
    data = {"num_context": 200, "inputs": {"name": "padded"}, "function": {"name": experiment}}
    card["data"] = sizes | data
    (path / "card.json").write_text(json.dumps(card))
    return path


def test_only_more_rows_than_in_training_are_passed_over_in_silence() -> None:
    more = "delta_net.tabular: 353 examples, in training at most 200"
    assert re.match(tables.MORE_ROWS, more)
    assert not re.match(tables.MORE_ROWS, f"{more}; 21 inputs, in training 1 to 20")
    assert not re.match(tables.MORE_ROWS, "delta_net.tabular: 21 inputs, in training 1 to 20")


def test_models_stand_beside_the_best_common_method_and_are_said_to_be_behind(
    runs: dict[str, list[Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (cell.architecture for cell in CELLS[VALUES])
    common = {"ridge": [0.4, 0.5, 0.45], "nearest neighbours": [0.3, 0.3, 0.3]}
    models = {first: [0.1, 0.2, 0.16], second: [0.5, 0.48, 0.4]}
    made_up = [Scores("diabetes", n, 89, 64, common, models) for n in (200, 353)]
    monkeypatch.setattr(tables, "measured", lambda *given: iter(made_up))
    found = on_tables(VALUES, runs, FEW)
    claims = {claim.quantity: claim for claim in found.claims}
    assert {claim.verdict for claim in claims.values()} == {"ours"}
    for rows in (200, 353):
        beside = [claims[f"R2, diabetes, {rows} rows, {name}"] for name in models]
        assert [claim.reference for claim in beside] == ["ridge", "ridge"]
        assert [claim.also[VERDICT] for claim in beside] == ["behind", "not apart"]
        assert [claim.also["inputs"] for claim in beside] == ["20 components of 64"] * 2
        assert beside[0].difference is not None
        assert beside[0].difference.value == pytest.approx(-0.2967, abs=1e-3)
    common_one = claims["R2, diabetes, 200 rows, nearest neighbours"]
    assert (common_one.reference, dict(common_one.also)) == ("", {"inputs": "64", VERDICT: ""})
    assert len(found.claims) == len(claims)
    as_in_training = losses(claims)
    assert as_in_training[first] == as_in_training[second] == 0.2
    assert as_in_training["ridge"] == 0.1
    assert "zero" not in as_in_training
    figure, caption = found.figures["scores"]
    assert caption.endswith(behind(made_up))
    (ax,) = figure.axes
    assert [label.get_text() for label in ax.get_yticklabels()] == [*common, *models]


def test_a_sentence_counts_the_tables_on_which_each_model_loses() -> None:
    common = {"ridge": [0.4, 0.5, 0.45], "nearest neighbours": [0.3, 0.3, 0.3]}
    near = [0.38, 0.5, 0.45]  # lower, within the interval
    far = [0.1, 0.2, 0.15]
    ahead = [0.6, 0.7, 0.65]
    found = [
        Scores("small", 150, 30, 5, common, {"first": far, "second": ahead}),
        Scores("large", 200, 100, 5, common, {"first": near, "second": near}),
        Scores("large", 400, 100, 5, common, {"first": ahead, "second": far}),
    ]
    lower, interval = "has a lower mean than the best common method on", "(the interval of the"
    assert behind(found) == (
        f"With all training rows, first {lower} 1 of 2 tables, and is behind {interval} difference "
        f"leaves out zero) on 1; second {lower} 1 of 2 tables, and is behind {interval} difference "
        f"leaves out zero) on 1. With at most 200, first {lower} 2 of 2 tables, and is behind "
        f"{interval} difference leaves out zero) on 1; second {lower} 1 of 2 tables, and is behind "
        f"{interval} difference leaves out zero) on 0."
    )
    assert "on 1 of 1 table," in behind(found[:1])


def losses(claims: dict[str, Claim]) -> dict[str, float]:
    """The losses on episodes as in training, by predictor."""
    start = "0.5*MSE over all scored positions, episodes as in training, "
    return {
        quantity.removeprefix(start): claim.measured.value
        for quantity, claim in claims.items()
        if quantity.startswith(start)
    }


@pytest.mark.usefixtures("configs")
@pytest.mark.parametrize("effort", [STUDY.full, STUDY.quick], ids=["full", "quick"])
def test_episodes_grow_to_all_positions_in_half_of_the_steps(effort: Effort) -> None:
    for training in (t for experiment in CELLS for t in trainings(experiment, effort)):
        of_both = [(training.max_steps, overrides_of(training, effort))]
        if training.trial is not None:
            of_both.append((training.trial.max_steps, training.trial.overrides))
        assert (len(of_both) == 1) == effort.fewer_settings
        for steps, overrides in of_both:
            config = compose("train", list(overrides))
            spec = EpisodeSpec(**OmegaConf.to_container(config.data, resolve=True))  # type: ignore[arg-type]
            lengths = [spec.sizes(step)[1] for step in range(round(steps * effort.share))]
            assert lengths[0] < LAST == lengths[-1] == spec.num_context + 1
            assert 0.45 <= lengths.index(LAST) / len(lengths) <= 0.5


def test_both_figures_ship_what_they_train() -> None:
    names = {t.name for figure in FIGURES.values() for t in figure.trainings(STUDY.full)}
    assert STUDY.ships.keys() == names
    assert {shipped.name for shipped in STUDY.ships.values()} == {
        f"{cell.architecture}.{experiment}" for experiment in CELLS for cell in CELLS[experiment]
    }


def test_a_study_whose_package_is_missing_is_refused_before_anything_is_trained(
    tmp_path: Path,
) -> None:
    study = Study("x", "X", "", "nobody", FIGURES, needs={"no_such_package": "estimators"})
    places = Places(tmp_path / "x.md", tmp_path / "results.json")
    with pytest.raises(ValueError, match=r"study=x needs no_such_package: pip install 'icl-zoo\["):
        reproduce(
            *(study, ["a"], FEW, tmp_path / "runs", Runner()),
            lambda job: pytest.fail("trained"),
            *(places, Console(quiet=True)),
        )
    assert not (tmp_path / "runs").exists()
    STUDY.check()
