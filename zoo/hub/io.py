"""From models to checkpoint directories and back."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.overrides import TorchFunctionMode

from zoo.files import sha256_of, write_directory
from zoo.hub.card import SCHEMA_VERSION, Card, CheckpointError, FileEntry, strict_json
from zoo.hub.directory import CARD, WEIGHTS, card_bytes, read_card, weights_entry
from zoo.predictor import Predictor
from zoo.registry import create_model

# Beyond this, nothing is read into memory.
MAX_HEADER_BYTES = 2**24
# The work that a card may ask for, whatever its weights say: sizes, and things counted, for which
# there are loops.
MAX_SIZE, MAX_COUNT, MAX_TENSORS = 2**20, 10_000, 10_000
SAFETENSORS_DTYPES = {"float16": "F16", "bfloat16": "BF16", "float32": "F32", "float64": "F64"}


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
        files={WEIGHTS: FileEntry(sha256=sha256_of(weights), bytes=len(weights))},
        **card,
    )
    write_directory(directory, {WEIGHTS: weights, CARD: card_bytes(full_card)})
    return full_card


def load_checkpoint(
    directory: Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> Predictor:
    """Rebuilds the model of a checkpoint directory, ready for predictions.

    It is in eval mode and its parameters require no gradient, so that a stream of any length keeps
    no history; `model.requires_grad_()` turns that back on.

    Args:
        directory: Such as `runs/NAME/checkpoint`.
        device: Where to.
        dtype: Type of the weights; as stored unless given.

    Raises:
        CheckpointError: If a file is missing, truncated or altered, if the card is malformed or of
            a newer schema, or if the weights do not fit the model.
    """
    card, model = _rebuild(directory)
    model.card = card
    return model.to(device=device, dtype=dtype).requires_grad_(False).eval()


def check_checkpoint(directory: Path) -> Card:
    """Checks schema, hash, shapes, types and that all weights are finite.

    Raises:
        CheckpointError: As `load_checkpoint`.
    """
    return _rebuild(directory)[0]


def _rebuild(directory: Path) -> tuple[Card, Predictor]:
    card = read_card(directory)
    data = _read_weights(directory, card)
    stored = _read_header(directory / WEIGHTS, data)
    # Shapes are compared before memory for either side is taken.
    model = _create_empty(directory, card, len(stored))
    _check_fits(directory, card, stored, model.state_dict())
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    if num_parameters != card.num_parameters:
        raise CheckpointError(
            f"{directory / CARD}: num_parameters is {card.num_parameters}, the model has "
            f"{num_parameters}"
        )
    try:
        # Views into the file begin at any address, and vector code rounds differently there.
        state = {name: view.clone() for name, view in load_tensors(data).items()}
    except SafetensorError as error:
        raise _not_safetensors(directory / WEIGHTS, error) from None
    _check_finite(directory, state)
    model.load_state_dict(state, assign=True)  # keeps the type they are stored in
    return card, model


def _read_weights(directory: Path, card: Card) -> bytes:
    entry, path = weights_entry(card, directory / CARD), directory / WEIGHTS
    if not path.is_file():
        raise CheckpointError(f"{directory} has no {WEIGHTS}")
    size = path.stat().st_size
    if size != entry.bytes:
        raise CheckpointError(
            f"{path} holds {size} bytes, its card says {entry.bytes}: truncated or altered"
        )
    data = path.read_bytes()
    if sha256_of(data) != entry.sha256:
        raise CheckpointError(
            f"{path} has sha256 {sha256_of(data)}, its card says {entry.sha256}: altered"
        )
    return data


def _read_header(path: Path, data: bytes) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type and shape of every tensor in a safetensors file: 8 bytes of length, then JSON."""
    length = int.from_bytes(data[:8], "little")
    if length > min(len(data) - 8, MAX_HEADER_BYTES):
        raise _not_safetensors(path, f"a header of {length} bytes")
    try:
        header = strict_json(data[8 : 8 + length])
        header.pop("__metadata__", None)
        return {name: (str(t["dtype"]), _shape(t["shape"])) for name, t in header.items()}
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise _not_safetensors(path, f"{type(error).__name__} in the header, {error}") from None


def _shape(given: list[Any]) -> tuple[int, ...]:
    if not all(type(size) is int for size in given):
        raise ValueError(f"a shape of {given}")
    return tuple(given)


