"""What a run leaves in TensorBoard, read back by TensorBoard itself."""

import csv
import io
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from pydantic import PositiveFloat
from rich.console import Console
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams.backend_context import Context
from tensorboard.plugins.hparams.list_session_groups import Handler
from torch import Tensor, nn

from tests.test_configs import config_of
from tests.test_train import run
from zoo import registry
from zoo.commands.train import train
from zoo.hub.directory import read_card
from zoo.hub.pages import card_page, number
from zoo.predictor import Predictor
from zoo.registry import PredictorConfig
from zoo.training.base import NonFiniteError
from zoo.training.callbacks import Board
from zoo.training.callbacks.board import HYPERPARAMETERS, METRICS
from zoo.training.logger import TensorBoard

RUNS = {
    "gd_ssm": ["callbacks.figures.every_n_steps=40", "seed=7"],
    "two_steps": ["model.num_steps=2", "~callbacks.figures"],
    "linear_transformer": ["model=linear_transformer", "~callbacks.figures"],
    "diverged": ["data.inputs.r=1e30", "~callbacks.figures"],
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs of 60 steps and one that fails, as `RUNS` has them."""
    directory = tmp_path_factory.mktemp("runs")
    for name, overrides in RUNS.items():
        config = config_of(
            "trainer=cpu",
            "data.d_x=4",
            "data.num_context=5",
            "batch_size=16",
            "eval_episodes=200",
            "max_steps=60",
            "val_every=20",
            "trainer.log_every_n_steps=20",
            "checkpoint_tag=test",
            f"run_dir={directory / name}",
            *overrides,
        )
        if name == "diverged":
            with pytest.raises(NonFiniteError):
                train(config, directory / name, Console(quiet=True), [])
        else:
            train(config, directory / name, Console(quiet=True), [])
    return directory


def events_of(run: Path) -> EventAccumulator:
    events = EventAccumulator(str(run / "tensorboard"), {"images": 0, "scalars": 0, "tensors": 0})
    events.Reload()
    return events


def steps(events: EventAccumulator, tag: str) -> list[int]:
    return [event.step for event in events.Scalars(tag)]


def last(events: EventAccumulator, tag: str) -> float:
    return float(events.Scalars(tag)[-1].value)


def algorithms(run: Path) -> dict[str, float]:
    """The validation loss of each algorithm that is drawn beside a run."""
    found = {}
    for directory in (run / "tensorboard" / "algorithms").iterdir():
        events = EventAccumulator(str(directory)).Reload()
        found[directory.name.partition("=")[0]] = last(events, "val/half_mse_query")
    return found


class Table:
    """HParams as its plugin serves it: the columns, and rows in the order asked for."""

    def __init__(self, directory: Path) -> None:
        multiplexer = EventMultiplexer()
        multiplexer.AddRunsFromDirectory(str(directory))
        multiplexer.Reload()
        provider = MultiplexerDataProvider(multiplexer, str(directory))
        self.backend = Context(TBContext(data_provider=provider, logdir=str(directory)))

    def columns(self) -> Any:
        ctx = RequestContext()
        return self.backend.experiment_from_metadata(
            ctx, "", True, self.backend.hparams_metadata(ctx, ""), None
        )

    def rows(
        self, metric: str, *more: str
    ) -> list[tuple[str, Any, dict[str, Any], dict[str, float]]]:
        """(run, status, hyperparameters, metrics), by a metric, with more hyperparameters."""
        column = api_pb2.ColParams(
            metric=api_pb2.MetricName(tag=metric),
            order=api_pb2.ORDER_ASC,
            missing_values_first=False,
        )
        names = [api_pb2.ColParams(hparam=name) for name in (*HYPERPARAMETERS, *more)]
        request = api_pb2.ListSessionGroupsRequest(
            allowed_statuses=[
                api_pb2.STATUS_SUCCESS,
                api_pb2.STATUS_RUNNING,
                api_pb2.STATUS_UNKNOWN,
                api_pb2.STATUS_FAILURE,
            ],
            col_params=[column, *names],
            slice_size=100,
        )
        found = []
        for group in Handler(RequestContext(), self.backend, "", request).run().session_groups:
            (session,) = group.sessions
            values = {
                name: value.string_value or value.number_value
                for name, value in group.hparams.items()
            }
            metrics = {value.name.tag: value.value for value in session.metric_values}
            found.append((session.name.split("/")[0], session.status, values, metrics))
        return found


def test_scalars_are_in_four_groups_and_those_of_the_end(runs: Path) -> None:
    tags = events_of(runs / "gd_ssm").Tags()["scalars"]
    assert {tag.split("/")[0] for tag in tags} == {"train", "val", "alignment", "weights", "test"}
    groups = {f"train/learning_rate/{group}" for group in ("decay", "no_decay", "ssm")}
    assert groups | {"train/half_mse_query", "val/half_mse_query", "alignment/cosine"} <= set(tags)


def test_weights_and_algorithms_are_measured_at_every_validation(runs: Path) -> None:
    events = events_of(runs / "gd_ssm")
    expected = steps(events, "val/half_mse_query")
    assert expected == [20, 40, 60]
    assert steps(events, "train/half_mse_query") == expected
    assert steps(events, "train/learning_rate/decay") == expected
    assert steps(events, "alignment/cosine") == expected
    assert steps(events, "test/alignment/cosine") == [60]
    for tag in ("weights/cosine_C", "weights/step_size_C_1"):
        assert steps(events, tag) == [*expected, 60]  # and once more at the end
    learned = [event.value for event in events.Scalars("weights/step_size_C_1")]
    assert len(set(learned[:3])) == 3
    with (runs / "gd_ssm" / "csv" / "version_0" / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["val/half_mse_query/least_squares"]]
    assert [int(row["step"]) for row in rows] == expected
    ratio = last(events, "val/half_mse_query") / algorithms(runs / "two_steps")["gradient_descent"]
    assert ratio == pytest.approx(last(events, "val/ratio_to_gradient_descent"), rel=1e-5)


def test_a_model_of_two_steps_is_beside_two_steps_of_gradient_descent(runs: Path) -> None:
    found = algorithms(runs / "two_steps")
    one, two, best = (
        found[name] for name in ("gradient_descent", "gradient_descent_2", "best_schedule_2")
    )
    assert best < two < one < found["zero"]


def test_an_algorithm_is_a_run_of_its_own_with_a_line_over_all_steps(runs: Path) -> None:
    found = algorithms(runs / "gd_ssm")
    assert found.keys() == {"gradient_descent", "least_squares", "zero"}
    for directory in (runs / "gd_ssm" / "tensorboard" / "algorithms").iterdir():
        events = EventAccumulator(str(directory)).Reload()
        assert events.Tags()["scalars"] == ["val/half_mse_query"]  # as the model's
        assert steps(events, "val/half_mse_query") == [0, 60]
        name, _, error = directory.name.partition("=")
        assert float(error) == pytest.approx(found[name], rel=1e-3, abs=1e-6)


def test_runs_of_a_multirun_draw_the_algorithms_of_the_same_episodes_once(tmp_path: Path) -> None:
    common = ("max_steps=2", "val_every=1", "eval_episodes=50", "data.d_x=3", "data.num_context=4")
    sweep = ("-m", "seed=0,1", "data.noise=0,0.5", f"hydra.sweep.dir={tmp_path}")
    run(*sweep, *common, "trainer=cpu", "callbacks.figures=null")
    names = [path.name.partition("=")[0] for path in (tmp_path / "algorithms").iterdir()]
    # Noise makes no difference to zero, and nothing is fitted to it where there is none.
    assert sorted(names) == [*2 * ["gradient_descent"], *2 * ["least_squares"], "ridge", "zero"]
    assert not list(tmp_path.glob("*/tensorboard/algorithms"))


def test_figures_show_how_learning_curve_and_weights_develop(runs: Path) -> None:
    events = events_of(runs / "gd_ssm")
    found = {tag: [image.step for image in events.Images(tag)] for tag in events.Tags()["images"]}
    assert found == {
        "val/learning_curve": [20, 40],
        "weights/beside_construction": [20, 40, 60],
        "test/learning_curve": [60],
    }
    first, *_, final = events.Images("weights/beside_construction")
    images = [Image.open(io.BytesIO(image.encoded_image_string)) for image in (first, final)]
    assert images[0].size == images[1].size
    assert images[0].tobytes() != images[1].tobytes()


def test_the_card_is_there_to_be_read(runs: Path) -> None:
    (event,) = events_of(runs / "gd_ssm").Tensors("card/text_summary")
    (text,) = event.tensor_proto.string_val
    card = read_card(runs / "gd_ssm" / "checkpoint")
    assert text.decode() == card_page(card)
    error = "test/half_mse_query"
    assert number(error, card.metrics[error]) in text.decode()


def short_run(directory: Path, *overrides: str) -> Path:
    """A run of two steps."""
    common = ("trainer=cpu", "data.num_context=4", "max_steps=2", "val_every=2", "eval_episodes=50")
    own = ("checkpoint_tag=test", f"run_dir={directory}", "~callbacks.figures", *overrides)
    train(config_of(*common, *own), directory, Console(quiet=True), [])
    return directory


def shown_in(run: Path, layout_of: Path) -> dict[str, set[str]]:
    """The tags of a run by the charts of a layout that show them."""
    tags = events_of(run).Tags()["scalars"]
    (event,) = events_of(layout_of).Tensors("custom_scalars__config__")
    layout = Layout.FromString(event.tensor_proto.string_val[0])
    return {
        chart.title: {tag for tag in tags for p in chart.multiline.tag if re.match(p, tag)}
        for category in layout.category
        for chart in category.chart
    }


def test_the_layout_has_model_and_algorithms_on_one_chart(runs: Path) -> None:
    shown = shown_in(runs / "gd_ssm", runs / "two_steps")
    assert shown["models and algorithms, validation"] == {"val/half_mse_query"}
    assert shown["models, training"] == {"train/half_mse_query"}
    assert "weights/constructed_step_size" in shown["step sizes, trained and constructed"]
    assert all(shown.values())


@pytest.mark.parametrize(
    ("episodes", "charts"),
    [
        ("linear", {"models at all positions, validation": {"val/half_mse_all"}}),
        (
            "classification",
            {
                "models at all positions, validation": {"val/cross_entropy_all"},
                "models, validation": {"val/accuracy", "val/accuracy_all"},
            },
        ),
        (
            "parity",
            {
                "models and algorithms, all positions": {
                    "val/cross_entropy_query",
                    "val/cross_entropy_all",
                },
                "models, validation": {"val/accuracy", "val/accuracy_all"},
            },
        ),
    ],
)
def test_the_layout_has_losses_at_all_positions_and_the_accuracy_where_there_are_such(
    tmp_path: Path, episodes: str, charts: dict[str, set[str]]
) -> None:
    model = ("model=delta_net", "model.tokens=inputs") if episodes == "parity" else ("model=s5",)
    directory = short_run(tmp_path / "run", f"data={episodes}", "positions=all", *model)
    shown = shown_in(directory, directory)
    assert charts.items() <= shown.items()


def test_hparams_sorts_architectures_by_test_error(runs: Path) -> None:
    rows = Table(runs).rows("test/half_mse_query")
    *finished, (name, status, _, metrics) = rows
    assert (name, status) == ("diverged", api_pb2.STATUS_FAILURE)
    assert "test/half_mse_query" not in metrics
    errors = [metrics["test/half_mse_query"] for *_, metrics in finished]
    assert errors == sorted(errors)
    assert {name for name, *_ in finished} == RUNS.keys() - {"diverged"}
    for name, status, values, metrics in finished:
        assert status == api_pb2.STATUS_SUCCESS
        card = read_card(runs / name / "checkpoint")
        assert values["architecture"] == card.architecture
        assert values["num_parameters"] == card.num_parameters
        assert (values["family"], values["d_x"], values["num_context"]) == ("linear", 4, 5)
        assert (values["seed"], values["seeds"]) == (RUNS[name].count("seed=7") * 7, 1)
        assert metrics["train/steps"] == 60
        assert metrics["train/episodes"] == 60 * 16
        assert metrics["train/wall_time_s"] > 0
        for metric in ("half_mse_query", "ratio_to_gradient_descent"):
            expected = card.metrics[f"test/{metric}"].value
            assert metrics[f"test/{metric}"] == pytest.approx(expected)
        cosine = card.metrics["alignment/cosine"].value
        assert metrics["test/alignment/cosine"] == pytest.approx(cosine)


def test_every_run_brings_the_same_columns(runs: Path) -> None:
    for directory in (runs, *(runs / name for name in RUNS)):
        columns = Table(directory).columns()
        assert HYPERPARAMETERS.keys() <= {info.name for info in columns.hparam_infos}
        assert [info.name.tag for info in columns.metric_infos] == list(METRICS)


def test_hparams_shows_rate_seed_and_arguments_at_once(runs: Path) -> None:
    first = [info.name for info in Table(runs).columns().hparam_infos if info.differs]
    assert len(first) == 5  # as many as TensorBoard shows
    assert {"lr", "seed", "arguments"} <= set(first)
    arguments = {name: values["arguments"] for name, _, values, _ in Table(runs).rows("")}
    assert arguments["two_steps"] == "num_steps=2"
    assert not arguments["gd_ssm"]


@pytest.mark.parametrize("diverges", [False, True])
def test_several_seeds_and_rates_are_a_row_with_the_rate_that_was_kept(
    tmp_path: Path, diverges: bool
) -> None:
    overrides = ("data.d_x=3", "seeds=2", "optim.lr=[0.00001,0.01]")
    if diverges:
        with pytest.raises(NonFiniteError):
            short_run(tmp_path / "run", "data.inputs.r=1e30", *overrides)
    else:
        short_run(tmp_path / "run", *overrides)
    ((_, status, values, metrics),) = Table(tmp_path).rows("")
    assert status == (api_pb2.STATUS_FAILURE if diverges else api_pb2.STATUS_SUCCESS)
    assert (values["seeds"], "seed" in values) == (2, False)
    assert values["num_parameters"] > 0
    if diverges:
        assert "lr" not in values
    else:
        assert values["lr"] == pytest.approx(metrics["train/kept_lr"])
        assert values["lr"] in (0.00001, 0.01)


class BendConfig(PredictorConfig):
    """Arguments of `bend`."""

    gain: PositiveFloat = 0.5
    kind: str = "soft"


def test_a_newly_registered_architecture_has_its_arguments_in_hparams(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Bend(Predictor):
        def __init__(self, config: BendConfig) -> None:
            super().__init__(config.d_x, config.d_y)
            self.weight = nn.Parameter(config.gain * torch.ones(config.d_y, config.d_x))

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x @ self.weight.mT

    monkeypatch.setitem(registry._models.entries, "bend", (BendConfig, Bend))
    settings = config_of(
        *("trainer=cpu", "data.d_x=4", "max_steps=2", "val_every=2", "eval_episodes=50"),
        *("checkpoint_tag=test", f"run_dir={tmp_path / 'bend'}", "~callbacks.figures"),
    )
    settings.model = {"name": "bend", "gain": 0.25, "kind": "hard"}
    train(settings, tmp_path / "bend", Console(quiet=True), [])
    table = Table(tmp_path)
    assert {"gain", "kind"} <= {info.name for info in table.columns().hparam_infos}
    ((_, _, values, _),) = table.rows("", "gain", "kind")
    assert (values["gain"], values["kind"]) == (0.25, "hard")
    # Beside older runs, whose columns TensorBoard takes:
    (tmp_path / "bend").rename(runs / "zz_bend")
    try:
        (values,) = (v for name, _, v, _ in Table(runs).rows("") if name == "zz_bend")
    finally:
        (runs / "zz_bend").rename(tmp_path / "bend")
    assert values["arguments"] == "gain=0.25, kind=hard"


def test_a_hyperparameter_of_another_type_than_its_column_is_refused() -> None:
    with pytest.raises(ValueError, match="seed must be a float, got 'one'"):
        Board({"architecture": "s5", "seed": "one"})


def test_an_end_in_the_midst_of_closing_is_no_error_of_its_own(tmp_path: Path) -> None:
    logger = TensorBoard(str(tmp_path))
    logger.log_metrics({"train/loss": 1.0}, 1)
    logger.experiment._get_file_writer().event_writer.close()
    logger.finalize("failed")
    with pytest.raises(OSError, match="Writer is closed"):
        logger.finalize("success")
