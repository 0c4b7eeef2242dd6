"""Saving the state of a run so that no kill and no full disk can damage it."""

import copy
import io
import math
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from torch import Tensor
from torch.optim import Optimizer

from zoo.files import writing
from zoo.training.base import EpisodeModule
from zoo.training.callbacks import Convergence, Resumable, TimeToSolution
from zoo.training.replicas import LitReplicas

# The callbacks whose state is checked.
CHECKED = Convergence, Resumable, TimeToSolution


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its final place and renames it: it is there whole or not at all.

    Reading unpickles tensors and plain data only.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Saves to a local path; on any error what stood there before is left as it was."""
        final = Path(path)
        try:
            with writing(final) as file:
                torch.save(checkpoint, file)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
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
        content = io.BytesIO(Path(path).read_bytes())  # what fails from here on is the content
        try:
            with zipfile.ZipFile(content) as archive:
                if (part := archive.testzip()) is not None:
                    raise ValueError(f"{part} is not what its checksum says")
            content.seek(0)
            checkpoint = torch.load(content, map_location=map_location, weights_only=True)
        except Exception as error:  # what a damaged file brings the unpickler to is anything
            raise _damaged(path, str(error).partition(".")[0] or type(error).__name__) from None
        return checkpoint


def check_state(path: Path, trainer: pl.Trainer, module: EpisodeModule) -> None:
    """Checks that a checkpoint holds all that a run goes on from, before anything is loaded.

    Args:
        path: Of the checkpoint.
        trainer: That of the run.
        module: That of the run, not trained yet; a copy shows what to expect.

    Raises:
        ValueError: If a part is missing or is of another shape or type, if a number is not finite,
            or if counts of steps contradict each other.
    """
    checkpoint = AtomicCheckpointIO().load_checkpoint(path)
    module = copy.deepcopy(module)
    module.trainer = trainer
    with trainer.precision_plugin.module_init_context():
        module.configure_model()
    configured = module.configure_optimizers()
    try:
        if isinstance(module, LitReplicas) and "diverged" in checkpoint:
            checkpoint["lost"] = module.lost_in(checkpoint)
        _check_like(checkpoint, _parts(trainer, module), "")
        step = _check_steps(checkpoint, trainer)
        for name in ("model", "model_args"):
            _check_equal(checkpoint["hyper_parameters"][name], module.hparams[name], name)
        if isinstance(module, LitReplicas):
            unknown = checkpoint["lost"].keys() - set(range(len(module.replicas)))
            _check_equal(unknown, set(), "lost beside the replicas")
        optimizer, schedule = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
        may_skip = module.on_nonfinite == "skip" or trainer.scaler is not None
        _check_optimizer(checkpoint["optimizer_states"][0], optimizer, step, may_skip)
        _check_schedule(checkpoint["lr_schedulers"][0], schedule.state_dict(), step)
    except ValueError as error:
        raise _damaged(path, str(error)) from None


def _parts(trainer: pl.Trainer, module: EpisodeModule) -> dict[str, Any]:
    """What a checkpoint has, with values of the right shape and type."""
    parts: dict[str, Any] = {
        "pytorch-lightning_version": "",
        "epoch": 0,
        "global_step": 0,
        "hyper_parameters": {"model": "", "model_args": {}},
        "state_dict": module.state_dict(),
        "optimizer_states": [{}],
        "lr_schedulers": [{}],
        "loops": {"fit_loop": trainer.fit_loop.state_dict()},
        "callbacks": {
            # What a user's own callbacks keep, they check themselves.
            c.state_key: c.state_dict() if isinstance(c, CHECKED) else {}
            for c in trainer.callbacks  # type: ignore[attr-defined]
            if c.state_dict()
        },
    }
    module.on_save_checkpoint(parts)
    precision = trainer.precision_plugin.state_dict()
    if precision:
        parts[type(trainer.precision_plugin).__qualname__] = precision
    return parts


def _check_like(found: Any, like: Any, name: str) -> None:
    """Compares types, names and shapes; refuses numbers that are not finite or negative."""
    if isinstance(like, Tensor):
        _check_tensor(found, like, name)
    elif isinstance(like, dict):
        if not isinstance(found, dict):
            raise ValueError(f"{name or 'it'} is {_kind(found)}, expected a dictionary")
        for key, part in like.items():
            inner = f"{name}.{key}" if name else str(key)
            if key not in found:
                raise ValueError(f"{inner} is missing")
            _check_like(found[key], part, inner)
        if name == "state_dict" and found.keys() != like.keys():
            raise ValueError(f"state_dict has {sorted(found.keys() - like.keys())[:5]} as well")
    elif isinstance(like, list):
        if not isinstance(found, list) or len(found) != len(like):
            raise ValueError(f"{name} is {_kind(found)}, expected a list of {len(like)}")
        for i, part in enumerate(like):
            _check_like(found[i], part, f"{name}.{i}")
    elif like is None:  # a step that had not come
        if found is not None and type(found) is not int:
            raise ValueError(f"{name} is {_kind(found)}, expected int or None")
    elif type(found) is not type(like):
        raise ValueError(f"{name} is {_kind(found)}, expected {_kind(like)}")
    if isinstance(found, int | float) and not 0 <= found < math.inf:
        raise ValueError(f"{name} is {found}")


def _check_tensor(found: Any, like: Tensor, name: str) -> None:
    if not isinstance(found, Tensor) or found.layout is not torch.strided:
        raise ValueError(f"{name} is {_kind(found)}, expected a tensor")
    if found.shape != like.shape or found.dtype != like.dtype:
        raise ValueError(
            f"{name} has shape {tuple(found.shape)} and {found.dtype}, expected "
            f"{tuple(like.shape)} and {like.dtype}"
        )
    if not found.isfinite().all():
        raise ValueError(f"{name} is not finite")


def _check_equal(found: Any, expected: Any, name: str) -> None:
    if found != expected:
        raise ValueError(f"{name} is {found!r:.200}, the run has {expected!r:.200}")


def _check_steps(checkpoint: dict[str, Any], trainer: pl.Trainer) -> int:
    """Compares the counts of steps and batches; returns the optimizer steps done."""
    written_by = checkpoint["pytorch-lightning_version"].partition(".")[0]
    _check_equal(written_by, version("lightning").partition(".")[0], "the version of Lightning")
    step: int = checkpoint["global_step"]
    if not 1 <= step <= trainer.max_steps:
        raise ValueError(f"global_step is {step}, the run has 1 to {trainer.max_steps}")
    loop = checkpoint["loops"]["fit_loop"]
    optimizer = loop["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]
    # Without an end of the epoch, those since its start are all.
    span = "current" if checkpoint["epoch"] == 0 else "total"
    batches = loop["epoch_loop.batch_progress"][span]
    schedule = loop["epoch_loop.scheduler_progress"]["total"]
    num_batches = step * trainer.accumulate_grad_batches
    for name, found, expected in [
        ("optimizer steps begun", optimizer["step"]["total"]["ready"], step),
        ("optimizer steps", optimizer["step"]["total"]["completed"], step),
        ("steps of the schedule", schedule["ready"], step),
        ("batches begun", batches["ready"], num_batches),
        ("batches", batches["processed"], num_batches),
    ]:
        _check_equal(found, expected, f"the number of {name}")
    return step


def _check_optimizer(found: Any, optimizer: Optimizer, step: int, may_skip: bool) -> None:
    """Compares AdamW's groups and moments with those of one that has not started."""
    fresh = optimizer.state_dict()["param_groups"]
    _check_like(found, {"state": {}, "param_groups": [{} for _ in fresh]}, "optimizer_states.0")
    for i, (group, expected) in enumerate(zip(found["param_groups"], fresh, strict=True)):
        name = f"optimizer_states.0.param_groups.{i}"
        _check_like(group, {"lr": 0.0}, name)
        needed = {"params", "initial_lr", "betas", "eps", "weight_decay"}
        for key in sorted(expected.keys() & (group.keys() | needed) - {"lr"}):
            _check_equal(group.get(key), expected[key], f"{name}.{key}")
        if group["lr"] > group["initial_lr"]:
            raise ValueError(f"{name}.lr is {group['lr']}, its peak is {group['initial_lr']}")
    states = found["state"]
    if not states and may_skip:  # no step has been taken yet
        return
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for i, parameter in enumerate(parameters):
        name = f"optimizer_states.0.state.{i}"
        count = torch.tensor(0.0)
        like = {"step": count, "exp_avg": parameter.data, "exp_avg_sq": parameter.data}
        _check_like(states, {i: like}, "optimizer_states.0.state")
        if (states[i]["exp_avg_sq"] < 0).any():
            raise ValueError(f"{name}.exp_avg_sq is negative")
        taken = states[i]["step"].item()
        if not (1 <= taken <= step if may_skip else taken == step):
            raise ValueError(f"{name}.step is {taken:g}, global_step is {step}")


def _check_schedule(found: dict[str, Any], fresh: dict[str, Any], step: int) -> None:
    _check_like(found, {**fresh, "_last_lr": [0.0] * len(fresh["base_lrs"])}, "lr_schedulers.0")
    for name, expected in [
        ("base_lrs", fresh["base_lrs"]),
        ("lr_lambdas", fresh["lr_lambdas"]),
        ("last_epoch", step),
        ("_step_count", step + 1),
    ]:
        _check_equal(found[name], expected, f"lr_schedulers.0.{name}")
    unknown = sorted(found.keys() - fresh.keys())
    if unknown:
        raise ValueError(f"lr_schedulers.0 has {unknown[:5]} as well")


def _kind(value: Any) -> str:
    return type(value).__name__


def _damaged(path: str | Path, reason: str) -> ValueError:
    return ValueError(
        f"{path} is damaged or not a checkpoint of this run ({reason}); without it, the run starts "
        "again from its first step"
    )
