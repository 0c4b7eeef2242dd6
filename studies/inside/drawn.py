"""Rows of dots, one for each seed, that the figures share."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from studies.drawing import new_figure
from zoo.metrics.drawing import BLUE, FAINT, GRAY, HOLLOW, VERMILION

# Of what is drawn in one row: of trained models, of controls, of something else.
DOTS: tuple[dict[str, Any], ...] = (
    {"color": BLUE, "marker": "o"},
    {"color": GRAY, "marker": "o", "facecolors": HOLLOW},
    {"color": VERMILION, "marker": "|"},
)
INCHES = 0.17

# Values of the seeds by row, by what is drawn in it.
Rows = Mapping[str, Mapping[str, Sequence[float]]]


def dots(panels: Mapping[str, Rows], label: str, lowest: float, highest: float) -> Figure:
    """A panel for each task, in which each row has the seeds of one place.

    Args:
        panels: Rows by the title of their panel.
        label: Of the horizontal axis.
        lowest: The axis begins here; what is below stands at the edge.
        highest: The axis ends here.
    """
    figure, axes = new_figure(len(panels))
    figure.set_size_inches(5.2 * len(panels), 1.2 + INCHES * max(map(len, panels.values())))
    for ax, (title, rows) in zip(axes, panels.items(), strict=True):
        _panel(ax, rows, lowest, highest)
        ax.set_title(title, fontsize=10)
        ax.set_xlabel(label)
    axes[-1].legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def _panel(ax: Axes, rows: Rows, lowest: float, highest: float) -> None:
    for place, series in enumerate(rows.values()):
        for (name, values), style in zip(series.items(), DOTS, strict=False):
            shown = [min(max(value, lowest), highest) for value in values]
            label = None if place else name
            ax.scatter(shown, [place] * len(shown), s=14, label=label, zorder=3, **style)
    ax.axvline(0, color=FAINT, zorder=0)
    ax.set_xlim(lowest - 0.02, highest + 0.02)
    ax.set_yticks(range(len(rows)), list(rows), fontsize=7)
    ax.invert_yaxis()