# nn.init's have to be caught as themselves: what they call is out of reach of the mode.
FILLING = (
    Tensor.normal_,
    Tensor.uniform_,
    nn.init.normal_,
    nn.init.uniform_,
    nn.init.kaiming_uniform_,
    nn.init.trunc_normal_,
)


class _Unfilled(TorchFunctionMode):
    """Leaves out starting values: without memory they are nothing, yet load torch's compiler."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        named = kwargs or {}
        if func in FILLING:
            return args[0] if args else named["tensor"]
        return func(*args, **named)


def _create_empty(directory: Path, card: Card, num_tensors: int) -> Predictor:
    """The card's model on the meta device: shapes without memory.

    Its arguments are an untrusted card's. Sizes are bounded before anything is built, and building
    stops as soon as there are far more parameters than stored tensors.
    """
    _check_work(directory, card, num_tensors)
    thread, registered = threading.get_ident(), 0

    def count(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        nonlocal registered
        if threading.get_ident() == thread:
            registered += 1
            if registered > 2 * num_tensors + 100:
                raise CheckpointError(
                    f"{directory / CARD} describes a model of more than {registered - 1} tensors, "
                    f"{WEIGHTS} holds {num_tensors}"
                )

    hook = register_module_parameter_registration_hook(count)
    try:
        with torch.device("meta"), _Unfilled(), torch.random.fork_rng(devices=[]):
            return create_model(card.architecture, **card.model_args)
    except CheckpointError:
        raise
    except (ValueError, TypeError, ArithmeticError, RuntimeError) as error:
        raise CheckpointError(f"{directory / CARD}: {str(error).splitlines()[0]}") from None
    finally:
        hook.remove()


def _check_work(directory: Path, card: Card, num_tensors: int) -> None:
    """Raises CheckpointError if building the model or calling it could take for ever."""
    if num_tensors > MAX_TENSORS:
        raise CheckpointError(
            f"{directory / WEIGHTS} holds {num_tensors} tensors, at most {MAX_TENSORS} are read"
        )
    check_sizes(directory / CARD, card.model_args)


def check_sizes(source: object, arguments: dict[str, Any]) -> None:
    """Raises CheckpointError if arguments of a predictor ask for more than is ever built."""
    for name, size, limit in _sizes("arguments", arguments):
        if size > limit:
            raise CheckpointError(f"{source}: {name} is {size}, at most {limit} can be loaded")


def _sizes(name: str, value: Any) -> Iterator[tuple[str, int, int]]:
    """The sizes and numbers of things in arguments: the name that each stands under, its limit."""
    if isinstance(value, list | dict):
        yield f"the length of {name}", len(value), MAX_COUNT
        for key, part in value.items() if isinstance(value, dict) else ((name, v) for v in value):
            yield from _sizes(key, part)
    elif isinstance(value, int):
        yield name, value, MAX_COUNT if name.startswith("num_") else MAX_SIZE


def _check_fits(
    directory: Path,
    card: Card,
    stored: dict[str, tuple[str, tuple[int, ...]]],
    wanted: dict[str, Tensor],
) -> None:
    if card.dtype not in SAFETENSORS_DTYPES:
        raise CheckpointError(
            f"{directory / CARD}: dtype is {card.dtype!r}, expected one of "
            f"{', '.join(SAFETENSORS_DTYPES)}"
        )
    if stored.keys() != wanted.keys():
        missing, extra = sorted(wanted.keys() - stored), sorted(stored.keys() - wanted)
        raise CheckpointError(
            f"{directory / WEIGHTS} is of another model: it lacks {missing[:5]} and holds "
            f"{extra[:5]} beside what the model has"
        )
    for name, (dtype, shape) in stored.items():
        if shape != wanted[name].shape:
            raise CheckpointError(
                f"{directory / WEIGHTS}: {name} has shape {shape}, the model has "
                f"{tuple(wanted[name].shape)}"
            )
        if dtype != SAFETENSORS_DTYPES[card.dtype]:
            raise CheckpointError(
                f"{directory / WEIGHTS}: {name} has dtype {dtype}, its card says {card.dtype}"
            )


def _check_finite(directory: Path, state: dict[str, Tensor]) -> None:
    for name, tensor in state.items():
        if not tensor.isfinite().all():
            raise CheckpointError(f"{directory / WEIGHTS}: {name} is not finite")


def _not_safetensors(path: Path, why: object) -> CheckpointError:
    return CheckpointError(f"{path} is not a safetensors file: {why}")
