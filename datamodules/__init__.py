"""Episodes of in-context regression, drawn on the fly."""

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
