"""Episodes of in-context regression, drawn on the fly."""

from datamodules.datamodule import EpisodeDataModule
from datamodules.episodes import Episodes, EpisodeSampler, EpisodeSpec, create_sampler

__all__ = ["EpisodeDataModule", "EpisodeSampler", "EpisodeSpec", "Episodes", "create_sampler"]
