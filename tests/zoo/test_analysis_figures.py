"""What figures of weights show, for any number of weights."""

import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text

from zoo.analysis.construction import weights_beside_construction
from zoo.analysis.figures import (
    thumbnail_curve_figure,
    thumbnail_weights_figure,
    weights_figure,
)
from zoo.metrics.errors import error_summary
from zoo.models.gd_ssm import GDSSM, GDSSMConfig


def titles_of_images(figure: Figure) -> list[str]:
    return [axes.get_title() for axes in figure.axes if axes.images]


@pytest.mark.parametrize("num_weights", [1, 7, 8, 9, 17])
def test_every_pair_of_weights_is_drawn_in_rows_of_eight(num_weights: int) -> None:
    weights = {f"W_{i}": (torch.randn(3, 3), torch.eye(3)) for i in range(num_weights)}
    figure = weights_figure(weights)
    assert sorted(titles_of_images(figure)) == sorted(
        f"{name}, {kind}" for name in weights for kind in ("trained", "constructed")
    )
    for name in weights:
        trained, constructed = (
            next(axes for axes in figure.axes if axes.get_title() == f"{name}, {kind}")
            for kind in ("trained", "constructed")
        )
        above, below = trained.get_subplotspec(), constructed.get_subplotspec()
        assert above is not None
        assert below is not None
        assert above.colspan == below.colspan
        assert above.rowspan.stop == below.rowspan.start
    width, height = figure.get_size_inches()
    assert width == pytest.approx(2.6 * min(num_weights, 8))
    assert height == pytest.approx(4.6 * ((num_weights + 7) // 8))


def test_single_numbers_have_no_panel() -> None:
    model = GDSSM(GDSSMConfig(d_x=3, d_y=3, num_steps=4, shape_E="scalar"))
    shown = titles_of_images(weights_figure(weights_beside_construction(model, 0.5)))
    assert "C_4, trained" in shown
    assert not any(title.startswith("E_") for title in shown)


def smallest_letters(figure: Figure) -> float:
    """Their size in pixels where the figure is 345 pixels wide, as TensorBoard shows it."""
    figure.draw_without_rendering()
    found = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
    points: float = min(text.get_fontsize() for text in found)  # type: ignore[attr-defined]
    return points / 72 * 345 / figure.get_size_inches()[0]


@pytest.mark.parametrize("num_steps", [1, 2])
def test_thumbnails_have_letters_of_nine_pixels_or_more(num_steps: int) -> None:
    curve = [error_summary(torch.rand(20)) for _ in range(5)]
    assert smallest_letters(thumbnail_curve_figure({"model": curve, "zero": curve}, "half_mse")) > 9
    model = GDSSM(GDSSMConfig(d_x=3, d_y=3, num_steps=num_steps))
    figure = thumbnail_weights_figure(weights_beside_construction(model, 0.5))
    assert smallest_letters(figure) > 9
    assert {axes.get_ylabel() for axes in figure.axes} >= {"trained", "constructed"}
