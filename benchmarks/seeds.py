"""What the runs of a multirun reached, one line each.

python train.py -m seed=0,1,2,3,4,5,6,7 hydra.sweep.dir=runs/seeds
python -m benchmarks.seeds runs/seeds
"""

import json
import sys
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

# Of these cosines of trained and constructed weights the smallest is shown.
COSINES = ("cosine_Q", "cosine_D", "cosine_C")


def main(directory: Path) -> None:
    runs = sorted(directory.glob("*/metrics.json"), key=lambda path: path.parent.name.zfill(8))
    if not runs:
        sys.exit(f"no finished run in {directory}")
    table = Table(
        title=f"{len(runs)} runs, test error beside one gradient step on the same episodes"
    )
    for heading in (
        "seed",
        "model / gradient step",
        "least cosine of Q, D, C",
        "alignment",
        "within 1 %",
    ):
        table.add_column(heading, justify="right")
    for path in runs:
        metrics: dict[str, Any] = json.loads(path.read_text())
        seed = OmegaConf.select(OmegaConf.load(path.parent / "config.yaml"), "seed")
        ratio = metrics["model"]["test/ratio_to_gradient_descent"]
        first_step = metrics["first_step_within_1_percent"]
        table.add_row(
            str(seed),
            f"{ratio['value']:.4f} ± {ratio['ci95']:.4f}",
            f"{min(metrics['weights'][name] for name in COSINES):.4f}",
            f"{metrics['model']['alignment/cosine']['value']:.4f}",
            "never" if first_step is None else f"step {first_step}",
        )
    Console().print(table)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
