"""Episodes of in-context regression, drawn on the fly.

What is offered here is imported once it is asked for: episodes need no Lightning.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datamodules.datamodule import EpisodeDataModule, ReplicaDataModule
    from datamodules.episodes import Episodes, EpisodeSampler, EpisodeSpec, create_sampler

__all__ = [
    "EpisodeDataModule",
    "EpisodeSampler",
    "EpisodeSpec",
    "Episodes",
    "ReplicaDataModule",
    "create_sampler",
]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        of_lightning = name.endswith("DataModule")
        module = "datamodules.datamodule" if of_lightning else "datamodules.episodes"
        return getattr(import_module(module), name)
