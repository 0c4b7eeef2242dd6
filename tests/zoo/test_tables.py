"""Tables for a terminal, in which names stay whole."""

import io

import pytest
from rich.console import Console

from zoo.evaluation.tables import Grid

NAME = "online_learner.linear_drift_gated_linear_attention"


def shown(grid: Grid, width: int) -> list[str]:
    """The lines of a table in a terminal."""
    text = io.StringIO()
    Console(file=text, width=width).print(grid)
    return [line.rstrip() for line in text.getvalue().splitlines()]


@pytest.mark.parametrize("framed", [False, True])
def test_numbers_take_several_lines_before_a_name_is_folded(framed: bool) -> None:
    grid = Grid(["predictor", "model / predictor", "0.5*MSE"], framed=framed)
    grid.add(NAME, "1.00112 ± 0.00045", "0.21 (heavy tail, 4.5e-05 to 7.5e-05)")
    wide = [line for line in shown(grid, 160) if NAME in line]
    assert ["1.00112 ± 0.00045" in line for line in wide] == [True]
    width = 84 if framed else 80
    lines = shown(grid, width)
    assert max(map(len, lines)) <= width
    (line,) = [line for line in lines if NAME in line]
    assert " 1.00112 " in line
    assert any("± 0.00045" in line for line in lines)
    assert any("(heavy tail," in line for line in lines)


def test_a_name_is_folded_only_where_nothing_else_helps() -> None:
    grid = Grid(["predictor", "error"])
    grid.add(NAME, "0.2074 ± 0.0026")
    lines = shown(grid, 30)
    assert max(map(len, lines)) <= 30
    parts = "".join(line.split("│")[1].strip() for line in lines if line.startswith("│"))
    assert parts == NAME


def test_columns_that_may_be_left_out_go_before_a_row_takes_several_lines() -> None:
    headings = ["checkpoint", "error", "state", "seconds"]
    grid = Grid(headings, least=2, one_line=True, framed=False)
    grid.add(NAME, "0.2", "120", "4")
    for width, last in ((100, "seconds"), (68, "state"), (60, "error")):
        heading, _, row = shown(grid, width)
        assert (heading.split()[-1], row.split()[0]) == (last, NAME)


def test_a_text_in_a_cell_is_no_markup() -> None:
    grid = Grid(["name", "value"], title="[red]title", caption="[b]below")
    grid.add("[red]a", ":smile:")
    text = "\n".join(shown(grid, 80))
    for part in ("[red]title", "[b]below", "[red]a", ":smile:"):
        assert part in text
