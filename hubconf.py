"""Models for torch.hub: an entry point for each architecture, untrained or from a checkpoint."""

from collections.abc import Callable as _Callable
from typing import Any as _Any

import zoo as _zoo

dependencies = ["torch", "safetensors", "pydantic"]


def _entry(architecture: str) -> _Callable[..., _Any]:
    def create(pretrained: str | None = None, **arguments: _Any) -> _Any:
        if pretrained is None:
            return _zoo.create_model(architecture, **arguments)
        if not isinstance(pretrained, str):
            raise ValueError(f"pretrained must be the name of a checkpoint, got {pretrained!r}")
        if arguments:
            raise ValueError(
                f"{', '.join(arguments)} cannot be given beside pretrained={pretrained!r}: a "
                "checkpoint has its own arguments"
            )
        model = _zoo.load(pretrained)
        if model.card.architecture != architecture:
            raise ValueError(
                f"pretrained={pretrained!r} is a checkpoint of {model.card.architecture}, not of "
                f"{architecture}"
            )
        return model

    create.__name__ = create.__qualname__ = architecture
    create.__doc__ = f"""The architecture {architecture}, untrained or from a checkpoint.

    Args:
        pretrained: Name, path or address of a checkpoint; untrained unless given.
        arguments: Of an untrained model, such as `d_x=10, d_y=10`.

    Raises:
        ValueError: If a name or an argument is wrong, or the checkpoint is of another architecture.
    """
    return create


globals().update({name: _entry(name) for name in _zoo.list_models()})
