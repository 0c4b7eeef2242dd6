"""The parts of TensorBoard that are not curves: HParams, a layout of charts, the card."""

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams.api_pb2 import (
    DATA_TYPE_FLOAT64,
    DATA_TYPE_STRING,
    STATUS_FAILURE,
    STATUS_SUCCESS,
    Experiment,
    HParamInfo,
    MetricInfo,
    MetricName,
)
from tensorboard.plugins.hparams.plugin_data_pb2 import (
    HParamsPluginData,
    SessionEndInfo,
    SessionStartInfo,
)
from torch.utils.tensorboard import SummaryWriter

from zoo.hub.card import Card
from zoo.hub.pages import card_page
from zoo.metrics.text import loss_label
from zoo.training.base import EpisodeModule, NonFiniteError
from zoo.training.logger import TensorBoard
from zoo.training.private import add_summary
from zoo.training.settings import RunSettings

# TensorBoard takes the columns of its table from the first run that it reads, so every run names
# these, those that it has no value for as well. Each argument of its architecture is a column
# besides, which is seen where the first run has it; `arguments` is seen in any case.
HYPERPARAMETERS = {
    "architecture": str,
    "arguments": str,
    "num_steps": float,
    "num_layers": float,
    "d_model": float,
    "tokens": str,
    "num_parameters": float,
    "family": str,
    "inputs": str,
    "d_x": float,
    "d_y": float,
    "num_context": float,
    "noise": float,
    "positions": str,
    "lr": float,
    "weight_decay": float,
    "batch_size": float,
    "seed": float,
    "seeds": float,
}
# TensorBoard shows five hyperparameters and the first five metrics until others are chosen. It
# begins with the hyperparameters that are said to differ.
SHOWN_FIRST = ("architecture", "arguments", "lr", "num_parameters", "seed")
# Arguments of a model that the other columns have, or that follow from the episodes.
OF_OTHER_COLUMNS = ("d_x", "d_y", "output")
METRICS = {
    "test/half_mse_query": f"test {loss_label('half_mse')}",
    "test/ratio_to_gradient_descent": "model / gradient descent",
    "test/alignment/cosine": "cosine with gradient descent",
    "train/episodes": "episodes",
    "train/wall_time_s": "seconds",
    "train/steps": "steps",
    "test/cross_entropy_query": f"test {loss_label('cross_entropy')}",
    "test/accuracy_query": "test accuracy",
    "test/cross_entropy_all": f"test {loss_label('test/cross_entropy_all', at_place=True)}",
    "test/accuracy_all": f"test {loss_label('test/accuracy_all', at_place=True)}",
    "test/ratio_to_uniform": "model / uniform",
    "train/kept_lr": "kept of several learning rates",
}
# Chart titles and regular expressions of what they show. TensorBoard adds up the layouts of all
# runs, so that each has the charts that it has curves for.
LAYOUT = {
    "loss": {
        "models and algorithms, validation": [r"val/[a-z_]+_query$"],
        "models, training": [r"train/[a-z_]+_(query|all)$"],
        "model / one step of gradient descent": ["val/ratio_to_gradient_descent$"],
    },
    "agreement with gradient descent": {
        "cosine of the sensitivities": ["alignment/cosine$"],
        "differences": ["alignment/(prediction|model)_difference$"],
    },
    "weights": {
        "cosine with the construction": ["weights/cosine_"],
        "step sizes, trained and constructed": ["weights/(constructed_)?step_size"],
    },
}
# The same of runs on episodes whose labels are hidden.
LAYOUT_HIDDEN = {
    "loss": {
        "models and algorithms, all positions": [r"val/cross_entropy_(query|all)$"],
        "models, training": LAYOUT["loss"]["models, training"],
        "model / uniform": ["val/ratio_to_uniform$"],
    },
}
# What is added for models that are trained on the loss at all positions, and for classes.
LOSS_AT_ALL = {"models at all positions, validation": ["val/(half_mse|cross_entropy)_all$"]}
ACCURACY = {"accuracy": {"models, validation": ["val/accuracy(_all)?$"]}}


