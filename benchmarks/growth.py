"""How the time of an optimizer step grows with the batch, the examples, the width and the runs.

    python -m benchmarks.growth [ARCHITECTURE ...]

One size is changed at a time, doubled from step to step, and an exponent p is fitted: time grows as
size^p, by least squares of the logarithms. Below 1, a fixed cost of the step is shared. Steps are
those inside a Lightning trainer, on one thread, and the time is that of the processor.
"""

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.replicas import Row, rows, step_ms
from benchmarks.timing import architectures_typed, exponent
from datamodules import EpisodeSpec
from zoo.memory import keep_freed_memory
from zoo.registry import ModelSpec
from zoo.terminal import outlive_readers

# Everything but the size that is changed.
USUAL = {"batch": 64, "examples": 10, "width": 64, "runs": 1}
USUAL_D = 10
SIZES = {
    "batch": [32, 64, 128, 256],
    "examples": [8, 16, 32, 64],
    "width": [32, 64, 128, 256],
    "width d": [5, 10, 20, 40],
    "runs": [1, 2, 4, 8],
}
ROUNDS = 2


def time_of(row: Row, changed: dict[str, int]) -> float:
    """Milliseconds of a step where some of the usual sizes are changed."""
    sizes = {**USUAL, **changed}
    d = sizes["width"] if not row.is_deep and "width" in changed else USUAL_D
    own = row.arguments | ({"d_model": sizes["width"]} if row.is_deep else {})
    spec = EpisodeSpec(d_x=d, d_y=d, num_context=sizes["examples"])
    model = ModelSpec.of(row.name, d_x=d, d_y=d, **own)
    seeds = list(range(sizes["runs"]))
    return min(step_ms(model, spec, row.steps, seeds, sizes["batch"]) for _ in range(ROUNDS))


def main() -> None:
    """Times the steps and prints the table of exponents."""
    names = architectures_typed("Fits how a step grows with its sizes.")
    torch.set_num_threads(1)
    table = Table(title="exponents: a step takes as long as size^p; in brackets ms at both ends")
    table.add_column("architecture")
    for heading in ("batch", "examples", "width", "runs"):
        table.add_column(heading, justify="right")
    for row in track(rows(names), "timing"):
        cells = []
        for size in ("batch", "examples", "width", "runs"):
            values = SIZES["width d" if size == "width" and not row.is_deep else size]
            times = [time_of(row, {size: value}) for value in values]
            fitted = exponent(dict(zip(values, times, strict=True)))
            cells.append(f"{fitted:.2f} ({times[0]:.1f}, {times[-1]:.1f})")
        table.add_row(row.label, *cells)
    Console(width=110).print(table)


if __name__ == "__main__":
    outlive_readers()
    keep_freed_memory()  # as train.py does
    main()
