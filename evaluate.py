"""Measures trained models and exact algorithms side by side: tables, figures, TensorBoard runs."""

import csv
import glob
import io
import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import hydra
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from omegaconf import DictConfig, OmegaConf
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import zoo
from datamodules import EpisodeSpec, create_sampler
from datamodules.corruption import Distractors, Outliers
from datamodules.datamodule import EVAL_SEED, generators_of_test
from datamodules.episodes import Episodes
from datamodules.stream import Generators
from datamodules.suites import Setting, Suite
from references import TUNE_EPISODES, arguments_for, create_reference
from zoo.analysis.compare import Comparison
from zoo.analysis.construction import interpolated, is_one_step
from zoo.analysis.figures import learning_curve_figure, sweep_figure
from zoo.analysis.imitation import (
    Likeness,
    behaviour,
    best_matching,
    likeness,
    mean_likeness,
)
from zoo.analysis.sweeps import (
    NOT_MEASURABLE,
    Row,
    curve_table,
    measure,
    not_measured,
    query_table,
    summary_of,
)
from zoo.hub.card import Card, one_line
from zoo.hub.io import CARD, read_card
from zoo.metrics.errors import NUM_APART, Summary
from zoo.metrics.text import in_cell, number_text, optional, share_text
from zoo.predictor import Predictor
from zoo.registry import explain, solver_arguments, unknown
from zoo.solvers.moment import GradientDescent
from zoo.terminal import StoppedBySignal, outlive_readers, raise_on_signals
from zoo.training.overrides import typed_path
from zoo.training.run import refuse_links, write_figure, write_json, write_text

CHECKPOINTS = Path(__file__).parent / "checkpoints"
# Steps of gradient descent among which the one nearest to a model is sought.
MATCHED_STEPS = range(1, 9)
IMITATION = "imitation"
# In the episodes that a card asks for, which may come from anybody; solvers are fitted on some too.
MAX_NUMBERS = 2 * 10**8
FitOn = Literal["setting", "base"]


class EvaluateSettings(BaseModel):
    """The settings in `configs/evaluate.yaml`, where each is explained, as plain data."""

    model_config = ConfigDict(extra="forbid", strict=True)

    predictors: list[str | dict[str, Any]] = Field(min_length=1)
    compare_with: str | dict[str, Any] | None
    imitates: list[str | dict[str, Any]] | None
    device: str
    fit_on: FitOn
    num_episodes: int = Field(ge=2)
    output: str
    suites: dict[str, Suite] = Field(min_length=1)
    data: dict[str, Any] | None = None


class Entry(NamedTuple):
    """Something to be measured.

    Attributes:
        label: Its name in every table.
        name: Registered name of the solver, or of the architecture.
        model: The trained model, None for a solver.
        card: Its card.
        arguments: What the solver is told.
        place: Where the checkpoint is.
    """

    label: str
    name: str
    model: Predictor | None
    card: Card | None
    arguments: dict[str, Any]
    place: str = ""


def entries_of(given: list[str | dict[str, Any]], device: str = "cpu") -> list[Entry]:
    """What names, paths, patterns and arguments stand for.

    Raises:
        ValueError: If one of them stands for nothing.
    """
    entries = [entry for item in given for entry in _entries(item, device)]
    entries = list({(entry.label, entry.place): entry for entry in entries}.values())
    labels = [entry.label for entry in entries]
    return [
        # Runs of the same name are told apart by where they are.
        entry._replace(label=f"{entry.label} {entry.place}")
        if labels.count(entry.label) > 1
        else entry
        for entry in entries
    ]


def solvers_of(given: list[str | dict[str, Any]]) -> list[Entry]:
    """What names of solvers, and names with arguments, stand for.

    Raises:
        ValueError: If one of them is no solver.
    """
    told = [dict(item) if isinstance(item, dict) else {"name": item} for item in given]
    return [_solver(arguments.pop("name", None), arguments) for arguments in told]


def with_reference(entries: list[Entry], given: str | dict[str, Any]) -> tuple[list[Entry], str]:
    """The entries with one that others are compared with, and the label of that.

    Raises:
        ValueError: If it stands for nothing or for several predictors.
    """
    labels = [entry.label for entry in entries]
    if isinstance(given, str) and given in labels:
        return entries, given
    reference, *others = entries_of([given])
    if others:
        raise ValueError(f"compare_with must be one predictor, {given!r} are several")
    if reference.label in labels:
        return entries, reference.label
    return [*entries, reference], reference.label


def _entries(item: str | dict[str, Any], device: str) -> list[Entry]:
    if isinstance(item, dict) or item in zoo.list_solvers():
        return solvers_of([item])
    return [_checkpoint(directory, device) for directory in _directories(item)]


