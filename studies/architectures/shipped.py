"""Which of the study's models are shipped as checkpoints."""

from studies.architectures.cells import GROWS, Cell, deep, of_task, with_curriculum
from studies.study import Shipped

# A comparison stands on several seeds, so as many are there to look at. More of this one, which is
# on one task alone, would fill the 20 MB that all checkpoints may have.
OF_ONE_SEED = ("gated_delta_net",)
# Without a curriculum S5 ends at the zero predictor.
GROWN = ("linear", GROWS)


def ships() -> dict[str, Shipped]:
    """The task with noise, and deep models on the paper's task."""
    grown = [cell for cell in with_curriculum() if (cell.task, cell.variant) == GROWN]
    return {
        cell.name: Shipped(f"{cell.architecture}.{data}", _num_seeds(cell))
        for data, cells in (("linear_noisy", of_task("noisy")), ("linear", [*deep(), *grown]))
        for cell in cells
    }


def _num_seeds(cell: Cell) -> int:
    return 1 if cell.architecture in OF_ONE_SEED else cell.most_seeds
