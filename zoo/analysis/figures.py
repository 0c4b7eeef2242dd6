"""Figures, as matplotlib objects that nobody has to close."""

import math
from collections.abc import Mapping, Sequence

from matplotlib import rc_context, rcParams
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from zoo.metrics.drawing import (
    DIVERGING,
    bare,
    bounds,
    draw_curve,
    label_examples,
    label_loss,
    styles_of,
)
from zoo.metrics.errors import Summary

CURVE_WIDTH, PAIR_WIDTH = 6.0, 2.6  # in inches
# Pairs of weights side by side; more would not fit on a screen. And in a thumbnail.
WEIGHTS_IN_A_ROW = 8
WEIGHTS_IN_A_THUMBNAIL = 4
# What TensorBoard makes of an image, and the letters that are read there, in pixels.
THUMBNAIL_WIDTH, LETTERS = 345, 12


def learning_curve_figure(
    curves: Mapping[str, Sequence[Summary | None]], loss: str, architecture: str = "model"
) -> Figure:
    """A loss against the number of examples, with 95 % bands, or the range of a heavy tail.

    A point with a heavy tail whose range was not measured is hollow, without a band.

    Args:
        curves: For each predictor its loss after 0, 1, ... examples, None where there is no number.
        loss: Its name.
        architecture: Of the curve that is called `"model"`.
    """
    figure = Figure(figsize=(CURVE_WIDTH, 4.0), layout="constrained")
    axes = figure.subplots()
    of_label = {name: architecture if name == "model" else name for name in curves}
    styles = styles_of(of_label.values())
    for name, curve in curves.items():
        draw_curve(axes, range(len(curve)), curve, name, styles[of_label[name]])
    label_examples(axes)
    label_loss(axes, loss)
    # An algorithm that diverges must not flatten the others.
    starts = [next((p for p in c if p is not None), None) for c in curves.values()]
    highest = max((point.value for point in starts if point), default=1.0)
    axes.set_ylim(0, 1.02 if loss == "accuracy" else 1.5 * highest)
    _legend_below(figure)
    bare(axes)
    return figure


def thumbnail_curve_figure(
    curves: Mapping[str, Sequence[Summary | None]], loss: str, architecture: str = "model"
) -> Figure:
    """`learning_curve_figure` to be read in a thumbnail of TensorBoard."""
    with rc_context({"font.size": _letters_at(CURVE_WIDTH)}):
        return _with_large_ticks(learning_curve_figure(curves, loss, architecture))


def thumbnail_weights_figure(weights: Mapping[str, tuple[Tensor, Tensor]]) -> Figure:
    """`weights_figure` to be read in a thumbnail of TensorBoard, four pairs in a row.

    A title is the name of a pair, with what is above and below it on the left of each row.
    """
    with rc_context({"font.size": _letters_at(PAIR_WIDTH * WEIGHTS_IN_A_THUMBNAIL)}):
        figure = _with_large_ticks(weights_figure(weights, WEIGHTS_IN_A_THUMBNAIL))
        for axes in figure.axes:
            name, _, kind = axes.get_title().rpartition(", ")
            axes.set_title(name if kind == "trained" else "", fontsize=0.8 * rcParams["font.size"])
            if not axes.images:  # the scale of a pair
                axes.yaxis.set_major_locator(MaxNLocator(3))
            elif (place := axes.get_subplotspec()) is not None and place.is_first_col():
                axes.set_ylabel(kind)
    return figure