def _solver(name: Any, arguments: dict[str, Any]) -> Entry:
    if name is None:
        raise ValueError(f"say which solver, as in {{name: ridge}}, got {arguments}")
    if name not in zoo.list_solvers():
        raise ValueError(unknown("solver", str(name), zoo.list_solvers()))
    for argument in arguments:
        if argument not in solver_arguments(name):
            known = [a for a in solver_arguments(name) if a not in ("d_x", "d_y")]
            raise ValueError(unknown(f"argument of {name}", argument, known))
    told = ", ".join(f"{key}={value}" for key, value in arguments.items())
    return Entry(f"{name}({told})" if told else name, name, None, None, arguments)


def spec_of(settings: EvaluateSettings, entries: list[Entry]) -> EpisodeSpec:
    """The episodes to start from: those given, else what the checkpoints were trained on.

    Without either these are the paper's, linear regression with d = N = 10.

    Raises:
        ValueError: If the checkpoints do not agree, or ask for more than can be drawn.
    """
    # A curriculum is a matter of training; episodes here have their final sizes.
    if settings.data is not None:
        return EpisodeSpec(**settings.data | {"curriculum": None})
    specs = [
        EpisodeSpec(**entry.card.data | {"curriculum": None})
        for entry in entries
        if entry.card is not None
    ]
    if not specs:
        return EpisodeSpec()
    if any(spec != specs[0] for spec in specs):
        raise ValueError(
            "the checkpoints were trained on different episodes: choose some, as in data=linear"
        )
    num_episodes = max(settings.num_episodes, TUNE_EPISODES)
    numbers = num_episodes * _numbers_drawn(specs[0])
    if numbers > MAX_NUMBERS:
        raise ValueError(
            f"the card's data ask for {numbers:.1g} numbers in {num_episodes} episodes, "
            f"at most {MAX_NUMBERS:.1g} are drawn: choose fewer or others, as in data=linear"
        )
    return specs[0]


def _numbers_drawn(spec: EpisodeSpec) -> int:
    """About how many numbers an episode and its function take."""
    length, widths = spec.num_context + 1, spec.d_x + spec.d_y
    sizes = _sum_of_sizes(spec.function.model_dump())
    return length * widths + spec.d_x * spec.d_y + sizes * (length + widths)


def _sum_of_sizes(value: Any, name: str = "") -> int:
    if isinstance(value, dict):
        return sum(_sum_of_sizes(part, key) for key, part in value.items())
    if isinstance(value, list):
        return sum(map(_sum_of_sizes, value))
    if not isinstance(value, int) or name.endswith("seed"):
        return 0
    return 2**value if name == "depth" else value


