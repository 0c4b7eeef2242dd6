"""Streaming states in files: what a predictor has learned from its context, to go on with."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_tensors
from torch import Tensor

from zoo.files import write_file
from zoo.hub.card import CheckpointError
from zoo.predictor import Predictor

KIND = "icl-zoo streaming state"


def save_state(path: str | os.PathLike[str], predictor: Predictor, state: Any) -> None:
    """Writes a streaming state as safetensors, whole or not at all.

    Args:
        path: Of the file.
        predictor: Whose state it is.
        state: From `init_state` or `observe`.

    Raises:
        ValueError: If the state is not one of the predictor.
    """
    check_state(predictor, state)
    metadata = {"kind": KIND, "predictor": fingerprint(predictor)}
    write_file(Path(path), save_tensors(tensors_of(state), metadata))


def load_state(path: str | os.PathLike[str], predictor: Predictor) -> Any:
    """The state in a file of `save_state`, on the device of the predictor.

    Args:
        path: Of the file.
        predictor: The one it was saved of: the same class with the same weights, in their type. A
            solver may have other arguments, such as another penalty.

    Raises:
        CheckpointError: If the file is no such state, or one of another predictor.
    """
    metadata, tensors = read_tensors(path)
    if metadata.get("kind") != KIND:
        raise CheckpointError(f"{path} is not a streaming state of save_state")
    return state_of(predictor, tensors, metadata.get("predictor"), path)


def fingerprint(predictor: Predictor) -> str:
    """What a state is bound to: a hash of the class of a predictor and its weights."""
    digest = hashlib.sha256(type(predictor).__name__.encode())
    for name, tensor in sorted(predictor.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        plain = tensor.detach().cpu().contiguous()
        digest.update(plain.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def tensors_of(state: Any) -> dict[str, Tensor]:
    """The numbers of a state by name, as a file holds them; `state_of` is the way back."""
    return {
        name: torch.as_tensor(part).detach().cpu().clone().contiguous()
        for name, part in _parts("state", state)
        if part is not None
    }


def state_of(
    predictor: Predictor,
    tensors: dict[str, Tensor],
    owner: str | None,
    source: str | os.PathLike[str],
) -> Any:
    """The state that `tensors_of` made the tensors of.

    Args:
        predictor: Whose state it is.
        tensors: Those of the state, and others.
        owner: The `fingerprint` that was written beside them.
        source: Where they come from, for the message.

    Raises:
        CheckpointError: If they are not a state of the predictor.
    """
    if owner != fingerprint(predictor):
        raise CheckpointError(
            f"{source} holds the state of another predictor than this "
            f"{type(predictor).__name__}: its class, its weights or their type differ"
        )
    empty = predictor.init_state(0)
    device = next((part.device for _, part in _parts("", empty) if _is_tensor(part)), None)
    try:
        state = _filled("state", empty, tensors, device)
        check_state(predictor, state)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{source} holds no state of the predictor: {error}") from None
    return state


def check_state(predictor: Predictor, state: Any) -> None:
    """Raises ValueError unless it is a state of the predictor."""
    first = state
    while isinstance(first, tuple) and first:
        first = first[0]
    if not _is_tensor(first) or first.ndim == 0:
        raise ValueError(f"a state is a tensor or a tuple of them, got {type(state).__name__}")
    own = next(predictor.parameters(), None)
    dtype = first.dtype if own is None else own.dtype
    x_query = torch.zeros(len(first), 0, predictor.d_x, dtype=dtype, device=first.device)
    predictor.check_queries(state, x_query)


def read_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The metadata and tensors of a safetensors file.

    Raises:
        CheckpointError: If there is none.
    """
    if not Path(path).is_file():
        what = "is a directory, not a file" if Path(path).is_dir() else "is not there"
        raise CheckpointError(f"{path} {what}")
    try:
        with safe_open(path, framework="pt") as file:
            # Views into the file begin at any address, and vector code rounds differently there.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
            return file.metadata() or {}, tensors
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a safetensors file: {error}") from None


def _is_tensor(part: Any) -> bool:
    return isinstance(part, Tensor)


def _parts(name: str, state: Any) -> Iterator[tuple[str, Any]]:
    """Tensors, numbers and Nones of a state, each with the path to it."""
    if not isinstance(state, tuple):
        yield name, state
        return
    fields = getattr(state, "_fields", range(len(state)))
    for field, part in zip(fields, state, strict=True):
        yield from _parts(f"{name}.{field}", part)


def _filled(name: str, empty: Any, tensors: dict[str, Tensor], device: Any) -> Any:
    """A state of the form of an empty one."""
    if isinstance(empty, tuple):
        fields = getattr(empty, "_fields", range(len(empty)))
        parts = [
            _filled(f"{name}.{field}", part, tensors, device)
            for field, part in zip(fields, empty, strict=True)
        ]
        return type(empty)(*parts) if hasattr(empty, "_fields") else tuple(parts)
    if empty is None:
        return None
    if name not in tensors:
        raise KeyError(f"{name} is missing")
    if isinstance(empty, Tensor):
        if tensors[name].is_floating_point() != empty.is_floating_point():
            raise ValueError(f"{name} is {tensors[name].dtype}, expected {empty.dtype}")
        return tensors[name].to(device)
    return type(empty)(tensors[name].item())
