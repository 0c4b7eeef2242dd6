"""The worked examples of docs/extending.md, done as the page says in a copy of the repository."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pages import ROOT, blocks_of, copy_repository, follow

BLOCKS = blocks_of(ROOT / "docs" / "extending.md")
# What a newcomer leaves out, so that the commands take seconds.
SHORT = {
    "train.py": ["max_steps=3", "val_every=3", "batch_size=4", "eval_episodes=20", "trainer=cpu"],
    "reproduce.py": ["quick=true"],
    "evaluate.py": ["num_episodes=20", "hydra.run.dir=evaluations/test"],
}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of the repository in which the page has been followed from top to bottom."""
    copy = tmp_path_factory.mktemp("repository")
    copy_repository(copy)
    for block in BLOCKS:
        follow(block, copy, SHORT)
    yield copy
    shutil.rmtree(copy)


def test_the_added_architecture_is_trained_and_compared(copy: Path) -> None:
    card = json.loads((copy / "runs/delta_rule/checkpoint/card.json").read_text())
    assert card["architecture"] == "delta_rule"
    assert card["num_parameters"] == 100


def test_the_added_recipe_composes_with_other_episodes(copy: Path) -> None:
    card = json.loads((copy / "runs/delta_rule_noisy/checkpoint/card.json").read_text())
    assert card["name"] == "delta_rule.linear_noisy"
    assert card["model_args"]["scale"] == 0.01
    assert card["training"]["optimizer"]["lr"] == 0.001


def test_the_added_family_is_trained_on(copy: Path) -> None:
    card = json.loads((copy / "runs/saturated/checkpoint/card.json").read_text())
    assert card["data"]["function"] == {"name": "saturated_linear", "scale": 1.0}


def test_the_added_solver_is_fitted_and_measured(copy: Path) -> None:
    (told,) = (
        row["arguments"]
        for row in json.loads((copy / "evaluations/test/arguments.json").read_text())
        if row["predictor"] == "spectral_cutoff"
    )
    assert 0 < told["threshold"] < 100


def test_the_added_callback_is_trained_with_and_allowed_by_who_goes_on(copy: Path) -> None:
    assert "_target_: mine.WeightNorm" in (copy / "runs/mine/config.yaml").read_text()
    assert (copy / "runs/mine/metrics.json").exists()


def test_the_added_study_has_a_page_with_its_claim_and_its_rates(copy: Path) -> None:
    page = (copy / "runs/delta_rule-quick/delta_rule.md").read_text()
    assert "*Our guess* (before it was trained): It falls below one step" in page
    assert "\n| noisy | 64 | 144 | pairs | over all scored positions | " in page


def test_examples_are_short() -> None:
    lengths = [len(b.text.splitlines()) - 1 for b in BLOCKS if b.language == "python"]
    assert len(lengths) == 5
    assert max(lengths) < 50