class Evaluation:
    """Measures entries under suites, all on the same episodes in each setting.

    Args:
        spec: The episodes that settings start from.
        entries: What is measured.
        compare_with: Label of the entry by whose loss the others' are divided.
        num_episodes: In each setting.
        device: Where everything is computed.
        fit_on: Whether solvers are told of the episodes of each setting or of `spec`.

    Attributes:
        arguments: What each solver was told or fitted to, by suite and setting; a pool is left out.
    """

    def __init__(
        self,
        spec: EpisodeSpec,
        entries: list[Entry],
        compare_with: str,
        num_episodes: int,
        device: str = "cpu",
        fit_on: FitOn = "setting",
    ) -> None:
        self.fit_on = fit_on
        self.spec, self.entries, self.compare_with = spec, entries, compare_with
        self.num_episodes, self.device = num_episodes, device
        self.arguments: list[dict[str, Any]] = []

    def setting(self, suite: str, label: str, setting: Setting) -> list[Row]:
        """All predictors in one setting; those that cannot take it with the reason."""
        try:
            spec = setting.apply(self.spec)
        except ValueError as error:
            note = f"no such episodes: {_reason(error)}"
            return [not_measured(suite, label, entry.label, note) for entry in self.entries]
        rows, predictors = [], {}
        for entry in self.entries:
            try:
                if entry.model is not None:
                    check_widths(entry.model, spec)
                predictors[entry.label] = entry.model or self._solver(suite, label, entry, spec)
            except NOT_MEASURABLE as error:
                rows.append(not_measured(suite, label, entry.label, _reason(error)))

        def sets(number: int) -> Iterator[Episodes]:
            return evaluation_batches(spec, self.num_episodes, self.device, number)

        classification = spec.output == "logits"
        return rows + measure(suite, label, predictors, sets, classification, self.compare_with)

    def _solver(self, suite: str, label: str, entry: Entry, spec: EpisodeSpec) -> Predictor:
        fitted_on = spec if self.fit_on == "setting" else self.spec
        arguments = arguments_for(entry.name, fitted_on, entry.arguments)
        solver = zoo.create_solver(entry.name, d_x=spec.d_x, d_y=spec.d_y, **arguments)
        told = {name: value for name, value in arguments.items() if name != "pool"}
        place = {"suite": suite, "setting": label, "predictor": entry.label}
        self.arguments.append({**place, "arguments": told})
        return solver

    def imitation(self, algorithm: Entry) -> list[Row]:
        """How much of each model a solver explains; its best number of steps where none is told."""
        models = {entry.label: entry.model for entry in self.entries if entry.model is not None}
        if not models:
            return []
        spec, num_episodes = self.spec, self.num_episodes
        name, told = algorithm.name, algorithm.arguments
        try:
            reference = create_reference(name, spec, told)
            steps = {}
            if "num_steps" in solver_arguments(name) and "num_steps" not in told:
                steps = {
                    k: create_reference(name, spec, {**told, "num_steps": k}) for k in MATCHED_STEPS
                }
        except NOT_MEASURABLE as error:
            return [not_measured(IMITATION, algorithm.label, m, _reason(error)) for m in models]
        rows: list[Row] = []
        for label, model in models.items():
            try:
                check_widths(model, spec)
                if model.output != reference.output:
                    raise ValueError(
                        f"it predicts {model.output} and {name} predicts {reference.output}"
                    )
                numbers = self._imitation(model, reference)
                if steps:
                    pairs = ((episodes.x, episodes.y) for episodes in self._base(0))
                    numbers["best_matching_steps"] = Summary(best_matching(model, steps, pairs))
            except NOT_MEASURABLE as error:
                rows.append(not_measured(IMITATION, algorithm.label, label, _reason(error)))
                continue
            place = (IMITATION, algorithm.label, label, spec.num_context, True)
            rows += [Row(*place, metric, *found, num_episodes) for metric, found in numbers.items()]
        return rows

    def _imitation(self, model: Predictor, reference: Predictor) -> dict[str, Summary]:
        def measure(number: int) -> Likeness:
            queries = fresh_queries(self.spec, self.num_episodes, self.device, number)
            return Likeness.joined(
                likeness(
                    behaviour(model, episodes.x, episodes.y, q),
                    behaviour(reference, episodes.x, episodes.y, q),
                    episodes.target[:, -1],
                )
                for episodes, q in zip(self._base(number), queries, strict=True)
            )

        mean = mean_likeness(measure(0), measure)
        numbers = {name: found for name, found in mean._asdict().items() if found is not None}
        if is_one_step(model) and isinstance(reference, GradientDescent):
            comparison = Comparison(self._base, classification=False)
            comparison.add("", interpolated(model, reference.step_size, 0.5))
            found = comparison.summaries("", "half_mse")[-2]
            assert found is not None  # the query is scored in every episode
            numbers["half_mse_of_mean_weights"] = found
        return numbers

    def _base(self, number: int) -> Iterator[Episodes]:
        return evaluation_batches(self.spec, self.num_episodes, self.device, number)


def check_widths(model: Predictor, spec: EpisodeSpec) -> None:
    """Raises ValueError if a model has other widths than episodes."""
    for name in ("d_x", "d_y"):
        takes, has = getattr(model, name), getattr(spec, name)
        if takes != has:
            raise ValueError(f"it takes {name} = {takes}, this setting has {has}")


def evaluate(
    evaluation: Evaluation, suites: Mapping[str, Suite], imitates: list[Entry], console: Console
) -> list[Row]:
    """Measures everything; the rows of `results.json`."""
    rows: list[Row] = []
    num_settings = sum(len(suite.settings) for suite in suites.values())
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("", total=num_settings + len(imitates))
        for name, suite in suites.items():
            for label, setting in suite.settings.items():
                progress.update(task, description=f"{name} {label}")
                rows += evaluation.setting(name, label, setting)
                progress.advance(task)
        for algorithm in imitates:
            progress.update(task, description=f"{IMITATION} of {algorithm.label}")
            rows += evaluation.imitation(algorithm)
            progress.advance(task)
    return rows


def evaluation_batches(
    spec: EpisodeSpec, num_episodes: int, device: str = "cpu", number: int = 0
) -> Iterator[Episodes]:
    """Test episodes of a kind, the same for every predictor, run and machine.

    Args:
        spec: The kind.
        num_episodes: How many.
        device: Where they are moved to.
        number: 0 for the episodes that all is measured on, 1, 2, ... for further sets of as many.
    """
    batches = create_sampler(spec).batches(num_episodes, generators_of_test(number))
    return (episodes.to(device) for episodes in batches)


