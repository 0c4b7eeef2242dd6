"""Forward and backward of one S5 and one Mamba layer, beside their peers in the same run.

    pip install -e '.[bench]' -c constraints.txt   (a peer that is missing is left out, and said so)
    python -m benchmarks.layers

The peers are `s5-pytorch` and the parallel scan of `mambapy`, with the same sizes: width 64 and 64
states (32 conjugate pairs) for S5; width 64, 16 states and two channels per coordinate for Mamba.
Times are the best of several turns; memory is what the resident set of a fresh process grows by at
its peak over one forward and backward, Linux only. The exponent k of time ~ length^k is fitted from
1,024 to 16,384 at batch 2. Writes `docs/figures/layer_times.svg` and prints the tables.
"""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from benchmarks.timing import (
    SHAPES,
    WANTED_EXPONENT,
    Shape,
    Step,
    best_ms,
    child_of,
    exponent_of_length,
    peak_mib,
    print_peak_mib,
)
from zoo.files import write_figure
from zoo.layers.mamba import MambaLayer
from zoo.layers.s5 import S5Layer
from zoo.metrics.drawing import BLACK, ORANGE
from zoo.terminal import outlive_readers

FIGURE = Path("docs/figures/layer_times.svg")
D_MODEL = 64
Layer = Callable[[Tensor], Tensor]


def our_s5() -> Layer:
    """Our S5 layer, as a function of its input."""
    layer = S5Layer(D_MODEL, d_state=64)
    return lambda u: layer(u)[0]


def peer_s5() -> Layer:
    """The layer of `s5-pytorch` of the same size."""
    layer: Layer = importlib.import_module("s5").S5(D_MODEL, 32)
    return layer


def our_mamba() -> Layer:
    """Our Mamba layer, as a function of its input."""
    layer = MambaLayer(D_MODEL, d_state=16, expand=2)
    return lambda u: layer(u)[0]


def peer_mamba() -> Layer:
    """The layer of `mambapy` of the same size, with its parallel scan."""
    mambapy = importlib.import_module("mambapy.mamba")
    config = mambapy.MambaConfig(D_MODEL, 1, d_state=16, expand_factor=2, pscan=True)
    layer: Layer = mambapy.MambaBlock(config)
    return layer


class Comparison(NamedTuple):
    """Our layer and its peer, the factor wanted from length 256 up, real numbers in a state."""

    create: dict[str, Callable[[], Layer]]
    wanted: int
    state_size: int


COMPARISONS = {
    "S5": Comparison({"icl-zoo": our_s5, "s5-pytorch": peer_s5}, 3, 64),
    "Mamba": Comparison({"icl-zoo": our_mamba, "mambapy": peer_mamba}, 4, 128 * 16),
}


def step_of(layer: Layer, batch: int, length: int) -> Step:
    """One forward and backward, to the input and all parameters."""
    u = torch.randn(batch, length, D_MODEL, requires_grad=True)
    grad = torch.randn(batch, length, D_MODEL)
    return lambda: layer(u).backward(grad)


def compare(architecture: str, console: Console) -> dict[str, dict[Shape, float]]:
    """Prints the table of one architecture; milliseconds by layer and shape."""
    comparison = COMPARISONS[architecture]
    layers = {}
    for name, create in comparison.create.items():
        try:
            layers[name] = create()
        except ImportError:
            console.print(f"{name} is not installed: no comparison for {architecture}")
    ours, *peers = layers
    title = f"{architecture} layer, forward + backward, {torch.get_num_threads()} threads"
    table = Table(title=title)
    headings = ["batch, length", *(f"{name}, ms" for name in layers), "factor", "wanted"]
    headings += [*(f"{name}, MiB" for name in layers), "all states, MiB"]
    for heading in headings:
        table.add_column(heading, justify="right")
    times: dict[str, dict[Shape, float]] = {name: {} for name in layers}
    for batch, length in track(SHAPES, f"timing {architecture}", console=console):
        ms = best_ms({name: step_of(layer, batch, length) for name, layer in layers.items()})
        for name, value in ms.items():
            times[name][batch, length] = value
        table.add_row(
            f"{batch}, {length:,}",
            *(f"{value:.2f}" for value in ms.values()),
            f"{ms[peers[0]] / ms[ours]:.1f} x" if peers else "",
            f"{comparison.wanted if length >= 256 else 1} x",
            *(f"{memory(architecture, name, batch, length):.0f}" for name in layers),
            f"{4 * batch * length * comparison.state_size / 2**20:.0f}",
        )
    table.add_section()
    exponents = [f"{exponent_of_length(of_shape):.2f}" for of_shape in times.values()]
    table.add_row("exponent", *exponents, "", f"<= {WANTED_EXPONENT}")
    console.print(table)
    return times


def memory(architecture: str, name: str, batch: int, length: int) -> float:
    """MiB that a step of a layer adds to a fresh process."""
    return peak_mib("benchmarks.layers", architecture, name, str(batch), str(length))


def draw(times: dict[str, dict[str, dict[Shape, float]]]) -> None:
    """Milliseconds per sequence against its length, one panel for each architecture."""
    figure = Figure(figsize=(8.0, 3.4), layout="constrained")
    panels = figure.subplots(1, len(times), sharey=True)
    for axes, (architecture, layers) in zip(panels, times.items(), strict=True):
        for name, of_shape in layers.items():
            for batch, style in ((8, ":"), (2, "-")):
                points = {n: ms / b for (b, n), ms in of_shape.items() if b == batch}
                axes.loglog(
                    list(points),
                    list(points.values()),
                    style,
                    marker="o",
                    markersize=3,
                    color=BLACK if name == "icl-zoo" else ORANGE,
                    label=f"{name}, batch {batch}",
                )
        axes.set_title(architecture)
        axes.set_xlabel("length")
        axes.legend(frameon=False, fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("forward + backward, ms per sequence")
    write_figure(FIGURE, figure)


def main() -> None:
    """Times and draws all comparisons."""
    console = Console()
    torch.manual_seed(0)
    draw({architecture: compare(architecture, console) for architecture in COMPARISONS})
    console.print(f"figure {FIGURE}")


if __name__ == "__main__":
    outlive_readers()
    child = child_of("Times layers beside others.", "ARCHITECTURE", "NAME", "BATCH", "LENGTH")
    if child:  # of `peak_mib`
        architecture, name, batch, length = child
        layer = COMPARISONS[architecture].create[name]()
        print_peak_mib(
            lambda: step_of(layer, 1, 2)(), lambda: step_of(layer, int(batch), int(length))()
        )
    else:
        main()
