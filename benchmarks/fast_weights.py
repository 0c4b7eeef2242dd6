"""Forward and backward of every rule of fast weights, in chunks and as the loop, in one run.

    python -m benchmarks.fast_weights

Rules are those of `zoo.ops.fast_weights` with the sizes of a layer of width 64: 4 heads, keys and
values of 16 numbers. One thread, time of the processor, the best of several turns; the loop is
timed up to length 1,024. Memory is what the resident set of a fresh process grows by at its peak
over one forward and backward, inputs included, Linux only. The exponent p of time ~ length^p is
that of the chunked form from 1,024 to 16,384 at batch 2. Writes `docs/figures/fast_weights.svg` and
prints the tables.
"""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.timing import (
    FITTED_BATCH,
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
from zoo.memory import keep_freed_memory
from zoo.metrics.drawing import FAINT, Style, bare, styles_of
from zoo.ops import fast_weights
from zoo.terminal import outlive_readers

FIGURE = Path("docs/figures/fast_weights.svg")
HEADS, D = 4, 16
NUM_UPDATES = 2  # of the delta product
MINI_BATCH, HIDDEN = 16, 4 * D  # of test-time training
LOOP_BATCH = 8  # at which the loop is timed too, up to length 1,024
WANTED_FACTOR, WANTED_FROM = 5, 64  # of the loop's time, and the length from which on


class Case(NamedTuple):
    """A rule as an architecture has it.

    Attributes:
        rule: With its settings.
        architecture: Whose colour it is drawn in.
        arguments: Names of the tensors that it takes after q, k and v, of those in `draw`.
        start: Shapes of the parts of a state to begin with, without batch and heads.
        is_wanted: Whether the chunked form should be WANTED_FACTOR times as fast as the loop.
    """

    rule: Callable[..., Any]
    architecture: str
    arguments: tuple[str, ...] = ()
    start: tuple[tuple[int, ...], ...] = ()
    is_wanted: bool = True


TTT = partial(
    fast_weights.test_time_training,
    mini_batch=MINI_BATCH,
    norm=(torch.ones(HEADS, D), torch.zeros(HEADS, D)),
    residual=True,
    position_rates=1 / torch.arange(1, MINI_BATCH + 1),
)
NETWORKS = ((D, D), (D,)), ((D, HIDDEN), (HIDDEN,), (HIDDEN, D), (D,))
GLA, GATED = fast_weights.gated_linear_attention, fast_weights.gated_delta_rule
CASES = {
    "linear_attention": Case(fast_weights.linear_attention, "linear_transformer", is_wanted=False),
    "gated_linear_attention, head": Case(GLA, "mamba2", ("g_head",)),
    "gated_linear_attention, key": Case(GLA, "gla", ("g_key",)),
    "delta_rule": Case(fast_weights.delta_rule, "delta_net", ("beta",)),
    "gated_delta_rule, head": Case(GATED, "gated_delta_net", ("beta", "g_head")),
    "gated_delta_rule, key": Case(GATED, "gated_delta_net", ("beta", "g_key")),
    "delta_product, two updates": Case(
        fast_weights.delta_product, "delta_product", ("beta", "g_head")
    ),
    "longhorn": Case(fast_weights.longhorn, "longhorn", ("beta",)),
    "longhorn, diagonal": Case(
        partial(fast_weights.longhorn, diagonal=True), "longhorn", ("beta_value",)
    ),
    "mesa": Case(fast_weights.mesa, "mesa_net", ("beta", "g_head", "ridge"), is_wanted=False),
    "test_time_training, linear": Case(TTT, "ttt_linear", ("beta",), NETWORKS[0], False),
    "test_time_training, mlp": Case(
        partial(TTT, network="mlp"), "ttt_mlp", ("beta",), NETWORKS[1], False
    ),
}


def draw(case: Case, batch: int, length: int) -> list[Tensor]:
    """q, k, v and the other tensors of a case, keys of norm one, for `length` tokens."""
    tokens = (batch, length, HEADS)
    is_product = case.rule is fast_weights.delta_product
    writes = (batch, length, NUM_UPDATES, HEADS) if is_product else tokens
    others = {
        "beta": lambda: torch.rand(writes),
        "beta_value": lambda: torch.rand(*tokens, D),
        "g_head": lambda: -0.1 * torch.rand(tokens),
        "g_key": lambda: -0.1 * torch.rand(*tokens, D),
        "ridge": lambda: torch.ones(HEADS, D),
    }
    q, k, v = torch.randn(*tokens, D), torch.randn(*writes, D), torch.randn(*writes, D)
    return [q, normalize(k, dim=-1), v, *(others[name]() for name in case.arguments)]


def step_of(label: str, method: str, batch: int, length: int) -> Step:
    """One forward and backward, to all tensors that the rule is given."""
    case = CASES[label]
    tensors = draw(case, batch, length)
    start = tuple(0.02 * torch.randn(batch, HEADS, *shape) for shape in case.start)
    grad = torch.randn(batch, length, HEADS, D)
    given = [tensor.requires_grad_() for tensor in (*tensors, *start)]

    def step() -> None:
        o, _ = case.rule(*tensors, initial_state=start or None, method=method)
        torch.autograd.grad(o, given, grad)

    return step


class Found(NamedTuple):
    """What was measured of one case: milliseconds by shape, MiB by shape.

    Attributes:
        ms: Of the chunked form.
        loop_ms: Of the loop.
        mib: Of the chunked form at the last shape of each batch.
        loop_mib: Of the loop at its last shape.
    """

    ms: dict[Shape, float]
    loop_ms: dict[Shape, float]
    mib: dict[Shape, float]
    loop_mib: dict[Shape, float]


def measure(console: Console) -> dict[str, Found]:
    """Times and memory of all cases."""
    found = {label: Found({}, {}, {}, {}) for label in CASES}
    last = [max(shape for shape in SHAPES if shape[0] == b) for b in (LOOP_BATCH, FITTED_BATCH)]
    work = [(label, shape) for shape in SHAPES for label in CASES]
    for label, shape in track(work, "timing", console=console):
        methods = ("chunked", "loop") if shape[0] == LOOP_BATCH else ("chunked",)
        steps = {method: step_of(label, method, *shape) for method in methods}
        ms = best_ms(steps, time.process_time)
        for method in methods:
            is_loop = method == "loop"
            (found[label].loop_ms if is_loop else found[label].ms)[shape] = ms[method]
            if shape in last:
                mib = found[label].loop_mib if is_loop else found[label].mib
                mib[shape] = peak_mib("benchmarks.fast_weights", label, method, *map(str, shape))
    return found


def print_short(found: dict[str, Found], console: Console) -> None:
    """Prints chunks beside the loop."""
    shapes = [shape for shape in SHAPES if shape[0] == LOOP_BATCH]
    table = Table(
        title=f"ms of the chunked form, how many times faster than the loop, batch {LOOP_BATCH}",
        caption=f"wanted from length {WANTED_FROM}: {WANTED_FACTOR} x; * marks what is below",
    )
    table.add_column("rule")
    lengths = [f"{length:,}" for _, length in shapes]
    for heading in (*lengths, "MiB", "MiB, loop"):
        table.add_column(heading, justify="right")
    for label, (ms, loop_ms, mib, loop_mib) in found.items():
        cells = []
        for shape in shapes:
            factor = loop_ms[shape] / ms[shape]
            is_asked = CASES[label].is_wanted and shape[1] >= WANTED_FROM
            mark = "*" if is_asked and factor < WANTED_FACTOR else ""
            cells.append(f"{ms[shape]:.2f} ({factor:.1f} x{mark})")
        table.add_row(label, *cells, f"{mib[shapes[-1]]:.0f}", f"{loop_mib[shapes[-1]]:.0f}")
    console.print(table)


def print_long(found: dict[str, Found], console: Console) -> None:
    """Prints how the chunked form grows."""
    shapes = [shape for shape in SHAPES if shape[0] == FITTED_BATCH]
    table = Table(
        title=f"ms of the chunked form, batch {FITTED_BATCH}",
        caption=f"wanted: an exponent of {WANTED_EXPONENT} at most",
    )
    table.add_column("rule")
    for heading in (*(f"{length:,}" for _, length in shapes), "exponent", "MiB"):
        table.add_column(heading, justify="right")
    for label, (ms, _, mib, _) in found.items():
        cells = [f"{ms[shape]:.1f}" for shape in shapes]
        table.add_row(label, *cells, f"{exponent_of_length(ms):.2f}", f"{mib[shapes[-1]]:.0f}")
    console.print(table)


def styles() -> dict[str, Style]:
    """The line of each case, in the colour of its architecture."""
    names = [f"{case.architecture} ({label})" for label, case in CASES.items()]
    return dict(zip(CASES, styles_of(names).values(), strict=True))


def plot(found: dict[str, Found]) -> None:
    """The factor over the loop, and milliseconds per sequence, against the length."""
    figure = Figure(figsize=(8.0, 4.6), layout="constrained")
    factors, times = figure.subplots(1, 2)
    for label, style in styles().items():
        ms, loop_ms, _, _ = found[label]
        lengths = [length for _, length in loop_ms]
        factors.loglog(lengths, [loop_ms[s] / ms[s] for s in loop_ms], label=label, **style)
        long = [shape for shape in ms if shape[0] == FITTED_BATCH]
        times.loglog([n for _, n in long], [ms[s] / FITTED_BATCH for s in long], **style)
    factors.axhline(WANTED_FACTOR, color=FAINT, zorder=1)
    factors.yaxis.set_minor_formatter(NullFormatter())
    factors.set_yticks((1, 2, WANTED_FACTOR, 10, 20), ("1", "2", str(WANTED_FACTOR), "10", "20"))
    factors.set_ylabel(f"times faster than the loop, batch {LOOP_BATCH}")
    times.set_ylabel("forward + backward, ms per sequence")
    for axes in (factors, times):
        axes.set_xlabel("length")
    bare(factors, times)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    write_figure(FIGURE, figure)


def main() -> None:
    """Measures, prints and draws."""
    console = Console(width=120)
    torch.manual_seed(0)
    found = measure(console)
    print_short(found, console)
    print_long(found, console)
    plot(found)
    console.print(f"figure {FIGURE}")


if __name__ == "__main__":
    outlive_readers()
    torch.set_num_threads(1)
    child = child_of("Times the rules of fast weights.", "RULE", "METHOD", "BATCH", "LENGTH")
    if child:  # of `peak_mib`
        label, method, batch, length = child
        print_peak_mib(
            lambda: step_of(label, method, 1, 2)(),
            lambda: step_of(label, method, int(batch), int(length))(),
        )
    else:
        keep_freed_memory()  # as train.py does
        main()
