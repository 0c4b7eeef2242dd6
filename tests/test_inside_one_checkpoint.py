"""One checkpoint, looked into by one command: the page says what is known of the model."""

import sys
from pathlib import Path
from typing import Any

import pytest

import zoo
from studies.inside import __main__ as door
from studies.inside import lenses, one, probing, writing
from tests.conftest import MakeCheckpoint
from zoo.hub.io import save_checkpoint
from zoo.models.gd_ssm import GDSSM, construct_gradient_descent_


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few episodes, and signals as the tests have them."""
    for module in (probing, lenses, writing):
        monkeypatch.setattr(module, "NUM_TO_FIT", 60)
    monkeypatch.setattr(lenses, "NUM_TO_MATCH", 10)
    monkeypatch.setattr(one, "NUM_EPISODES", 40)
    for of_a_process in ("exit_on_signals", "raise_on_signals", "outlive_readers"):
        monkeypatch.setattr(door, of_a_process, lambda: None)


def made(monkeypatch: pytest.MonkeyPatch, *typed: str) -> None:
    monkeypatch.setattr(sys, "argv", ["inside", *typed])
    door.main()


def test_the_page_of_one_step_names_it_and_has_four_figures(
    tmp_path: Path,
    card_fields: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = zoo.create_model("gd_ssm", d_x=3, d_y=2)
    assert isinstance(model, GDSSM)
    described = {
        "model_args": {"d_x": 3, "d_y": 2},
        "data": {"d_x": 3, "d_y": 2, "num_context": 6},
    }
    checkpoint, page = tmp_path / "checkpoint", tmp_path / "new" / "page"
    save_checkpoint(checkpoint, construct_gradient_descent_(model, 0.9), card_fields | described)
    made(monkeypatch, str(checkpoint), str(page))
    assert capsys.readouterr().out == f"{page / 'inside.md'}\n"
    text = (page / "inside.md").read_text()
    figures = {f"{i}.{kind}" for i in (1, 2, 3, 4) for kind in ("png", "svg")}
    assert {path.name for path in page.iterdir()} == {"inside.md", *figures}
    assert [f"({i}.png)" in text for i in (1, 2, 3, 4)] == [True] * 4
    assert f"python -m studies.inside {checkpoint} {page}" in text.replace("\n", " ")
    (state,) = (line for line in text.splitlines() if line.startswith("| state 1 | 5 |"))
    assert state.split(" | ")[5].startswith("1.000 (")  # of B; the state is one example behind
    (layer,) = (line for line in text.splitlines() if line.startswith("| 1 | "))
    assert "gradient descent, 1 step (1" in layer
    (weights,) = (line for line in text.splitlines() if line.startswith("| one step of"))
    assert weights.split(" | ")[1:3] == ["1.000", "1.000"]
    assert "The model has no residual stream." in text
    assert "over these episodes" in text.replace("\n", " ")


def test_the_page_of_a_transformer_says_that_it_has_no_state(
    tmp_path: Path, make_checkpoint: MakeCheckpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = make_checkpoint("transformer", d_model=8, num_heads=2, num_layers=1, d_y=1)
    made(monkeypatch, str(checkpoint), str(tmp_path))
    text = (tmp_path / "inside.md").read_text().replace("\n", " ")
    assert "The model has no state that keeps its size: it keeps its examples." in text
    assert "| stream 1 |" in text
    assert "| state" not in text


def test_where_there_is_no_place_at_all_the_page_says_so(
    tmp_path: Path, make_checkpoint: MakeCheckpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = make_checkpoint("linear_transformer", num_layers=1, d_y=1)
    made(monkeypatch, str(checkpoint), str(tmp_path))
    text = (tmp_path / "inside.md").read_text()
    assert "no residual stream and no state" in text
    assert "(1.png)" not in text
    assert "(2.png)" in text


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (("gd_ssm.classification",), "error: a model is looked into where labels are values, got"),
        (("gd_ssm.linaer",), "error: 'gd_ssm.linaer' is a name, and no checkpoint is known by it."),
        ((), "usage: python -m studies.inside NAME_OR_PATH [DIRECTORY]"),
        (("gd_ssm.linear", __file__), "error: the page is written to a directory, got the file"),
    ],
)
def test_what_cannot_be_looked_into_ends_with_one_line(
    typed: tuple[str, ...],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        made(monkeypatch, *typed)
    assert str(ended.value.code).startswith(said)
    assert "\n" not in str(ended.value.code)
    assert list(tmp_path.iterdir()) == []


def test_pages_of_several_runs_have_directories_of_their_own() -> None:
    assert one.directory_of("gd_ssm.linear@1") == Path("runs/inside/gd_ssm.linear@1")
    assert one.directory_of("runs/a/checkpoint") == Path("runs/inside/runs-a-checkpoint")
    assert one.directory_of("../x/") == Path("runs/inside/x")
