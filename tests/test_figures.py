"""The figures of the guide are those that docs/make_figures.py makes, and show what they say."""

import math
import re
import runpy
from pathlib import Path

import pytest
import torch

import zoo
from zoo.models.gd_ssm import construct_gradient_descent_

DOCS = Path(__file__).parents[1] / "docs"
MAKER = runpy.run_path(str(DOCS / "make_figures.py"))


def test_every_figure_can_be_made_and_is_shown_on_a_page(tmp_path: Path) -> None:
    MAKER["main"](tmp_path)
    made = {path.name for path in tmp_path.glob("*.svg")}
    shown = {
        page: set(re.findall(r"\]\(figures/([^)]+)\)", (DOCS / page).read_text()))
        for page in ("guide.md", "questions.md", "architectures.md")
    }
    assert made <= set.union(*shown.values())
    assert shown["guide.md"] | shown["questions.md"] <= made
    for name in made:
        drawn_from = re.search(
            "<dc:description>(.*)</dc:description>", (DOCS / "figures" / name).read_text()
        )
        assert drawn_from is not None
        assert drawn_from[1] == MAKER["drawn_from"](), f"python docs/make_figures.py renews {name}"


@pytest.mark.parametrize("step_sizes", [(0.6,), (0.4, 1.1), (0.3, 0.4, 0.8, 2.0)])
def test_what_is_left_of_a_target_is_the_polynomial_of_the_steps(
    step_sizes: tuple[float, ...],
) -> None:
    model = zoo.create_model("gd_ssm", d_x=3, d_y=3, num_steps=len(step_sizes))
    construct_gradient_descent_(model, step_sizes)
    eigenvalues = torch.linspace(0, 4, 9)
    left = math.prod(1 - eta * eigenvalues for eta in step_sizes)
    torch.testing.assert_close(1 - MAKER["explained"](model, eigenvalues), left)
