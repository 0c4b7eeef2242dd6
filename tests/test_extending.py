"""The worked examples of docs/extending.md, done as the page says in a copy of the repository."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text()
BLOCKS: list[tuple[str, str]] = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL)
# What a newcomer leaves out, so that the commands take seconds.
SHORT = {
    "train.py": ["max_steps=3", "val_every=3", "batch_size=4", "eval_episodes=20", "trainer=cpu"],
    "evaluate.py": ["num_episodes=20", "hydra.run.dir=evaluations/test"],
}


def follow(language: str, block: str, copy: Path) -> None:
    """Does what a block of the page says: writes a file, changes one, or runs commands."""
    first, rest = block.split("\n", 1)
    if language in ("python", "yaml"):
        path = copy / first.removeprefix("# ")
        assert not path.exists()
        path.write_text(rest)
    elif language == "diff":
        path = copy / first.removeprefix("--- ")
        lines = rest.splitlines(keepends=True)
        before = "".join(line[1:] for line in lines if line[0] in " -")
        after = "".join(line[1:] for line in lines if line[0] in " +")
        text = path.read_text()
        assert text.count(before) == 1, f"{path.name} no longer has these lines once:\n{before}"
        path.write_text(text.replace(before, after))
    elif language == "sh":
        for line in block.splitlines():
            _, *words = shlex.split(line)
            command = [sys.executable, *words, *SHORT.get(words[0], [])]
            environment = os.environ | {"PYTHONPATH": str(copy)}
            run = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
            assert run.returncode == 0, f"{line}\n{run.stdout}{run.stderr}"
    else:
        raise AssertionError(f"nothing is known of {language} blocks")


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of the repository in which the page has been followed from top to bottom."""
    copy = tmp_path_factory.mktemp("repository")
    for part in ("zoo", "datamodules", "studies", "configs", "tests"):
        shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (*ROOT.glob("*.py"), ROOT / "pyproject.toml"):
        shutil.copy(path, copy)
    for language, block in BLOCKS:
        follow(language, block, copy)
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


def test_examples_are_short() -> None:
    lengths = [len(block.splitlines()) - 1 for language, block in BLOCKS if language == "python"]
    assert len(lengths) == 4
    assert max(lengths) < 40