def evaluation_episodes(spec: EpisodeSpec, num_episodes: int, device: str = "cpu") -> Episodes:
    """The test episodes of a kind as one batch."""
    return Episodes.joined(evaluation_batches(spec, num_episodes, device))


def fresh_queries(
    spec: EpisodeSpec, num_episodes: int, device: str = "cpu", number: int = 0
) -> Iterator[torch.Tensor]:
    """4 d_x inputs for each episode, from the distribution of its inputs, in batches."""
    clean = {"distractors": Distractors(), "outliers": Outliers(), "curriculum": None}
    longer = spec.model_copy(update={"num_context": 4 * spec.d_x, **clean})
    # Steps 0 and 2 to 11 are those of the episodes.
    generators = Generators(EVAL_SEED, "test", 1 if number == 0 else 1 + NUM_APART + number, "cpu")
    batches = create_sampler(longer).batches(num_episodes, generators)
    return (episodes.x[:, 1:].to(device) for episodes in batches)


def tables_of(rows: list[Row], suites: Mapping[str, Suite], compare_with: str) -> list[Table]:
    """One table for each suite and one for each imitated algorithm."""
    tables = []
    for name, suite in suites.items():
        of_suite = [row for row in rows if row.suite == name]
        metric = main_metric(of_suite)
        loss = query_table(of_suite, metric)
        ratio = query_table(of_suite, f"{metric}_ratio_to_{compare_with}")
        table = Table(title=f"{name}: {metric} at the query ± 95 %")
        if metric != "accuracy":
            table.caption = "below: the median; the share of the mean that the worst 0.1 % carry"
        for heading in (suite.axis, "predictor", metric, f"/ {compare_with}"):
            if heading == "predictor":
                table.add_column(heading, overflow="fold")
            else:
                table.add_column(heading, justify="right", no_wrap=True)
        for setting in suite.settings:
            table.add_section()
            for i, predictor in enumerate(loss):
                found = loss[predictor].get(setting)
                text = _text(found, signed=metric == "accuracy")
                if found is not None and found.median is not None:
                    text += f"\n{optional(found.median)}; {share_text(found.tail_share) or '-'}"
                quotient = _text(ratio.get(predictor, {}).get(setting))
                table.add_row("" if i else setting, predictor, text, quotient)
        tables.append(table)
    imitated = [row for row in rows if row.suite == IMITATION]
    for algorithm in dict.fromkeys(row.setting for row in imitated):
        of_algorithm = [row for row in imitated if row.setting == algorithm]
        table = Table(title=f"agreement with {algorithm} ± 95 %")
        for heading in ("model", "quantity"):
            table.add_column(heading, overflow="fold")
        table.add_column("value", justify="right", no_wrap=True)
        for row in of_algorithm:
            if row.value is not None:
                text = _text(summary_of(row), signed="cosine" in row.metric)
                table.add_row(row.predictor, row.metric, text)
        tables.append(table)
    return tables


def main_metric(rows: list[Row]) -> str:
    """The metric that a suite is shown by."""
    return "accuracy" if any(row.metric == "accuracy" for row in rows) else "half_mse"


def write_results(
    rows: list[Row], entries: list[Entry], suites: Mapping[str, Suite], output: Path
) -> None:
    """results.json and results.csv, figures, and a TensorBoard run for each predictor."""
    write_json(output / "results.json", [row._asdict() for row in rows])
    text = io.StringIO(newline="")
    csv.writer(text).writerows([Row._fields, *rows])
    write_text(output / "results.csv", text.getvalue())
    for name, suite in suites.items():
        of_suite = [row for row in rows if row.suite == name]
        metric = main_metric(of_suite)
        if len(suite.settings) == 1:
            figure = learning_curve_figure(curve_table(of_suite, metric), metric)
        else:
            table = query_table(of_suite, metric)
            figure = sweep_figure(table, list(suite.settings), suite.axis, metric)
        for kind in ("png", "svg"):
            write_figure(output / "figures" / f"{name}.{kind}", figure, dpi=150)
    for entry in entries:
        of_entry = [r for r in rows if r.predictor == entry.label and r.value is not None]
        write_tensorboard(entry, of_entry, suites, output / "tensorboard")


