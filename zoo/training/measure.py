"""What the models of a run reached, on the test episodes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from datamodules.stream import EVAL_SEED
from zoo.evaluation.report import Report, create_report
from zoo.evaluation.seeds import (
    first_step_name,
    first_step_over_seeds,
    numbers_of,
    summary_over_seeds,
)
from zoo.predictor import Predictor
from zoo.references import closed_form_of, scoring_of
from zoo.training.callbacks import Convergence, TimeToSolution
from zoo.training.run import Run, Say

CONVERGENCE = "convergence"


@dataclass(frozen=True)
class Outcome:
    """What one seed of a run ended with.

    Attributes:
        model: The trained model, in eval mode.
        report: Its numbers beside those of the exact algorithms.
        metrics: The same as plain data, the content of its `metrics.json`.
    """

    model: Predictor
    report: Report
    metrics: dict[str, Any]


def measure(run: Run, models: Mapping[int, Predictor], say: Say) -> dict[int, Outcome]:
    """Measures trained models on the test episodes, the same for all.

    Args:
        run: After its training.
        models: By seed.
        say: What is done, since it may take long.
    """
    spec = run.settings.data
    outcomes = {}
    for seed, model in models.items():
        say(f"measuring seed {seed} on {run.datamodule.num_test} test episodes")
        report = create_report(
            model,
            run.references,
            closed_form_of(spec),
            run.datamodule.test_batches,
            scoring_of(spec),
            spec.mean_function(),
        )
        metrics = report.as_dict() | {
            "eval_seed": EVAL_SEED,
            first_step_name(spec.labels_hidden): _first_step(run, seed),
            "steps": run.trainer.global_step,
            **_choice(run),
            **_convergence(run, seed),
        }
        outcomes[seed] = Outcome(model, report, metrics)
    return outcomes


def summary_of(run: Run, outcomes: Mapping[int, Outcome]) -> dict[str, Any]:
    """What all seeds reached, as plain data."""
    diverged = run.module.diverged
    first_step = first_step_name(run.settings.data.labels_hidden)
    first_steps = {seed: outcome.metrics[first_step] for seed, outcome in outcomes.items()}
    numbers = {seed: numbers_of(outcome.report) for seed, outcome in outcomes.items()}
    return {
        "seeds": run.settings.all_seeds,
        "diverged": list(diverged),
        "diverged_causes": {str(seed): cause for seed, cause in diverged.items()},
        "steps": run.trainer.global_step,
        "num_episodes": run.datamodule.num_test,
        "eval_seed": EVAL_SEED,
        first_step: first_step_over_seeds(first_steps),
        **_choice(run),
        "metrics": summary_over_seeds(numbers),
    }


def _choice(run: Run) -> dict[str, Any]:
    """Where the rate was chosen among several: which, and the validation errors of all."""
    choice = run.module.choice
    if not choice.errors:
        return {}
    return {"best_rate": choice.rate[0], "rates": choice.errors, "lost": run.module.causes}


def _convergence(run: Run, seed: int) -> dict[str, Any]:
    """The verdict on a seed, where one is given."""
    callbacks = run.trainer.callbacks  # type: ignore[attr-defined]
    found = (c for c in callbacks if isinstance(c, Convergence))
    prefix = run.module.log_prefix(seed)
    verdict = next((c.verdict for c in found if c.metric.startswith(prefix)), None)
    return {} if verdict is None else {CONVERGENCE: verdict._asdict()}


def _first_step(run: Run, seed: int) -> int | None:
    callbacks = run.trainer.callbacks  # type: ignore[attr-defined]
    found = (c for c in callbacks if isinstance(c, TimeToSolution))
    of_seed = (c.first_step for c in found if c.metric.startswith(run.module.log_prefix(seed)))
    return next(of_seed, None)
