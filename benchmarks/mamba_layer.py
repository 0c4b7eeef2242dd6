"""Forward and backward of one Mamba layer, beside the parallel scan of mamba.py.

    pip install mambapy        (optional: without it only this project's layer is measured)
    python -m benchmarks.mamba_layer

Times are the best of a few repeats, the two layers in turn. Memory is what the resident set of a
fresh process grows by at its peak over one forward and backward, Linux only.
"""

import importlib
import math
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from zoo.models.mamba import MambaLayer

D_MODEL, D_STATE, EXPAND = 64, 16, 2
# batch, length
SHAPES = [(8, 16), (8, 64), (8, 256), (8, 1024), (2, 1024), (2, 2048), (2, 4096), (2, 16384)]
# The peer holds several tensors of (batch, length, d_inner, d_state).
PEER_UP_TO = 4096
WANTED_FACTOR, WANTED_EXPONENT = 4, 1.1
SECONDS = 1.0  # of repeats for each layer and shape

Layer = Callable[[Tensor], Tensor]


def ours() -> Layer:
    layer = MambaLayer(D_MODEL, D_STATE, expand=EXPAND)
    return lambda s: layer(s)[0]


def peer() -> Layer:
    """mamba.py's layer of the same sizes; ImportError where it is not installed."""
    mambapy = importlib.import_module("mambapy.mamba")
    config = mambapy.MambaConfig(D_MODEL, 1, d_state=D_STATE, expand_factor=EXPAND, pscan=True)
    layer: Layer = mambapy.MambaBlock(config)
    return layer


LAYERS = {"ours": ours, "peer": peer}


def seconds(layer: Layer, s: Tensor) -> float:
    """Of one forward and backward."""
    start = time.perf_counter()
    layer(s).sum().backward()
    return time.perf_counter() - start


def best_ms(layers: dict[str, Layer], batch: int, length: int) -> dict[str, float]:
    """Milliseconds of each layer, measured in turn so that all meet the same machine."""
    s = torch.randn(batch, length, D_MODEL, requires_grad=True)
    # The first run allocates; the second says how many repeats there is time for.
    first = {name: [seconds(layer, s), seconds(layer, s)][1] for name, layer in layers.items()}
    repeats = max(2, min(50, int(SECONDS / max(first.values()))))
    best = first
    for _ in range(repeats):
        best = {name: min(best[name], seconds(layer, s)) for name, layer in layers.items()}
    return {name: 1e3 * value for name, value in best.items()}


def peak_mib(name: str, batch: int, length: int) -> float:
    """`print_peak_mib` in a process of its own, since a peak never falls again."""
    command = [sys.executable, "-m", "benchmarks.mamba_layer", name, str(batch), str(length)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(run.stdout)


def print_peak_mib(name: str, batch: int, length: int) -> None:
    layer = LAYERS[name]()
    seconds(layer, torch.randn(1, 2, D_MODEL))  # libraries and thread pools come with the first
    s = torch.randn(batch, length, D_MODEL)
    before = peak_kib()
    seconds(layer, s)
    print((peak_kib() - before) / 1024)


def peak_kib() -> int:
    """High-water mark of this process. (`ru_maxrss` would begin with that of the parent.)"""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def main() -> None:
    console = Console()
    layers = {"ours": ours()}
    try:
        layers["peer"] = peer()
    except ImportError:
        console.print("mambapy is not installed: only this project's layer is measured")
    table = Table(
        title=f"Mamba layer, forward + backward, d_model {D_MODEL}, d_state {D_STATE}, "
        f"expand {EXPAND}, {torch.get_num_threads()} threads"
    )
    headings = "batch, length|ours, ms|mamba.py, ms|factor|wanted|ours, MiB|mamba.py, MiB|one state"
    for heading in headings.split("|"):
        table.add_column(heading, justify="right")
    long = {}
    for batch, length in track(SHAPES, "timing", console=console):
        here = {n: layer for n, layer in layers.items() if n == "ours" or length <= PEER_UP_TO}
        ms = best_ms(here, batch, length)
        mib = {name: peak_mib(name, batch, length) for name in here}
        if batch == 2:
            long[length] = ms["ours"]
        compared = "peer" in ms
        table.add_row(
            f"{batch}, {length}",
            f"{ms['ours']:.1f}",
            f"{ms['peer']:.1f}" if compared else "",
            f"{ms['peer'] / ms['ours']:.1f} x" if compared else "",
            f"{WANTED_FACTOR} x" if compared and length >= 256 else "",
            f"{mib['ours']:.0f}",
            f"{mib['peer']:.0f}" if compared else "",
            # For scale: float32 states of every step, (batch, length, d_inner, d_state).
            f"{batch * length * EXPAND * D_MODEL * D_STATE * 4 / 2**20:.0f} MiB",
        )
    console.print(table)
    exponent = np.polyfit([math.log(n) for n in long], [math.log(v) for v in long.values()], 1)[0]
    console.print(
        f"ours grows as length^{exponent:.2f} from {min(long)} to {max(long)}, "
        f"wanted at most {WANTED_EXPONENT}"
    )


if __name__ == "__main__":
    if len(sys.argv) == 4:
        print_peak_mib(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
    else:
        main()