def writers(trainer: pl.Trainer, prefix: str = "") -> list[SummaryWriter]:
    """Where this process writes for TensorBoard: nowhere on all ranks but the first.

    Args:
        trainer: Whose loggers these are.
        prefix: Of a replica, which has a directory of its own; empty for all of a run.
    """
    if not trainer.is_global_zero:
        return []
    return [logger.writer(prefix) for logger in trainer.loggers if isinstance(logger, TensorBoard)]


def layout_of(module: EpisodeModule) -> dict[str, dict[str, list[str]]]:
    """The charts of a run: by category, titles and regular expressions of what they show."""
    layout = LAYOUT
    if module.scoring.labels_hidden:
        layout = LAYOUT_HIDDEN
    elif module.positions == "all":
        layout = {**LAYOUT, "loss": LAYOUT["loss"] | LOSS_AT_ALL}
    return layout | ACCURACY if module.loss == "cross_entropy" else layout


class Board(pl.Callback):
    """Enters a run in HParams when it starts, and closes the entry when it ends.

    It ends with success after the test, with failure at a loss or gradient that is not finite. A
    run that can be resumed stays open, its status unknown: TensorBoard keeps the first that it
    reads. For the same reason a run of several rates is entered at its end only, when it is known
    which is kept.

    Args:
        hyperparameters: By name: those in `HYPERPARAMETERS` with values of these types, and
            arguments of the architecture; the number of parameters is counted. Without `lr` the run
            has several.

    Raises:
        ValueError: If a value has another type than its column.
    """

    def __init__(self, hyperparameters: Mapping[str, str | float]) -> None:
        for name, kind in HYPERPARAMETERS.items():
            value = hyperparameters.get(name)
            if value is not None and (kind is str) != isinstance(value, str):
                raise ValueError(f"{name} must be a {kind.__name__}, got {value!r}")
        self.hyperparameters = dict(hyperparameters)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, EpisodeModule)
        values = {**self.hyperparameters, "num_parameters": _num_parameters(pl_module)}
        for writer in writers(trainer):
            writer.add_custom_scalars(
                {
                    category: {title: ["Multiline", tags] for title, tags in charts.items()}
                    for category, charts in layout_of(pl_module).items()
                }
            )
            _add(writer, metadata.EXPERIMENT_TAG, HParamsPluginData(experiment=_columns(values)))
            if "lr" in values:
                _add_start(writer, values)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        if isinstance(exception, NonFiniteError):
            assert isinstance(pl_module, EpisodeModule)
            self._end(trainer, STATUS_FAILURE, {"num_parameters": _num_parameters(pl_module)})

    def finish(
        self, trainer: pl.Trainer, metrics: Mapping[str, float], cards: Mapping[str, Card]
    ) -> None:
        """Writes the end of a run: numbers to every logger, cards to TensorBoard.

        The agreement on test episodes is a tag of its own, `test/alignment/...`: `alignment/...`
        has that on validation episodes, at the same step too.

        Args:
            trainer: Whose loggers are written to.
            metrics: By name.
            cards: Of the trained models, by the prefix of each; at least one.
        """
        first = next(iter(cards.values()))
        training = first.training
        values = {
            **{
                f"test/{name}" if name.startswith("alignment/") else name: value
                for name, value in metrics.items()
            },
            "train/steps": training.steps,
            "train/episodes": training.episodes,
            "train/wall_time_s": training.wall_time_s,
        }
        if "rates" in training.optimizer:
            values["train/kept_lr"] = training.optimizer["lr"]
        for logger in trainer.loggers:
            logger.log_metrics(values, step=trainer.global_step)
        for prefix, card in cards.items():
            for writer in writers(trainer, prefix):
                writer.add_text("card", card_page(card), trainer.global_step)
        known = {"num_parameters": first.num_parameters, "lr": training.optimizer["lr"]}
        self._end(trainer, STATUS_SUCCESS, known)
        for logger in trainer.loggers:
            logger.finalize("success")

    def _end(self, trainer: pl.Trainer, status: Any, known: Mapping[str, float]) -> None:
        """Closes the entry, with what is known only now if it was not begun."""
        for writer in writers(trainer):
            if "lr" not in self.hyperparameters:
                _add_start(writer, {**self.hyperparameters, **known})
            _add_end(writer, status)


