"""Saving the state of a run so that no kill and no full disk can damage it."""

import os
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its final place and renames it: it is there whole or not at all.

    Reading unpickles tensors and plain data only.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Saves to a local path; on any error what stood there before is left as it was."""
        final = Path(path)
        partial = final.with_name(f"{final.name}.writing")
        try:
            final.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(final)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
            partial.unlink(missing_ok=True)
            kept = f"; the checkpoint before it, {final}, is unharmed" if final.exists() else ""
            raise OSError(f"could not save {final}: {error}{kept}") from error

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Any = "cpu",
        weights_only: bool | None = True,
    ) -> dict[str, Any]:
        """Loads what `save_checkpoint` wrote; never executes code from the file.

        Raises:
            ValueError: If the file is damaged or is none of ours.
        """
        checkpoint: dict[str, Any]
        try:
            checkpoint = torch.load(path, map_location=map_location, weights_only=True)
        except (RuntimeError, EOFError, UnpicklingError) as error:
            reason = str(error).partition(".")[0] or type(error).__name__
            raise ValueError(
                f"{path} is damaged or not a checkpoint ({reason}); without it, the run starts "
                "again from its first step"
            ) from None
        return checkpoint
