"""Rates, decays, penalties and gains that `online_learner` models have learned.

    python -m studies.ablations.rates [CHECKPOINT...]

The models are checkpoints by name or path, those that are shipped unless some are given.

Beside each those of the solver that its rule is, told of the episodes or fitted on episodes of
their own. A rate is measured after one example (`zoo.analysis.online_rates.effective_rate`), of
model and solver on the same 10,000 examples, the first of each test episode. The ratio is that of
their errors at the query of these episodes, with its 95 % interval.
"""

import sys

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

import zoo
from datamodules import EpisodeSpec
from zoo.analysis.online_rates import (
    counterpart,
    effective_forgetting,
    effective_gain,
    effective_penalty,
    effective_rate,
)
from zoo.evaluation.episodes import evaluation_episodes
from zoo.metrics.errors import half_squared_error, ratio_interval
from zoo.metrics.text import with_interval
from zoo.models.online_learner import OnlineLearner
from zoo.references import arguments_for
from zoo.terminal import outlive_readers

NUM_EPISODES = 10_000


@torch.no_grad()
def main() -> None:
    """Measures the models and prints the table."""
    table = Table(title="learned; of the solver")
    for heading in ("model", "solver", "error / solver", "rate", "decay", "penalty", "gain"):
        table.add_column(heading, no_wrap=True)
    for name in track(sys.argv[1:] or zoo.list_checkpoints("online_learner*"), "fitting"):
        model = zoo.load(name)
        assert isinstance(model, OnlineLearner)
        assert model.card is not None
        spec = EpisodeSpec(**model.card.data)
        solver_name, settled = counterpart(model)
        arguments = arguments_for(solver_name, spec, settled)
        solver = zoo.create_solver(solver_name, d_x=spec.d_x, d_y=spec.d_y, **arguments)
        episodes = evaluation_episodes(spec, NUM_EPISODES)
        rates = [
            effective_rate(predictor, episodes.x[:, 0], episodes.y[:, 0])
            for predictor in (model, solver)
        ]
        errors = [
            half_squared_error(
                predictor.predict_query(episodes.x, episodes.y), episodes.target[:, -1]
            )
            for predictor in (model, solver)
        ]
        is_sum, is_mesa = (model.rule == r for r in ("gated_linear_attention", "mesa"))
        table.add_row(
            f"{model.card.name.removeprefix('online_learner.')}, decay={model.decay}",
            solver_name,
            with_interval(*ratio_interval(*errors)),
            both(*rates),
            both(effective_forgetting(model), arguments.get("forgetting")),
            both(effective_penalty(model), arguments["penalty"]) if is_mesa else "",
            "" if is_sum else f"{effective_gain(model):.3f}",
        )
    Console(width=160).print(table)


def both(learned: float | None, of_solver: float | None) -> str:
    """Two numbers, or nothing where the model has none."""
    return "" if learned is None else f"{learned:.3f}; {of_solver:.3f}"


if __name__ == "__main__":
    outlive_readers()
    main()
