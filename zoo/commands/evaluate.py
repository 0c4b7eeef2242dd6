"""Measures trained models and exact algorithms side by side: tables, figures, TensorBoard runs."""

import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from datamodules import EpisodeSpec
from datamodules.suites import Suite
from datamodules.text import check_text_is_read, open_text
from zoo.commands.resolvers import register_resolvers
from zoo.commands.settings import EvaluateSettings
from zoo.errors import first_line, refusing
from zoo.evaluation.entries import Entry, entries_of, solvers_of, spec_of, with_reference
from zoo.evaluation.measure import Evaluation, evaluate
from zoo.evaluation.results import measured_nowhere, tables_of, write_results
from zoo.files import CONFIGS, refuse_links, write_json
from zoo.references import beside
from zoo.terminal import StoppedBySignal, raise_on_signals
from zoo.threads import describe
from zoo.training.overrides import typed_keys, typed_path

register_resolvers()


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="evaluate")
def command(config: DictConfig) -> None:
    """What is done with the composed settings. What a user got wrong is one line, not a trace."""
    console = Console(markup=False, emoji=False)  # labels and notes quote what others wrote
    typed = typed_keys(HydraConfig.get().overrides.task)
    made_by_hydra = Path(HydraConfig.get().runtime.output_dir)
    try:
        with refusing(ValueError, OSError):
            plain: Any = OmegaConf.to_container(config, resolve=True)
            settings = EvaluateSettings(**plain)
            if settings.text is not None:
                open_text(settings.text)
            check_device(settings.device)
            output = Path(settings.output)
            predictors = settings.predictors or default_predictors(settings.data)
            entries = entries_of(predictors, settings.device)
            spec = spec_of(settings.data, settings.num_episodes, entries)
            check_text_is_read(settings.text, spec.function)
            reference = spec.function.reference
            imitates = imitated(spec, settings.imitates)
            suites = settings.suites
            if not any(key.partition(".")[0] in ("suite", "suites") for key in typed):
                suites = fitting_suites(spec, suites)
            entries, compare_with = with_reference(entries, settings.compare_with or reference)
            options = (settings.num_episodes, settings.device, settings.fit_on)
            evaluation = Evaluation(spec, entries, compare_with, *options)
            output.mkdir(parents=True, exist_ok=True)  # before anything is measured
            refuse_links(output / "figures", output / "tensorboard")
            if torch.device(settings.device).type == "cpu":
                threads = describe(torch.get_num_threads())
                console.print(f"measuring with {threads}", highlight=False)
            rows = evaluate(evaluation, suites, imitates, console)
            write_results(rows, entries, suites, output)
            write_json(output / "arguments.json", evaluation.arguments)
    finally:
        with suppress(OSError):  # not empty: results are there
            made_by_hydra.rmdir()
    for table in tables_of(rows, suites, compare_with):
        console.print(table)
    for row in rows:
        if row.note:
            text = f"not measured: {row.predictor} in {row.suite} {row.setting}: {row.note}"
            console.print(text, soft_wrap=True, highlight=False)
    console.print(f"results  {output / 'results.csv'}", soft_wrap=True, markup=False)
    console.print(f"figures  {output / 'figures'}", soft_wrap=True, markup=False)
    logdir = typed_path(output / "tensorboard")
    console.out(f"runs     tensorboard --logdir {logdir}", highlight=False)
    if nowhere := measured_nowhere(rows):
        sys.exit(f"error: {', '.join(nowhere)} could not be measured in any setting")


def default_predictors(data: EpisodeSpec | None) -> list[str | dict[str, Any]]:
    """The exact algorithms that are measured where nobody says what."""
    if data is None or not data.labels_hidden:
        return ["gradient_descent", "ridge", "least_squares", "zero"]
    return [data.function.reference, *beside(data)]


def fitting_suites(spec: EpisodeSpec, suites: dict[str, Suite]) -> dict[str, Suite]:
    """The suites that episodes can take; the episodes as they are if there is none."""
    fitting = {
        name: suite
        for name, suite in suites.items()
        if all(setting.fits(spec) for setting in suite.settings.values())
    }
    if fitting:
        return fitting
    as_given: Any = OmegaConf.to_container(OmegaConf.load(CONFIGS / "suite" / "as_given.yaml"))
    return {"as_given": Suite(**as_given)}


def imitated(spec: EpisodeSpec, given: list[str | dict[str, Any]] | None) -> list[Entry]:
    """The algorithms that models are compared with in behaviour.

    Raises:
        ValueError: If one of them is no solver, or labels are hidden.
    """
    if not spec.labels_hidden:
        return solvers_of([spec.function.reference] if given is None else given)
    if given:
        raise ValueError(
            f"imitates compares what is learned from labels, and those of {spec.function.name} are "
            "hidden"
        )
    return []


def check_device(device: str) -> None:
    """Raises ValueError if torch does not know a device or this machine does not have it."""
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device={device} cannot be used: {first_line(error)}") from None


def main() -> None:
    """Reads the command line, to the exit of the process."""
    raise_on_signals()
    try:
        command()
    except StoppedBySignal as stopped:
        print(f"{stopped}; results are written at the end", file=sys.stderr)
        sys.exit(128 + stopped.signum)
