"""Fixtures that more than one test file needs."""

import gc
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from zoo.threads import MKL_ARITHMETIC

# Before torch is imported: tensors of tests are small, and processes that tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_CBWR", MKL_ARITHMETIC)
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # of the few tests that have several threads

import torch
from torch import Tensor

import zoo
from tests.forks import draw_nothing
from zoo.hub.io import save_checkpoint

# Among a million objects that all stay it takes a fifth of the imports of the test files.
gc.disable()

MakePairs = Callable[..., tuple[Tensor, Tensor]]
MakeCheckpoint = Callable[..., Path]


def pytest_collection_finish() -> None:
    """What was imported and collected stays, and is never looked through again."""
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu") is not None:
            item.add_marker(pytest.mark.skip(reason="torch sees no CUDA GPU here"))


@pytest.fixture
def make_pairs() -> MakePairs:
    """Random float64 pairs, x (batch, length, d_x) and y (batch, length, d_y)."""

    def make(
        d_x: int, d_y: int, length: int, batch: int = 3, seed: int = 0
    ) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(batch, length, d_x, generator=generator, dtype=torch.float64)
        y = torch.randn(batch, length, d_y, generator=generator, dtype=torch.float64)
        return x, y

    return make


@pytest.fixture
def empty_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No checkpoints but the shipped ones, and servers that are asked once."""
    monkeypatch.setattr("zoo.hub.download.RETRY_DELAYS_S", ())
    monkeypatch.setenv("ICL_ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv("ICL_ZOO_URL", raising=False)
    monkeypatch.delenv("ICL_ZOO_OFFLINE", raising=False)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings in this process make no figures, which is most of a short one."""
    draw_nothing(monkeypatch.setattr)


@pytest.fixture
def card_fields() -> dict[str, Any]:
    """Fields of a card that do not follow from the weights, for a `gd_ssm` with d_x = d_y = 3."""
    metric = {"value": 0.2, "ci95": 0.01, "num_episodes": 100, "eval_seed": 0}
    return {
        "name": "gd_ssm.test",
        "architecture": "gd_ssm",
        "model_args": {"d_x": 3, "d_y": 3},
        "token_layout": "interleaved",
        "state_size": 15,
        "data": {"d_x": 3},
        "training": {
            "steps": 1,
            "episodes": 64,
            "batch_size": 64,
            "optimizer": {},
            "schedule": {},
            "seed": 0,
            "precision": "32-true",
            "devices": 1,
            "wall_time_s": 1.0,
        },
        "metrics": {"test/half_mse_query": metric},
        "reference_metrics": {"zero": metric},
        "versions": {},
        "git_commit": None,
        "command": "python train.py",
        "created": datetime.now(UTC),
        "license": "Apache-2.0",
        "paper": "https://arxiv.org/abs/2410.11687",
    }


@pytest.fixture
def make_checkpoint(tmp_path: Path, card_fields: dict[str, Any]) -> MakeCheckpoint:
    """The directory of a checkpoint that an untrained model was saved to."""

    def make(name: str = "gd_ssm", **arguments: Any) -> Path:
        arguments = {"d_x": 3, "d_y": 3, **arguments}
        directory = tmp_path / "checkpoints" / f"{name}.test"
        described = {
            "name": f"{name}.test",
            "architecture": name,
            "model_args": arguments,
            "data": {"d_x": arguments["d_x"], "d_y": arguments["d_y"], "num_context": 6},
        }
        save_checkpoint(directory, zoo.create_model(name, **arguments), card_fields | described)
        return directory

    return make
