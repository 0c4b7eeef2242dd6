"""Measures predictors under suites, all on the same episodes in each setting."""

import time
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.progress import Progress

import zoo
from datamodules import EpisodeSpec
from datamodules.episodes import Episodes
from datamodules.suites import Setting, Suite
from zoo.analysis.construction import interpolated, is_one_step
from zoo.analysis.imitation import (
    Likeness,
    behaviour,
    best_matching,
    likeness,
    mean_likeness,
)
from zoo.errors import first_line
from zoo.evaluation.compare import Comparison
from zoo.evaluation.entries import Entry
from zoo.evaluation.episodes import evaluation_batches, fresh_queries
from zoo.evaluation.names import FitOn
from zoo.evaluation.sweeps import (
    NOT_MEASURABLE,
    Row,
    measure,
    not_measured,
)
from zoo.metrics.errors import Summary
from zoo.metrics.scoring import Scoring
from zoo.predictor import Predictor
from zoo.references import arguments_for, create_reference, scoring_of
from zoo.registry import solver_arguments
from zoo.solvers.moment import GradientDescent

# Steps of gradient descent among which the one nearest to a model is sought.
MATCHED_STEPS = range(1, 9)


IMITATION = "imitation"
# Seconds after which something is said again where there is no bar.
QUIET = 10.0


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
        arguments: What each solver was told or fitted to, by suite and setting. What all
            episodes share, such as a pool, the table of a group or a text, is left out.
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
            note = f"no such episodes: {first_line(error)}"
            return [not_measured(suite, label, entry.label, note) for entry in self.entries]
        rows, predictors = [], {}
        for entry in self.entries:
            try:
                if entry.model is not None:
                    check_widths(entry.model, spec)
                predictors[entry.label] = entry.model or self._solver(suite, label, entry, spec)
            except NOT_MEASURABLE as error:
                rows.append(not_measured(suite, label, entry.label, first_line(error)))

        def sets(number: int) -> Iterator[Episodes]:
            return evaluation_batches(spec, self.num_episodes, self.device, number)

        scoring = scoring_of(spec)
        return rows + measure(suite, label, predictors, sets, scoring, self.compare_with)

    def _solver(self, suite: str, label: str, entry: Entry, spec: EpisodeSpec) -> Predictor:
        fitted_on = spec if self.fit_on == "setting" else self.spec
        arguments = arguments_for(entry.name, fitted_on, entry.arguments)
        solver = zoo.create_solver(entry.name, d_x=spec.d_x, d_y=spec.d_y, **arguments)
        shared = fitted_on.function.tensors(spec.d_x, spec.d_y)
        told = {name: value for name, value in arguments.items() if name not in shared}
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
            return [not_measured(IMITATION, algorithm.label, m, first_line(error)) for m in models]
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
                rows.append(not_measured(IMITATION, algorithm.label, label, first_line(error)))
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
            comparison = Comparison(self._base, Scoring())
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
    total = num_settings + len(imitates)
    disable = not console.is_terminal
    with Progress(console=console, transient=True, disable=disable) as progress:
        task = progress.add_task("", total=total)
        said, done = time.monotonic(), 0

        def begin(text: str) -> None:
            nonlocal said, done
            progress.update(task, description=text, completed=done)
            done += 1
            if disable and time.monotonic() - said >= QUIET:
                said = time.monotonic()
                console.print(f"measuring {done} of {total}: {text}", highlight=False, markup=False)

        for name, suite in suites.items():
            for label, setting in suite.settings.items():
                begin(f"{name} {label}")
                rows += evaluation.setting(name, label, setting)
        for algorithm in imitates:
            begin(f"{IMITATION} of {algorithm.label}")
            rows += evaluation.imitation(algorithm)
    return rows
