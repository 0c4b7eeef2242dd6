"""Writing and reading checkpoint directories: `model.safetensors` and `card.json`."""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from zoo.hub.card import SCHEMA_VERSION, Card, FileEntry
from zoo.predictor import Predictor
from zoo.registry import create_model

WEIGHTS = "model.safetensors"
CARD = "card.json"
# A card is read into memory before anything is known about it.
MAX_CARD_BYTES = 1_000_000


class CheckpointError(ValueError):
    """A checkpoint directory that cannot be used; the text says which and why."""


def save_checkpoint(directory: Path, model: Predictor, card: dict[str, Any]) -> Card:
    """Writes a checkpoint directory so that it is there as a whole or not at all.

    Args:
        directory: Where to; an existing checkpoint there is replaced.
        model: Its weights are written, as they are.
        card: The fields of `Card` other than those that follow from the model:
            `schema_version`, `num_parameters`, `dtype` and `files`.

    Raises:
        CheckpointError: If a weight is not finite.
        OSError: If the directory cannot be written; what stood there before stays.
    """
    state = {
        name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()
    }
    _check_finite(directory, state)
    weights = save_tensors(state)
    full_card = Card(
        schema_version=SCHEMA_VERSION,
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        dtype=str(next(iter(state.values())).dtype).removeprefix("torch."),
        files={WEIGHTS: FileEntry(sha256=_sha256(weights), bytes=len(weights))},
        **card,
    )
    staging = directory.with_name(f"{directory.name}.writing")
    replaced = directory.with_name(f"{directory.name}.replaced")
    try:
        shutil.rmtree(staging, ignore_errors=True)
        if replaced.exists() and not directory.exists():  # a process was killed between two renames
            replaced.rename(directory)
        shutil.rmtree(replaced, ignore_errors=True)
        staging.mkdir(parents=True)
        _write(staging / WEIGHTS, weights)
        _write(staging / CARD, full_card.model_dump_json(indent=2).encode() + b"\n")
        if directory.exists():
            directory.rename(replaced)
        try:
            staging.rename(directory)
        except OSError:
            if replaced.exists():
                replaced.rename(directory)
            raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    shutil.rmtree(replaced, ignore_errors=True)
    return full_card


def load(
    path: str | os.PathLike[str],
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> Predictor:
    """Rebuilds the model of a checkpoint directory, ready for predictions.

    It is in eval mode and its parameters require no gradient, so that a stream of any length keeps
    no history; `model.requires_grad_()` turns that back on.

    Args:
        path: The directory, such as `runs/NAME/checkpoint`. A string without a separator is taken
            for a checkpoint's name and refused: write `./NAME` for a directory here.
        device: Where to.
        dtype: Type of the weights; as stored unless given.

    Raises:
        ValueError: If the path is a bare name.
        CheckpointError: If a file is missing, truncated or altered, if the card is malformed or of
            a newer schema, or if the weights do not fit the model.
    """
    if isinstance(path, str) and os.sep not in path:
        raise ValueError(
            f"{path!r} is a name, and no checkpoint is known by it; "
            f"for the directory write {os.path.join('.', path)!r}"
        )
    directory = Path(path)
    card = read_card(directory)
    state = _read_weights(directory, card)
    try:
        with torch.device("cpu"), torch.random.fork_rng(devices=[]):
            model = create_model(card.architecture, **card.model_args)
    except ValueError as error:
        raise CheckpointError(f"{directory / CARD}: {error}") from None
    _check_fits(directory, state, model.state_dict())
    model.load_state_dict(state, assign=True)  # keeps the type they are stored in
    return model.to(device=device, dtype=dtype).requires_grad_(False).eval()


def read_card(directory: Path) -> Card:
    """Reads and checks the card of a checkpoint directory.

    Raises:
        CheckpointError: If it is missing, malformed or of a newer schema.
    """
    path = directory / CARD
    if not path.is_file():
        what = "has no" if directory.is_dir() else "is not a directory with a"
        inside = directory / "checkpoint"
        hint = f"; {inside} has one" if (inside / CARD).is_file() else ""
        raise CheckpointError(f"{directory} {what} {CARD}{hint}")
    if path.stat().st_size > MAX_CARD_BYTES:
        raise CheckpointError(
            f"{path} holds {path.stat().st_size} bytes, a card at most {MAX_CARD_BYTES}"
        )
    try:
        fields = json.loads(path.read_bytes())
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from None
    version = fields.get("schema_version") if isinstance(fields, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise CheckpointError(
            f"{path} has schema_version {version}, newer than {SCHEMA_VERSION}, the newest this "
            "version of icl-zoo reads; update icl-zoo"
        )
    try:
        return Card.model_validate(fields)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'card'}: {e['msg']}" for e in error.errors()
        )
        raise CheckpointError(f"{path} is not a card: {problems}") from None


def _read_weights(directory: Path, card: Card) -> dict[str, Tensor]:
    if set(card.files) != {WEIGHTS}:
        raise CheckpointError(
            f"{directory / CARD} lists the files {sorted(card.files)}, expected {WEIGHTS} alone"
        )
    path, entry = directory / WEIGHTS, card.files[WEIGHTS]
    if not path.is_file():
        raise CheckpointError(f"{directory} has no {WEIGHTS}")
    size = path.stat().st_size
    if size != entry.bytes:
        raise CheckpointError(
            f"{path} holds {size} bytes, its card says {entry.bytes}: truncated or altered"
        )
    data = path.read_bytes()
    if _sha256(data) != entry.sha256:
        raise CheckpointError(
            f"{path} has sha256 {_sha256(data)}, its card says {entry.sha256}: altered"
        )
    try:
        state = load_tensors(data)
    except SafetensorError as error:
        raise CheckpointError(f"{path} is not a safetensors file: {error}") from None
    _check_finite(directory, state)
    return state


def _check_fits(directory: Path, stored: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    if stored.keys() != wanted.keys():
        raise CheckpointError(
            f"{directory / WEIGHTS} holds {sorted(stored)}, the model has {sorted(wanted)}"
        )
    for name, tensor in stored.items():
        if tensor.shape != wanted[name].shape or not tensor.is_floating_point():
            raise CheckpointError(
                f"{directory / WEIGHTS}: {name} is {tensor.dtype} {tuple(tensor.shape)}, the model "
                f"has {wanted[name].dtype} {tuple(wanted[name].shape)}"
            )


def _check_finite(directory: Path, state: dict[str, Tensor]) -> None:
    for name, tensor in state.items():
        if not tensor.isfinite().all():
            raise CheckpointError(f"{directory / WEIGHTS}: {name} is not finite")


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _write(path: Path, data: bytes) -> None:
    """Writes and makes sure that the bytes are on the disk before anything is renamed."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
