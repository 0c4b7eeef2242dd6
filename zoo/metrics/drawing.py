"""What all figures share: a colour and a line for each predictor, curves with bands, labels."""

import hashlib
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

from matplotlib.axes import Axes

from zoo.metrics.text import Number, loss_label
from zoo.registry import list_models

# The palette of Okabe and Ito, whose colours colour-blind readers tell apart.
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILION, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
PALETTE = (BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE)
# Of histograms, and of lines that only guide the eye.
GRAY, FAINT = "0.6", "0.8"
# Of the inside of points.
HOLLOW = "white"
# Of heat maps: zero is white.
DIVERGING = "RdBu_r"

SOLID, DASHED, DOTTED, DASH_DOT = "-", "--", ":", "-."
DASH_DOT_DOT = (0, (6, 1, 1, 1, 1, 1))
DASH_DASH_DOT = (0, (4, 1, 4, 1, 1, 1))
LONG_DASHES = (0, (12, 1))
LONG_DASHES_DOT = (0, (12, 1, 1, 1))
FULL = (SOLID, LONG_DASHES, LONG_DASHES_DOT)  # or nearly so
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")

# By line, in the order of the palette. Architectures are solid or nearly so, algorithms are not.
_LINES: dict[Any, tuple[str, ...]] = {
    SOLID: (
        "gd_ssm",
        "linear_transformer",
        "gd_ssm_features",
        "mamba",
        "transformer",
        "gd_ssm_deep",
        "s5",
        "gd_ssm_embedded",
    ),
    LONG_DASHES: (
        "delta_net",
        "gated_delta_net",
        "delta_product",
        "gla",
        "mesa_net",
        "mamba2",
        "longhorn",
        "online_learner",
    ),
    LONG_DASHES_DOT: ("ttt_linear", "ttt_mlp", "hybrid"),
    DASHED: (
        "zero",
        "gradient_descent",
        "kalman_filter",
        "ridge",
        "averaging",
        "least_squares",
        "lasso",
        "conjugate_gradient",
    ),
    DOTTED: (
        "mean",
        "online_gradient_descent",
        "recursive_least_squares",
        "ridge_evidence",
        "longhorn (solver)",  # there is an architecture of that name
        "newton",
        "minibatch_gradient_descent",
        "normalized_lms",
    ),
    DASH_DOT: (
        "dmmse",
        "weighted_gradient_descent",
        "fixed_features",
        "scheduled_gradient_descent",
        "two_layer_network",
        "random_features_ridge",
        "preconditioned_gradient_descent",
        "knn",
    ),
    DASH_DOT_DOT: (
        "decision_tree",
        "softmax_gradient_descent",
        "boosted_trees",
        "closed_form",  # the expected error of a step of gradient descent
        "logistic_regression",
        "gradient_descent_plus_plus",
    ),
    DASH_DASH_DOT: (  # those that learn nothing from labels, and the dictionary
        "uniform",
        "context_ngrams",
        "dictionary",
        "group_table",
        "symbol_copy",
        "symbol_lookup",
        "list_ops_parser",
        "fitted_ngrams",
    ),
}
STYLES: dict[str, tuple[str, Any]] = {
    name: (color, line)
    for line, names in _LINES.items()
    for name, color in zip(names, PALETTE, strict=False)
}
# Nothing is learned there: a line to compare with, apart from the black of `gd_ssm`.
STYLES["zero"] = GRAY, DASHED
OTHER_NAMES = {"best_schedule": "scheduled_gradient_descent"}

Style = dict[str, Any]


def style_of(label: str) -> Style:
    """Colour and line of a predictor in every figure, as arguments of matplotlib's `plot`.

    Args:
        label: Name of an architecture or a solver, or what begins with one: of a checkpoint
            (`gd_ssm.linear`), with arguments (`knn(k=3)`) or a number of steps
            (`gradient_descent_4`). A name that is in no table has a line of its own.
    """
    name = _name_in(label)
    if name in STYLES:
        color, line = STYLES[name]
    else:
        digest = hashlib.sha256(name.encode()).digest()
        dashes = (0, (2 + digest[1] % 8, 1 + digest[2] % 3))
        color = PALETTE[digest[0] % 8]
        line = LONG_DASHES_DOT if name in list_models() else dashes
    # An algorithm lies on top of a model that does the same, which shows in its gaps.
    return {"color": color, "linestyle": line, "zorder": 2 if line in FULL else 3}


def marked(style: Style, marker: str = "o") -> Style:
    """A style with a marker at each point."""
    return {**style, "marker": marker, "markersize": 3.5}


def styles_of(labels: Iterable[str]) -> dict[str, Style]:
    """`style_of` all lines of a figure; those of one architecture or solver differ in markers."""
    seen: dict[str, int] = {}
    styles = {}
    for label in labels:
        name = _name_in(label)
        seen[name] = seen.get(name, -1) + 1
        styles[label] = marked(style_of(label), MARKERS[seen[name] % len(MARKERS)])
    return styles


def bounds(number: Number) -> tuple[float, float]:
    """Between what a measured number may lie: its interval, or the range of a heavy tail.

    It is NaN where the tail is heavy and its range was not measured, and the number alone where
    nothing is left but rounding.
    """
    value = number.value
    if number.lowest is not None and number.highest is not None:
        return min(value, number.lowest), max(value, number.highest)
    if number.ci95 is not None:
        return value - number.ci95, value + number.ci95
    return (value, value) if number.tail_share is None else (math.nan, math.nan)


def draw_curve(
    axes: Axes, places: Sequence[float], points: Sequence[Number | None], label: str, style: Style
) -> None:
    """A line with the band of its `bounds`; a hollow point is one whose bounds are not known.

    Args:
        axes: Where it is drawn.
        places: Of the points.
        points: None where there is no number.
        label: Of the line.
        style: Of the line, as `style_of` gives it.
    """
    found = [(x, point) for x, point in zip(places, points, strict=True) if point is not None]
    x = [place for place, _ in found]
    values = [point.value for _, point in found]
    low, high = zip(*(bounds(point) for _, point in found), strict=True) if found else ((), ())
    axes.plot(x, values, label=label, **style)
    axes.fill_between(x, low, high, color=style["color"], alpha=0.2, linewidth=0)
    hollow = [i for i, bound in enumerate(low) if math.isnan(bound)]
    axes.plot(
        [x[i] for i in hollow],
        [values[i] for i in hollow],
        linestyle="none",
        marker=style.get("marker", MARKERS[0]),
        markersize=5,
        markerfacecolor=HOLLOW,
        markeredgecolor=style["color"],
        zorder=4,
    )


def label_examples(axes: Axes) -> None:
    """The horizontal axis of a learning curve."""
    axes.set_xlabel("examples in the context")


def label_loss(axes: Axes, loss: str = "half_mse", at_place: bool = False) -> None:
    """The vertical axis of a loss, which is called as tables call it."""
    axes.set_ylabel(loss_label(loss, at_place))


def bare(*all_axes: Axes) -> None:
    """Takes off the lines above and to the right."""
    for axes in all_axes:
        axes.spines[["top", "right"]].set_visible(False)


def _name_in(label: str) -> str:
    name = re.split(r"[.,( ]", label)[0]
    if re.match(rf"{name} \(solver[,)]", label):
        return f"{name} (solver)"
    if name not in STYLES:
        name = re.sub(r"_\d+$", "", name)
    return OTHER_NAMES.get(name, name)
