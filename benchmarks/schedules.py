"""Schedules of step sizes for k steps of gradient descent on the paper's task, d = N = 10.

    python -m benchmarks.schedules

For each k the best shared step size and the Chebyshev schedule of the best range of eigenvalues,
both fitted on the episodes that references are fitted on, and their 0.5*MSE at the query of the
10,000 test episodes.
"""

import itertools
from collections.abc import Sequence

from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from datamodules import EpisodeSpec, create_sampler
from datamodules.datamodule import EVAL_SEED
from datamodules.stream import Generators
from references import TUNE_EPISODES, create_reference
from zoo.metrics.errors import half_squared_error, mean_interval
from zoo.predictor import Predictor
from zoo.solvers.moment import ScheduledGradientDescent, ScheduledGradientDescentConfig
from zoo.solvers.theory import chebyshev_step_sizes
from zoo.solvers.tuning import log_grid, tune

NUM_STEPS = (2, 3, 4, 8)
RANGES = [
    (smallest, largest)
    for smallest, largest in itertools.product(log_grid(0.01, 1.0, 15), log_grid(1.0, 6.0, 15))
    if smallest < largest
]


def chebyshev_schedule(
    spec: EpisodeSpec, num_steps: int, fitted_on: Sequence[Tensor]
) -> ScheduledGradientDescent:
    """Gradient descent with the Chebyshev schedule of the best range of eigenvalues.

    Args:
        spec: The episodes.
        num_steps: Steps of the schedule.
        fitted_on: x, y and target of the episodes that the range is chosen on.
    """
    schedules = [chebyshev_step_sizes(num_steps, *of_range) for of_range in RANGES]
    best = tune("scheduled_gradient_descent", {"step_sizes": schedules}, *fitted_on)
    config = ScheduledGradientDescentConfig(d_x=spec.d_x, d_y=spec.d_y, **best)
    return ScheduledGradientDescent(config)


def main() -> None:
    spec = EpisodeSpec()
    sampler = create_sampler(spec)
    x, y, target, _ = sampler.sample(10_000, Generators(EVAL_SEED, "test", 0, "cpu"))
    fitted_on = sampler.sample(TUNE_EPISODES, Generators(EVAL_SEED, "tune", 0, "cpu"))[:3]

    def cells(solver: Predictor) -> str:
        mean, ci95 = mean_interval(half_squared_error(solver.predict_query(x, y), target[:, -1]))
        return f"{mean:.4f} ± {ci95:.4f}"

    table = Table(title="gradient descent on the paper's task")
    for heading in ("k", "shared step", "0.5*MSE", "Chebyshev steps", "0.5*MSE"):
        table.add_column(heading, justify="right")
    for k in track(NUM_STEPS, "fitting"):
        shared = create_reference("gradient_descent", spec, {"num_steps": k})
        chebyshev = chebyshev_schedule(spec, k, fitted_on)
        sizes = " ".join(f"{size:.2f}" for size in sorted(chebyshev.step_sizes))
        table.add_row(str(k), f"{shared.step_size:.3f}", cells(shared), sizes, cells(chebyshev))
    Console().print(table)


if __name__ == "__main__":
    main()
