"""One colour and line for each predictor in every figure; bands that say what is known."""

import ast
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from matplotlib.colors import CSS4_COLORS
from matplotlib.figure import Figure

import zoo
from zoo.analysis.figures import learning_curve_figure
from zoo.evaluation.names import solver_label
from zoo.files import ROOT
from zoo.metrics import drawing
from zoo.metrics.drawing import (
    FULL,
    GRAY,
    PALETTE,
    STYLES,
    bounds,
    draw_curve,
    style_of,
    styles_of,
)
from zoo.metrics.errors import Summary

FILES = [
    path
    for part in ("zoo", "studies", "benchmarks", "docs")
    for path in sorted((ROOT / part).rglob("*.py"))
    if path != Path(drawing.__file__)
]
COLORED = {"c", "color", "cmap", "facecolor", "edgecolor", "markerfacecolor", "markeredgecolor"}


def test_every_architecture_and_every_solver_has_a_colour_and_line_of_its_own() -> None:
    solvers = [solver_label(name, {}) for name in zoo.list_solvers()]
    names = [*zoo.list_models(), *solvers, "closed_form"]
    seen: dict[Any, str] = {}
    for name in names:
        style = style_of(name)
        assert style["color"] in (*PALETTE, GRAY)
        pair = style["color"], style["linestyle"]
        assert pair not in seen, f"{name} is drawn like {seen[pair]}"
        seen[pair] = name


def test_architectures_are_solid_or_nearly_so_and_solvers_are_not() -> None:
    solvers = [solver_label(name, {}) for name in zoo.list_solvers()]
    for name in {*STYLES, *zoo.list_models(), *solvers}:
        assert (style_of(name)["color"] == GRAY) == (name == "zero"), name
        is_full = style_of(name)["linestyle"] in FULL
        assert is_full == (name in zoo.list_models()), name


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("gd_ssm.linear_two_steps", "gd_ssm"),
        ("gd_ssm.linear runs/a/checkpoint", "gd_ssm"),
        ("gradient_descent_4", "gradient_descent"),
        ("gradient_descent(num_steps=4)", "gradient_descent"),
        ("best_schedule_4", "scheduled_gradient_descent"),
        ("longhorn.linear", "longhorn"),
        ("longhorn (solver, step_size=0.1)", "longhorn (solver)"),
    ],
)
def test_what_begins_with_a_name_is_drawn_like_it(label: str, name: str) -> None:
    assert style_of(label) == style_of(name)


def test_an_unknown_name_has_the_same_line_in_every_process() -> None:
    style = style_of("of_somebody")
    assert (style["color"], style["linestyle"]) == ("#56B4E9", (0, (5, 1)))
    assert style_of("of_somebody.linear") == style
    assert style_of("of_somebody_else") != style


def test_lines_of_one_architecture_in_one_figure_differ_in_markers() -> None:
    labels = ["gd_ssm.linear", "mamba.linear", "gd_ssm.linear_two_steps", "gd_ssm.linear_gaussian"]
    styles = styles_of(labels)
    assert [styles[label]["marker"] for label in labels] == ["o", "o", "s", "^"]


def test_a_point_whose_tail_is_heavy_has_the_range_of_further_sets_or_is_hollow() -> None:
    fair, rounding = Summary(2.0, 0.1, 1.9, 0.01), Summary(1e-12, None, 1e-13)
    known, unknown = Summary(3.0, None, 1.0, 0.5, 2.5, 9.0), Summary(4.0, None, 1.0, 0.5)
    assert bounds(fair) == (1.9, 2.1)
    assert bounds(rounding) == (1e-12, 1e-12)
    assert bounds(known) == (2.5, 9.0)
    assert all(map(math.isnan, bounds(unknown)))
    axes = Figure().subplots()
    points = [fair, None, known, unknown, rounding]
    draw_curve(axes, range(5), points, "gd_ssm", style_of("gd_ssm"))
    line, hollow = axes.lines
    assert list(line.get_xdata()) == [0, 2, 3, 4]
    assert list(hollow.get_xdata()) == [3]
    assert hollow.get_markerfacecolor() == "white"


def test_the_model_of_a_report_is_drawn_like_its_architecture() -> None:
    curve = [Summary(1.0, 0.1), Summary(0.5, 0.1)]
    figure = learning_curve_figure({"zero": curve, "model": curve}, "half_mse", "mamba")
    (axes,) = figure.axes
    colors = {line.get_label(): line.get_color() for line in axes.lines}
    assert (colors["model"], colors["zero"]) == (style_of("mamba")["color"], GRAY)
    assert axes.get_ylabel() == "0.5*MSE"


def test_no_other_file_names_a_colour() -> None:
    assert len(FILES) > 100
    found = [f"{path.relative_to(ROOT)}: {text}" for path in FILES for text in colors_in(path)]
    assert not found


def test_a_number_with_its_interval_is_put_together_in_one_place() -> None:
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr) and path.name != "text.py":
                text = ast.unparse(node)
                assert not re.search(r"± ?\{", text), f"{path.relative_to(ROOT)}: {text}"


def colors_in(path: Path) -> Iterator[str]:
    """What in a file is a colour for matplotlib, or a line in a colour such as `k--`."""
    pattern = r"tab:\w+|C\d|#[0-9a-fA-F]{6}|[bgrcmykw](-|--|-\.|:)"
    for node in ast.walk(ast.parse(path.read_text())):
        values: list[ast.AST] = [node]
        if named := isinstance(node, ast.keyword) and node.arg in COLORED:
            value = node.value
            values = [value.body, value.orelse] if isinstance(value, ast.IfExp) else [value]
        for part in values:
            text = part.value if isinstance(part, ast.Constant) else None
            if isinstance(text, str) and (
                named or text in CSS4_COLORS or re.fullmatch(pattern, text)
            ):
                yield text
