"""A Lightning trainer that does nothing but train, for benchmarks and tests."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl


def quiet_trainer(
    max_steps: int,
    callbacks: Sequence[pl.Callback] | None = (),
    accelerator: str = "cpu",
    directory: Path | None = None,
    settings: Mapping[str, Any] | None = None,
) -> pl.Trainer:
    """A trainer on one device, without validation, logs, checkpoints and a progress bar.

    Args:
        max_steps: Optimizer steps.
        callbacks: All that it has.
        accelerator: `cpu` or `cuda`.
        directory: Where it would write.
        settings: Further ones of Lightning's trainer.
    """
    return pl.Trainer(
        accelerator=accelerator,
        devices=1,
        max_steps=max_steps,
        max_epochs=-1,
        callbacks=list(callbacks or ()),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        limit_val_batches=0,
        default_root_dir=directory,
        **(settings or {}),
    )
