"""Figures, as matplotlib objects that nobody has to close."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor

from zoo.metrics.errors import Interval


def learning_curve_figure(curves: Mapping[str, Sequence[Interval]]) -> Figure:
    """0.5*MSE against the number of examples, with 95 % bands.

    Args:
        curves: For each predictor its error after 0, 1, ... examples; `"model"` stands out.
    """
    figure = Figure(figsize=(6.0, 4.0), layout="constrained")
    axes = figure.subplots()
    for name, curve in curves.items():
        num_examples = range(len(curve))
        values = [point.value for point in curve]
        # A model may lie exactly on an algorithm: it goes on top, and lets through what is below.
        style: dict[str, Any] = (
            {"color": "black", "linestyle": "--", "zorder": 3} if name == "model" else {}
        )
        (line,) = axes.plot(num_examples, values, marker="o", markersize=3, label=name, **style)
        axes.fill_between(
            num_examples,
            [point.value - point.ci95 for point in curve],
            [point.value + point.ci95 for point in curve],
            color=line.get_color(),
            alpha=0.2,
            linewidth=0,
        )
    axes.set_xlabel("examples in the context")
    axes.set_ylabel("0.5*MSE")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def weights_figure(weights: Mapping[str, tuple[Tensor, Tensor]]) -> Figure:
    """Heat-maps of trained weights (top row) above constructed ones (bottom row).

    Args:
        weights: Name to (trained, constructed), as `weights_beside_construction` gives them. Each
            pair shares a colour scale.
    """
    figure = Figure(figsize=(2.6 * len(weights), 4.6), layout="constrained")
    axes = figure.subplots(2, len(weights), squeeze=False)
    for column, (name, pair) in enumerate(weights.items()):
        limit = max(w.abs().max().item() for w in pair) or 1.0
        for row, (kind, w) in enumerate(zip(("trained", "constructed"), pair, strict=True)):
            image = axes[row, column].imshow(
                w.reshape(-1, w.shape[-1]).float().cpu().numpy(),
                cmap="RdBu_r",
                vmin=-limit,
                vmax=limit,
            )
            axes[row, column].set_title(f"{name}, {kind}", fontsize=9)
            axes[row, column].set_xticks([])
            axes[row, column].set_yticks([])
        figure.colorbar(image, ax=list(axes[:, column]), shrink=0.7)
    return figure