def write_tensorboard(
    entry: Entry, rows: list[Row], suites: Mapping[str, Suite], directory: Path
) -> None:
    """A run for one predictor: curves over the settings of a suite, and HParams to sort by.

    A suite of one setting is drawn over the number of examples, one of several over the settings in
    their order.
    """
    logger = TensorBoardLogger(
        directory, name=re.sub(r"[^\w.=,()-]+", "_", entry.label), version="", sub_dir=""
    )
    for row in rows:
        if row.suite in suites:
            settings = list(suites[row.suite].settings)
            step = row.num_examples if len(settings) == 1 else settings.index(row.setting)
            if row.at_query or len(settings) == 1:
                logger.experiment.add_scalar(f"{row.suite}/{row.metric}", row.value, step)
    hyperparameters = {
        "predictor": entry.name,
        "kind": "solver" if entry.model is None else "model",
        "parameters": 0 if entry.card is None else entry.card.num_parameters,
    }
    final = {f"{r.suite}/{r.setting}/{r.metric}": r.value for r in rows if r.at_query}
    logger.log_hyperparams(hyperparameters, final)
    logger.finalize("success")


def _checkpoint(directory: Path, device: str) -> Entry:
    card = read_card(directory)
    model = zoo.load(directory, device=device)
    model.card = None  # suites go beyond its training on purpose, and tables show the outcome
    place = one_line(os.path.relpath(directory))
    return Entry(card.name, card.architecture, model, card, {}, place)


def _directories(given: str) -> list[Path]:
    """The checkpoint directories that a name, path or pattern stands for."""
    pattern = Path(given) if os.sep in given else CHECKPOINTS / given
    found = [Path(path) for path in sorted(glob.glob(str(pattern)))]
    found = [path for path in found if (path / CARD).is_file()]
    if not found and glob.has_magic(given):
        raise ValueError(f"the pattern {given!r} matches no checkpoint")
    if not found:
        shipped = [path.parent.name for path in sorted(CHECKPOINTS.glob(f"*/{CARD}"))]
        names = unknown("name", given, [*zoo.list_solvers(), *shipped])
        raise ValueError(
            f"{given!r} is neither a solver nor a checkpoint: no {pattern / CARD}. {names}; other "
            "checkpoints by their path, as in runs/NAME/checkpoint"
        )
    return found


def _reason(error: Exception) -> str:
    text = explain(error) if isinstance(error, ValidationError) else str(error)
    return text.splitlines()[0] if text else type(error).__name__


def _text(found: Summary | None, signed: bool = False) -> str:
    return "-" if found is None else in_cell(number_text(found, signed=signed))


@hydra.main(version_base="1.3", config_path="configs", config_name="evaluate")
def main(config: DictConfig) -> None:
    """The command line. What a user got wrong is one line, not a trace."""
    console = Console(markup=False, emoji=False)  # labels and notes quote what others wrote
    try:
        plain: Any = OmegaConf.to_container(config, resolve=True)
        for suite in plain.get("suites", {}).values():
            suite["settings"] = {str(name): s for name, s in suite["settings"].items()}
        settings = EvaluateSettings(**plain)
        output = Path(settings.output)
        entries = entries_of(settings.predictors, settings.device)
        spec = spec_of(settings, entries)
        step = "gradient_descent" if spec.output == "value" else "softmax_gradient_descent"
        imitates = solvers_of([step] if settings.imitates is None else settings.imitates)
        entries, compare_with = with_reference(entries, settings.compare_with or step)
        options = (settings.num_episodes, settings.device, settings.fit_on)
        evaluation = Evaluation(spec, entries, compare_with, *options)
        output.mkdir(parents=True, exist_ok=True)  # before anything is measured
        refuse_links(output / "figures", output / "tensorboard")
        rows = evaluate(evaluation, settings.suites, imitates, console)
        write_results(rows, entries, settings.suites, output)
        write_json(output / "arguments.json", evaluation.arguments)
    except (ValueError, OSError) as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        sys.exit(f"{type(error).__name__}: {_reason(error)}\n(HYDRA_FULL_ERROR=1 shows where)")
    for table in tables_of(rows, settings.suites, compare_with):
        console.print(table)
    for row in rows:
        if row.note:
            text = f"not measured: {row.predictor} in {row.suite} {row.setting}: {row.note}"
            console.print(text, soft_wrap=True, highlight=False)
    console.print(f"results  {output / 'results.csv'}", soft_wrap=True)
    console.print(f"figures  {output / 'figures'}", soft_wrap=True)
    logdir = typed_path(output / "tensorboard")
    console.out(f"runs     tensorboard --logdir {logdir}", highlight=False)


if __name__ == "__main__":
    outlive_readers()
    raise_on_signals()
    try:
        main()
    except StoppedBySignal as stopped:
        print(f"{stopped}; results are written at the end", file=sys.stderr)
        sys.exit(128 + stopped.signum)
