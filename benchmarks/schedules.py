"""Schedules of step sizes for k steps of gradient descent on the paper's task, d = N = 10.

    python -m benchmarks.schedules

For each k the best shared step size, the Chebyshev schedule of the best range of eigenvalues, both
fitted on the episodes that references are fitted on, and the schedule of least mean error, below
which no k steps get; with their 0.5*MSE at the query of the 10,000 test episodes, and the expected
one of the last.
"""

import itertools

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

import zoo
from datamodules import EpisodeSpec, create_sampler
from datamodules.datamodule import EVAL_SEED
from datamodules.stream import Generators
from references import TUNE_EPISODES, create_reference
from zoo.metrics.errors import half_squared_error, mean_interval
from zoo.predictor import Predictor
from zoo.solvers.theory import best_step_sizes, chebyshev_step_sizes
from zoo.solvers.tuning import log_grid, tune

NUM_STEPS = (1, 2, 3, 4, 8, 16)
SPECTRUM_EPISODES = 200_000
RANGES = [
    (smallest, largest)
    for smallest, largest in itertools.product(log_grid(0.01, 1.0, 15), log_grid(1.0, 6.0, 15))
    if smallest < largest
]


def main() -> None:
    spec = EpisodeSpec()
    sampler = create_sampler(spec)
    x, y, target, _ = sampler.sample(10_000, Generators(EVAL_SEED, "test", 0, "cpu"))
    fitted_on = sampler.sample(TUNE_EPISODES, Generators(EVAL_SEED, "tune", 0, "cpu"))[:3]

    def cells(solver: Predictor) -> str:
        mean, ci95 = mean_interval(half_squared_error(solver.predict_query(x, y), target[:, -1]))
        return f"{mean:.4f} ± {ci95:.4f}"

    x_many = sampler.sample(SPECTRUM_EPISODES, Generators(EVAL_SEED, "tune", 1, "cpu")).x[:, :-1]
    spectrum = torch.linalg.eigvalsh(x_many.mT.double() @ x_many.double()).clamp(min=0)

    def expected(step_sizes: tuple[float, ...]) -> str:
        left = torch.stack([1 - size * spectrum for size in step_sizes]).prod(0)
        return f"{0.5 * spec.input_variance * left.square().sum(1).mean():.4f}"

    table = Table(title="gradient descent on the paper's task")
    kinds = ("shared step", "0.5*MSE", "Chebyshev steps", "0.5*MSE", "best steps", "0.5*MSE")
    for heading in ("k", *kinds, "expected"):
        table.add_column(heading, justify="right")
    for k in track(NUM_STEPS, "fitting"):
        shared = create_reference("gradient_descent", spec, {"num_steps": k})
        schedules = [tuple(chebyshev_step_sizes(k, *of_range)) for of_range in RANGES]
        best = tune("scheduled_gradient_descent", {"step_sizes": schedules}, *fitted_on)
        chebyshev = zoo.create_solver("scheduled_gradient_descent", d_x=10, d_y=10, **best)
        sizes = best_step_sizes(k, spectrum)
        least = create_reference("scheduled_gradient_descent", spec, {"step_sizes": sizes})
        table.add_row(
            str(k),
            *(f"{shared.step_size:.3f}", cells(shared)),
            *(text(best["step_sizes"]), cells(chebyshev)),
            *(text(sizes), cells(least), expected(sizes)),
        )
    Console(width=200).print(table)


def text(step_sizes: tuple[float, ...]) -> str:
    return " ".join(f"{size:.2f}" for size in sorted(step_sizes))


if __name__ == "__main__":
    main()
