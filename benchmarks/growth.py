"""How the time of an optimizer step grows with the batch, the examples, the width and the runs.

    python -m benchmarks.growth

One size is changed at a time, doubled from step to step, and an exponent p is fitted: time grows as
size^p, by least squares of the logarithms. Below 1, a fixed cost of the step is shared. Steps are
those inside a Lightning trainer, on one thread, and the time is that of the processor.
"""

from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.replicas import step_ms
from benchmarks.timing import exponent
from datamodules import EpisodeSpec
from zoo.memory import keep_freed_memory
from zoo.registry import ModelSpec
from zoo.terminal import outlive_readers

# Name in the table, architecture, arguments, and the argument that is its width.
ROWS: list[tuple[str, str, dict[str, Any], str]] = [
    ("gd_ssm", "gd_ssm", {}, "d_x"),
    ("gd_ssm, four steps", "gd_ssm", {"num_steps": 4}, "d_x"),
    ("gd_ssm_deep", "gd_ssm_deep", {"num_layers": 2}, "d_model"),
    ("linear_transformer", "linear_transformer", {"num_layers": 4}, "d_x"),
    ("transformer", "transformer", {"num_layers": 2}, "d_model"),
    ("s5", "s5", {"num_layers": 2}, "d_model"),
    ("mamba", "mamba", {"num_layers": 1}, "d_model"),
    ("delta_net", "delta_net", {"num_layers": 2}, "d_model"),
    ("mesa_net", "mesa_net", {"num_layers": 2}, "d_model"),
]
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


def time_of(name: str, arguments: dict[str, Any], width: str, changed: dict[str, int]) -> float:
    """Milliseconds of a step where some of the usual sizes are changed."""
    sizes = {**USUAL, **changed}
    d = sizes["width"] if width == "d_x" and "width" in changed else USUAL_D
    own = arguments if width == "d_x" else {**arguments, width: sizes["width"]}
    spec = EpisodeSpec(d_x=d, d_y=d, num_context=sizes["examples"])
    model = ModelSpec.of(name, d_x=d, d_y=d, **own)
    steps = 100 if width == "d_x" else 4
    seeds = list(range(sizes["runs"]))
    return step_ms(model, spec, steps, seeds, sizes["batch"])


def main() -> None:
    """Times the steps and prints the table of exponents."""
    torch.set_num_threads(1)
    table = Table(title="exponents: a step takes as long as size^p; in brackets ms at both ends")
    for heading in ("", "batch", "examples", "width", "runs"):
        table.add_column(heading, justify="right")
    for label, name, arguments, width in track(ROWS, "timing"):
        cells = []
        for size in ("batch", "examples", "width", "runs"):
            values = SIZES["width d" if size == "width" and width == "d_x" else size]
            times = [time_of(name, arguments, width, {size: value}) for value in values]
            fitted = exponent(dict(zip(values, times, strict=True)))
            cells.append(f"{fitted:.2f} ({times[0]:.1f}, {times[-1]:.1f})")
        table.add_row(label, *cells)
    Console().print(table)


if __name__ == "__main__":
    outlive_readers()
    keep_freed_memory()  # as train.py does
    main()
