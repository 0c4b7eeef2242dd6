"""Which of the study's models are shipped as checkpoints."""

from studies.architectures.cells import deep, of_task, with_curriculum
from studies.study import Shipped

# A comparison of these stands on several seeds, so all of them are there to look at.
ALL_SEEDS = ("transformer", "s5", "mamba", "gd_ssm_deep", "delta_net", "mesa_net")
# `gd_ssm.linear_drift` is trained on faster drift of five labels.
TAKEN = {"gd_ssm.linear_drift": "gd_ssm.linear_drift_scalar"}

# Without a curriculum S5 ends at the zero predictor.
GROWN = ("linear", "growing")


def ships() -> dict[str, Shipped]:
    """The cheap tasks with noise and with drift, and deep models on the paper's task."""
    found = {}
    for task in ("noisy", "drift"):
        for cell in of_task(task):
            name = f"{cell.architecture}.linear_{task}"
            all_seeds = cell.architecture in ALL_SEEDS
            found[cell.name] = Shipped(TAKEN.get(name, name), all_seeds)
    grown = [cell for cell in with_curriculum() if (cell.task, cell.variant) == GROWN]
    return found | {c.name: Shipped(f"{c.architecture}.linear") for c in (*deep(), *grown)}
