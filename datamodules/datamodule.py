"""The Lightning side of the episodes."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader, IterableDataset

from datamodules.episodes import Episodes, EpisodeSpec, create_sampler
from datamodules.stream import Generators

# Validation and test episodes never depend on the seed of a run.
EVAL_SEED = 0


class EpisodeDataModule(pl.LightningDataModule):
    """Training episodes drawn on the training device, fixed validation and test sets.

    The global training batch of optimizer step t is a pure function of the data seed and t. Every
    rank draws all of it and takes its rows, so the episodes do not depend on the number of ranks,
    on gradient accumulation or on where a run was resumed. Run the trainer with
    `use_distributed_sampler=False`.

    Args:
        spec: The kind of episode, as a spec or as plain data.
        seed: Data seed of the training stream.
        batch_size: Episodes in an optimizer step, over all ranks and accumulated batches.
        eval_episodes: Episodes in the validation set and in the test set, over all ranks.
        eval_batch_size: Episodes evaluated at once on one rank.
    """

    def __init__(
        self,
        spec: EpisodeSpec | Mapping[str, Any],
        seed: int = 0,
        batch_size: int = 64,
        eval_episodes: int = 10_000,
        eval_batch_size: int = 2_000,
    ) -> None:
        super().__init__()
        for name, value, least in [
            ("batch_size", batch_size, 1),
            ("eval_episodes", eval_episodes, 2),  # one alone has no interval
            ("eval_batch_size", eval_batch_size, 1),
        ]:
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        self.sampler = create_sampler(spec)
        self.seed = seed
        self.batch_size = batch_size
        self.eval_episodes = eval_episodes
        self.eval_batch_size = eval_batch_size
        self._step = -1  # the step whose batch is held, and how much of it was handed out
        self._batch: Episodes | None = None
        self._num_taken = 0

    def train_episodes(self, step: int, device: torch.device | str = "cpu") -> Episodes:
        """The global batch of an optimizer step, counted from 0."""
        generators = Generators(self.seed, "train", step, device)
        return self.sampler.sample(self.batch_size, generators, step)

    def val_episodes(self) -> Episodes:
        """The fixed validation set, on the CPU."""
        return self.sampler.sample(self.eval_episodes, Generators(EVAL_SEED, "val", 0, "cpu"))

    def test_episodes(self) -> Episodes:
        """The fixed test set, on the CPU."""
        return self.sampler.sample(self.eval_episodes, Generators(EVAL_SEED, "test", 0, "cpu"))

    def setup(self, stage: str) -> None:
        """Checks that the global batch divides into the parts that this trainer works on."""
        trainer = self._trainer()
        num_parts = trainer.world_size * trainer.accumulate_grad_batches
        if self.batch_size % num_parts != 0:
            raise ValueError(
                f"batch_size = {self.batch_size} episodes in an optimizer step do not divide into "
                f"{trainer.world_size} ranks x {trainer.accumulate_grad_batches} accumulated "
                f"batches; choose a multiple of {num_parts}"
            )

    def train_dataloader(self) -> DataLoader[None]:
        """Endless ticks; `transfer_batch_to_device` turns each into the rows of this rank."""
        # A loader without a generator of its own takes a number from the global one.
        return DataLoader(_Ticks(), batch_size=None, generator=torch.Generator())

    def val_dataloader(self) -> DataLoader[Episodes]:
        """The validation episodes of this rank, in batches."""
        trainer = self._trainer()
        rank, world_size = trainer.global_rank, trainer.world_size
        start = self.eval_episodes * rank // world_size
        stop = self.eval_episodes * (rank + 1) // world_size
        episodes = self.val_episodes()
        batches = [
            episodes.rows(first, min(first + self.eval_batch_size, stop))
            for first in range(start, stop, self.eval_batch_size)
        ]
        return DataLoader(batches, batch_size=None, generator=torch.Generator())  # type: ignore

    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> Episodes:
        """Draws the training rows on the device, moves evaluation batches to it."""
        trainer = self._trainer()
        if not trainer.training:
            return Episodes(*(part.to(device) for part in batch))
        if self._batch is None or self._step != trainer.global_step:
            self._step, self._num_taken = trainer.global_step, 0
            self._batch = self.train_episodes(self._step, device)
        rows = self.batch_size // (trainer.world_size * trainer.accumulate_grad_batches)
        start = (self._num_taken * trainer.world_size + trainer.global_rank) * rows
        self._num_taken += 1
        return self._batch.rows(start, start + rows)

    def _trainer(self) -> pl.Trainer:
        if self.trainer is None:
            raise RuntimeError("the data module is not attached to a trainer")
        return self.trainer


class ReplicaDataModule(EpisodeDataModule):
    """The training episodes of several seeds side by side, for replicas of a model.

    Replica i sees what a run by itself with `seed=seeds[i]` sees. Validation and test episodes are
    those of every seed. For trainers with one device that accumulate no batches.

    Args:
        spec: The kind of episode, as a spec or as plain data.
        seeds: Data seeds of the training streams.
        batch_size: Episodes in an optimizer step, for each seed.
        eval_episodes: Episodes in the validation set and in the test set.
        eval_batch_size: Episodes evaluated at once.
    """

    def __init__(
        self,
        spec: EpisodeSpec | Mapping[str, Any],
        seeds: Sequence[int],
        batch_size: int = 64,
        eval_episodes: int = 10_000,
        eval_batch_size: int = 2_000,
    ) -> None:
        super().__init__(spec, seeds[0], batch_size, eval_episodes, eval_batch_size)
        self.seeds = tuple(seeds)

    def train_episodes(self, step: int, device: torch.device | str = "cpu") -> Episodes:
        """The batches of an optimizer step, every part (num_seeds, batch, length, ...)."""
        generators = (Generators(seed, "train", step, device) for seed in self.seeds)
        batches = [self.sampler.sample(self.batch_size, g, step) for g in generators]
        return Episodes(*(torch.stack(parts) for parts in zip(*batches, strict=True)))

    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> Episodes:
        """Draws the training batches on the device, moves evaluation batches to it."""
        trainer = self._trainer()
        if not trainer.training:
            return super().transfer_batch_to_device(batch, device, dataloader_idx)
        return self.train_episodes(trainer.global_step, device)


class _Ticks(IterableDataset[None]):
    """One empty item for each batch; what the batch holds follows from the optimizer step."""

    def __iter__(self) -> Iterator[None]:
        while True:
            yield None
