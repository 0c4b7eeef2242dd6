"""Fitted estimators in files: what a file holds beside the tensors, and the tensors."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from safetensors.torch import save as save_tensors
from torch import Tensor

from zoo.estimators.scaling import Affine
from zoo.files import write_file
from zoo.hub.card import (
    CheckpointError,
    Count,
    Plain,
    PositiveCount,
    SchemaVersion,
    Settings,
    Text,
    parse_plain,
)
from zoo.hub.io import check_sizes
from zoo.hub.states import read_tensors, tensors_of

SCHEMA_VERSION = 1
MAX_BYTES = 10_000_000
Square = Annotated[float, Field(ge=0)]


class Saved(Plain):
    """What a file of an estimator says in words and numbers.

    Attributes:
        schema_version: Of this layout.
        kind: Class of the estimator.
        predictor: Name of a solver or checkpoint; None where it was a place or an object.
        fingerprint: Of the predictor, as states have it.
        arguments: Those that were given.
        fitted_arguments: Those of the solver.
        scaling: By name.
        too_wide: As the estimator has it.
        on_mismatch: As the estimator has it.
        num_columns: Of X.
        columns: Their names.
        num_labels: Of y, or classes.
        num_first: Rows of `fit`, or of the first `partial_fit`.
        num_examples: That were observed.
        input_square: Mean square of their inputs, scaled.
        label_square: The same of their labels.
        is_flat: Whether y had one dimension.
        classes: Their names.
        classes_type: Type of these, as numpy writes it.
    """

    schema_version: SchemaVersion = SCHEMA_VERSION
    kind: Text
    predictor: Text | None
    fingerprint: Text
    arguments: Settings | None
    fitted_arguments: Settings | None
    scaling: Literal["whiten", "standard"] | None
    too_wide: Literal["raise", "project"]
    on_mismatch: Literal["warn", "raise"]
    num_columns: PositiveCount
    columns: list[Text] | None
    num_labels: PositiveCount
    num_first: PositiveCount
    num_examples: Count
    input_square: Square
    label_square: Square
    is_flat: bool = True
    classes: list[bool | int | float | Text] | None = None
    classes_type: Annotated[str, Field(pattern=r"^(\|O|[<>=|][biufU]\d+)$")] = "|O"


def write_saved(
    path: str | os.PathLike[str],
    saved: Saved,
    state: Any,
    scaling: Affine,
    label_scaling: Affine,
) -> None:
    """Writes a file, whole or not at all."""
    maps = {"scaling": scaling, "label_scaling": label_scaling}
    tensors = tensors_of(state) | {
        f"{name}.{part}": torch.from_numpy(np.ascontiguousarray(values))
        for name, affine in maps.items()
        for part, values in affine._asdict().items()
    }
    write_file(Path(path), save_tensors(tensors, {"estimator": saved.model_dump_json()}))


def read_saved(path: str | os.PathLike[str], kind: str) -> tuple[Saved, dict[str, Tensor]]:
    """What a file of `write_saved` holds.

    Raises:
        CheckpointError: If it is none of this kind.
    """
    metadata, tensors = read_tensors(path)
    if "estimator" not in metadata:
        raise CheckpointError(f"{path} is no estimator that was saved by save")
    saved = parse_plain(Saved, "estimator", metadata["estimator"].encode(), path, MAX_BYTES)
    if saved.kind != kind:
        raise CheckpointError(f"{path} is an {saved.kind}, not an {kind}")
    check_sizes(path, saved.fitted_arguments or {})
    return saved, tensors


def affine_of(
    name: str, tensors: dict[str, Tensor], num_columns: int, path: str | os.PathLike[str]
) -> Affine:
    """A map of a file.

    Raises:
        CheckpointError: If it is none of so many columns.
    """
    parts = [tensors.get(f"{name}.{part}", torch.empty(0)) for part in Affine._fields]
    center, matrix, offset = parts
    if (
        any(part.dtype != torch.float64 for part in parts)
        or center.shape != (num_columns,)
        or matrix.shape != (num_columns, len(offset))
        or offset.ndim != 1
    ):
        raise CheckpointError(f"{path} has no {name} for {num_columns} columns")
    return Affine(*(part.numpy() for part in parts))