def hyperparameters_of(settings: RunSettings) -> dict[str, str | float]:
    """The values that a run is told apart by: of `HYPERPARAMETERS` all but those that are counted.

    Of those, `lr` and `seed` are left out where there are several. Every other argument of the
    architecture has its name. `arguments` is a text of those that are not what the architecture has
    by default, such as `num_steps=2, precondition=True`.
    """
    model, spec, optim = settings.model, settings.data, settings.optim
    fields, arguments = type(model.config).model_fields, model.config.model_dump()
    own = {name: value for name, value in arguments.items() if name not in OF_OTHER_COLUMNS}
    changed = {name: value for name, value in own.items() if value != fields[name].default}
    of_the_run: dict[str, str | float] = {
        "architecture": model.name,
        "arguments": ", ".join(f"{name}={_shown(value)}" for name, value in changed.items()),
        "family": spec.function.name,
        "inputs": spec.inputs.name if spec.inputs is not None else "of the function",
        "d_x": spec.d_x,
        "d_y": spec.d_y,
        "num_context": spec.num_context,
        "noise": spec.noise,
        "positions": settings.positions,
        **({"lr": optim.rates[0][0]} if len(optim.rates) == 1 else {}),
        "weight_decay": optim.weight_decay,
        "batch_size": settings.batch_size,
        **({"seed": settings.seed} if settings.seeds == 1 else {}),
        "seeds": settings.seeds,
    }
    return {name: _shown(value) for name, value in own.items()} | of_the_run


def _shown(value: Any) -> str | float:
    """An argument of an architecture as HParams shows it: a number, or a text."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return value if is_number else str(value)


def _columns(values: Mapping[str, str | float]) -> Experiment:
    """Those that every run has, and those of these values."""
    types: dict[type, Any] = {str: DATA_TYPE_STRING, float: DATA_TYPE_FLOAT64}
    kinds = {name: str if isinstance(value, str) else float for name, value in values.items()}
    return Experiment(
        hparam_infos=[
            HParamInfo(name=name, type=types[kind], differs=name in SHOWN_FIRST)
            for name, kind in (HYPERPARAMETERS | kinds | HYPERPARAMETERS).items()
        ],
        metric_infos=[
            MetricInfo(name=MetricName(tag=tag), display_name=label)
            for tag, label in METRICS.items()
        ],
    )


def _num_parameters(module: EpisodeModule) -> int:
    return sum(parameter.numel() for parameter in module.new_model(0).parameters())


def _add_start(writer: SummaryWriter, values: Mapping[str, str | float]) -> None:
    start = SessionStartInfo()
    for name, value in values.items():
        if isinstance(value, str):
            start.hparams[name].string_value = value
        else:
            start.hparams[name].number_value = value
    _add(writer, metadata.SESSION_START_INFO_TAG, HParamsPluginData(session_start_info=start))


def _add_end(writer: SummaryWriter, status: Any) -> None:
    end = HParamsPluginData(session_end_info=SessionEndInfo(status=status))
    _add(writer, metadata.SESSION_END_INFO_TAG, end)


def _add(writer: SummaryWriter, tag: str, content: HParamsPluginData) -> None:
    value = Summary.Value(tag=tag, metadata=metadata.create_summary_metadata(content))
    add_summary(writer, Summary(value=[value]))
