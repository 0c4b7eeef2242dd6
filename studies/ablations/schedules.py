"""Step sizes for k steps of gradient descent on the paper's task, d = N = 10: fitted and learned.

    python -m studies.ablations.schedules

For each k the best shared step size and the Chebyshev schedule of the best range of eigenvalues,
both fitted on the episodes that references are fitted on, the schedule of least expected error
among those fixed beforehand, and what the shipped model of k steps has learned: where it reads B,
C_j, and where it reads A, E_j. Then their 0.5*MSE at the query of the 10,000 test episodes, and the
expected one of the best schedule.
"""

import itertools
from collections.abc import Sequence

from rich.console import Console
from rich.progress import track
from rich.table import Table

import zoo
from datamodules import EpisodeSpec, create_sampler
from datamodules.stream import EVAL_SEED, Generators
from zoo.analysis.construction import effective_step_sizes
from zoo.metrics.errors import error_summary, half_squared_error
from zoo.metrics.text import number_text
from zoo.models.gd_ssm import GDSSM
from zoo.predictor import Predictor
from zoo.references import TUNE_EPISODES, best_schedule, create_reference
from zoo.solvers.theory import chebyshev_step_sizes
from zoo.solvers.tuning import log_grid, tune
from zoo.terminal import outlive_readers

NUM_STEPS = (1, 2, 3, 4, 8, 16)
TRAINED = {
    1: "gd_ssm.linear",
    2: "gd_ssm.linear_two_steps",
    4: "gd_ssm.linear_four_steps",
    8: "gd_ssm.linear_eight_steps",
}
RANGES = [
    (smallest, largest)
    for smallest, largest in itertools.product(log_grid(0.01, 1.0, 15), log_grid(1.0, 6.0, 15))
    if smallest < largest
]


def main() -> None:
    """Measures the schedules and prints the tables."""
    spec = EpisodeSpec()
    sampler = create_sampler(spec)
    test = sampler.sample(10_000, Generators(EVAL_SEED, "test", 0, "cpu"))
    fitted_on = sampler.sample(TUNE_EPISODES, Generators(EVAL_SEED, "tune", 0, "cpu"))

    def cells(solver: Predictor) -> str:
        errors = half_squared_error(solver.predict_query(test.x, test.y), test.target[:, -1])
        return number_text(error_summary(errors))

    kinds = ("shared", "Chebyshev", "best")
    sizes = table("step sizes", *kinds, "learned, C", "learned, E")
    losses = table("0.5*MSE at the query", *kinds, "best, expected", "trained")
    for k in track(NUM_STEPS, "fitting"):
        shared = create_reference("gradient_descent", spec, {"num_steps": k})
        schedules = [tuple(chebyshev_step_sizes(k, *of_range)) for of_range in RANGES]
        fitted = tune(
            "scheduled_gradient_descent",
            {"step_sizes": schedules},
            fitted_on.x,
            fitted_on.y,
            fitted_on.target,
        )
        chebyshev = zoo.create_solver("scheduled_gradient_descent", d_x=10, d_y=10, **fitted)
        best, expected = best_schedule(spec, k)
        learned: dict[str, list[float]] = {"C": [], "E": []}
        loss = ""
        if k in TRAINED:
            model = zoo.load(TRAINED[k])
            assert isinstance(model, GDSSM)
            learned, loss = effective_step_sizes(model), cells(model)
        sizes.add_row(
            str(k),
            f"{shared.step_size:.2f}",
            *map(text, (fitted["step_sizes"], best.step_sizes, learned["C"], learned["E"])),
        )
        losses.add_row(str(k), *map(cells, (shared, chebyshev, best)), f"{expected:.4f}", loss)
    console = Console(width=200)
    console.print(sizes)
    console.print(losses)


def table(title: str, *headings: str) -> Table:
    """An empty table with a row for each number of steps k."""
    found = Table(title=title)
    for heading in ("k", *headings):
        found.add_column(heading, justify="right")
    return found


def text(step_sizes: Sequence[float]) -> str:
    """Step sizes in ascending order, with two decimals."""
    return " ".join(f"{size:.2f}" for size in sorted(step_sizes))


if __name__ == "__main__":
    outlive_readers()
    main()
