"""What a run says while it goes on."""

import io
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from zoo.registry import ModelSpec
from zoo.training.callbacks import progress
from zoo.training.callbacks.progress import Progress
from zoo.training.module import LitPredictor
from zoo.training.options import OptimConfig
from zoo.training.replicas import LitReplicas


def trainer_at(step: int) -> Any:
    return SimpleNamespace(
        global_step=step,
        max_steps=500,
        val_check_interval=1000,
        accumulate_grad_batches=2,
        num_val_batches=[3],
        callback_metrics={},
        training=True,
        state=SimpleNamespace(fn="fit"),
    )


@pytest.mark.parametrize("terminal", [True, False])
def test_a_run_says_that_it_begins_and_that_it_validates(
    terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "QUIET", 0.0)
    shown = Progress()
    output = io.StringIO()
    shown._console = Console(file=output, force_terminal=terminal, color_system=None, width=120)
    module = LitPredictor(ModelSpec.of("gd_ssm", d_x=2, d_y=1), OptimConfig())
    shown.on_train_start(trainer_at(0), module)
    assert "training from step 0 to 500, validating every 500" in output.getvalue()
    shown.on_validation_start(trainer_at(500), module)
    for batch in range(3):
        shown.on_validation_batch_start(trainer_at(500), module, None, batch)
    if terminal:
        assert shown._bar is not None
        shown._bar.refresh()
    assert "validating, batch 3 of 3" in output.getvalue()
    shown.on_validation_end(trainer_at(500), module)
    shown.on_train_end(trainer_at(500), module)


def test_a_run_that_is_over_says_so() -> None:
    shown = Progress()
    output = io.StringIO()
    shown._console = Console(file=output, width=120)
    module = LitPredictor(ModelSpec.of("gd_ssm", d_x=2, d_y=1), OptimConfig())
    shown.on_fit_end(trainer_at(500), module)
    assert "all 500 steps are done; a larger max_steps trains on" in output.getvalue()


@pytest.mark.parametrize(
    ("in_turn", "way"), [(False, "as one batch"), (True, "in turn within every step")]
)
def test_seeds_side_by_side_are_said_with_the_way_they_train(
    in_turn: bool, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LitReplicas, "takes_turns_on", lambda self, device: in_turn)
    shown = Progress()
    output = io.StringIO()
    shown._console = Console(file=output, width=120)
    module = LitReplicas(ModelSpec.of("gd_ssm", d_x=2, d_y=1), OptimConfig(), [0, 1, 2])
    shown.on_train_start(trainer_at(0), module)
    assert f"3 replicas {way}; no alignment or figures before the end" in output.getvalue()
