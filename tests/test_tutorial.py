"""docs/tutorial.md, done in a copy of the repository from top to bottom, a process a block."""

import json
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from shutil import rmtree

import pytest

from tests.pages import ROOT, blocks_of, check_shown, copy_repository, follow

PAGE = ROOT / "docs" / "tutorial.md"
# The page says that numbers may differ by a few per cent; the last digit that is shown by more.
REL, ABS = 0.1, 0.05


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of the repository in which the page has been followed; what it shows was printed."""
    pytest.importorskip("sklearn")
    copy = tmp_path_factory.mktemp("repository")
    copy_repository(copy)
    for block in blocks_of(PAGE):
        check_shown(block.shown, follow(block, copy, {}), rel=REL, abs=ABS)
    yield copy
    rmtree(copy)


def ratio(checkpoint: Path, algorithm: str) -> float:
    """The error of a trained model on its test episodes, divided by that of an algorithm."""
    card = json.loads((checkpoint / "card.json").read_text())
    assert card["data"]["function"] == {"name": "kinked_line"}
    value: float = card["metrics"][f"test/ratio_to_{algorithm}"]["value"]
    return value


def test_the_model_of_the_own_task_does_what_no_line_can(copy: Path) -> None:
    assert ratio(copy / "runs/kinked/checkpoint", "least_squares") < 0.5


@pytest.mark.parametrize("seed", [0, 1])
def test_the_bare_layer_of_the_sweep_is_a_gradient_step_and_features_are_not(
    copy: Path, seed: int
) -> None:
    bare, features = (copy / f"runs/sweep/{run}/seed_{seed}/checkpoint" for run in (0, 1))
    assert ratio(bare, "gradient_descent") == pytest.approx(1, abs=0.05)
    assert ratio(features, "gradient_descent") < 0.3


def test_the_page_shows_what_five_of_its_blocks_print() -> None:
    assert sum(bool(block.shown) for block in blocks_of(PAGE)) == 5


@pytest.mark.parametrize(
    ("shown", "printed", "alike"),
    [
        ("│ model │ 0.100 │\n│ │ ± 0.011 │", "seconds 3\nmodel  0.105\n ± 0.2", True),
        ("model 0.100", "model 0.200", False),
        ("model 0.100", "ridge 0.100", False),
        ("model 0.100\nridge 0.2", "ridge 0.2\nmodel 0.1", False),
        ("model 2,000 9", "model 2,000 31", True),
        ("model 2,000 9", "model 3,000 9", False),
        ("gd_ssm2 1.5", "gd_ssm3 1.5", False),
    ],
)
def test_what_is_shown_was_printed_in_its_order_but_for_what_numbers_may_differ_by(
    shown: str, printed: str, alike: bool
) -> None:
    with nullcontext() if alike else pytest.raises(AssertionError):
        check_shown(shown, printed, rel=REL, abs=ABS)