def sweep_figure(
    table: Mapping[str, Mapping[str, Summary | None]],
    settings: Sequence[str],
    axis: str,
    loss: str,
) -> Figure:
    """A loss at the query against a setting, with its bounds, one line for each predictor.

    Args:
        table: Predictor to setting to its number, None or absent where there is none.
        settings: In order; if all are numbers, places on the axis.
        axis: What they differ in.
        loss: Its name; an error is drawn on a logarithmic scale if all numbers are positive.
    """
    figure = Figure(figsize=(6.0, 4.0), layout="constrained")
    axes = figure.subplots()
    try:
        places = {setting: float(setting) for setting in settings}
    except ValueError:
        places = dict(zip(settings, map(float, range(len(settings))), strict=True))
        axes.set_xticks(list(places.values()), settings)
    styles = styles_of(table)
    for name, found in table.items():
        points = [(places[setting], at) for setting, at in found.items() if at is not None]
        axes.errorbar(
            [place for place, _ in points],
            [at.value for _, at in points],
            [
                [at.value - bounds(at)[0] for _, at in points],
                [bounds(at)[1] - at.value for _, at in points],
            ],
            capsize=2,
            label=name,
            **styles[name],
        )
    values = [at.value for found in table.values() for at in found.values() if at is not None]
    if values and min(values) > 0 and not loss.startswith("accuracy"):
        axes.set_yscale("log")
    axes.set_xlabel(axis)
    label_loss(axes, loss, at_place=True)
    _legend_below(figure)
    bare(axes)
    return figure


def weights_figure(
    weights: Mapping[str, tuple[Tensor, Tensor]], in_a_row: int = WEIGHTS_IN_A_ROW
) -> Figure:
    """Heat-maps of trained weights, each above the constructed one.

    Args:
        weights: Name to (trained, constructed), as `weights_beside_construction` gives them. Each
            pair shares a colour scale. Single numbers, which a colour does not tell, are left out.
        in_a_row: Most pairs side by side.
    """
    pairs = {name: pair for name, pair in weights.items() if pair[0].numel() > 1}
    num_columns = min(len(pairs), in_a_row)
    num_rows = math.ceil(len(pairs) / num_columns)
    figure = Figure(figsize=(PAIR_WIDTH * num_columns, 4.6 * num_rows), layout="constrained")
    axes = figure.subplots(2 * num_rows, num_columns, squeeze=False)
    for i, (name, pair) in enumerate(pairs.items()):
        row, column = divmod(i, num_columns)
        above_and_below = axes[2 * row : 2 * row + 2, column]
        limit = max(w.abs().max().item() for w in pair) or 1.0
        for panel, kind, w in zip(above_and_below, ("trained", "constructed"), pair, strict=True):
            image = panel.imshow(
                w.reshape(-1, w.shape[-1]).float().cpu().numpy(),
                cmap=DIVERGING,
                vmin=-limit,
                vmax=limit,
            )
            panel.set_title(f"{name}, {kind}", fontsize=0.9 * rcParams["font.size"])
            panel.set_xticks([])
            panel.set_yticks([])
        figure.colorbar(image, ax=list(above_and_below), shrink=0.7)
    for panel in axes.flat:
        if not panel.has_data():
            panel.set_axis_off()
    return figure


def lay_out_as(figure: Figure, drawn: Figure) -> None:
    """Gives a figure the layout of one like it that was drawn; finding it is half of drawing.

    Args:
        figure: Not drawn yet, or `drawn` itself, which is then drawn again as it is.
        drawn: With the same axes.
    """
    places = [axes.get_position(original=True) for axes in drawn.axes]
    figure.set_layout_engine("none")
    for axes, place in zip(figure.axes, places, strict=True):
        axes.set_position(place)


def _letters_at(width: float) -> float:
    """The points of letters that have `LETTERS` pixels where so many inches are a thumbnail."""
    return LETTERS * 72 * width / THUMBNAIL_WIDTH


def _with_large_ticks(figure: Figure) -> Figure:
    """Gives ticks the letters of the context, which is over when they are drawn."""
    for axes in figure.axes:
        axes.tick_params(labelsize=0.9 * rcParams["font.size"])
    return figure


def _legend_below(figure: Figure) -> None:
    """One legend for all axes, in as many columns, up to two, as its labels leave room for."""
    labels = [label for axes in figure.axes for label in axes.get_legend_handles_labels()[1]]
    # An inch of 8 points is some 14 letters; a line sample takes the room of six.
    size = 0.8 * rcParams["font.size"]
    letters = figure.get_size_inches()[0] * 14 * 8 / size
    longest = max((len(label) for label in labels), default=0) + 6
    ncols = 2 if 2 * longest <= letters else 1
    figure.legend(frameon=False, fontsize=size, loc="outside lower center", ncols=ncols)
