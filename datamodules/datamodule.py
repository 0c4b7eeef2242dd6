"""The Lightning side of the episodes."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader, IterableDataset

from datamodules.episodes import Episodes, EpisodeSpec, create_sampler
from datamodules.stream import EVAL_SEED, Generators, generators_of_test

# A validation set of at most so many numbers, 0.5 GB, is kept; a larger one is drawn anew each
# time.
KEPT_NUMBERS = 2**27


class EpisodeSets(pl.LightningDataModule):
    """Fixed validation and test sets, and training episodes drawn on the training device.

    A subclass says in `training_rows` which training episodes this rank trains on next. Run the
    trainer with `use_distributed_sampler=False`.

    Args:
        spec: The kind of episode, as a spec or as plain data.
        batch_size: Episodes in an optimizer step, over all ranks and accumulated batches.
        eval_episodes: Episodes in the validation set, over all ranks.
        eval_batch_size: Episodes evaluated at once on one rank.
        num_test: Episodes in the test set; None for as many.
    """

    def __init__(
        self,
        spec: EpisodeSpec | Mapping[str, Any],
        batch_size: int,
        eval_episodes: int,
        eval_batch_size: int,
        num_test: int | None,
    ) -> None:
        super().__init__()
        num_test = eval_episodes if num_test is None else num_test
        for name, value, least in [
            ("batch_size", batch_size, 1),
            ("eval_episodes", eval_episodes, 2),  # one alone has no interval
            ("eval_batch_size", eval_batch_size, 1),
            ("num_test", num_test, 2),
        ]:
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        self.sampler = create_sampler(spec)
        self.batch_size = batch_size
        self.eval_episodes = eval_episodes
        self.eval_batch_size = min(eval_batch_size, self.sampler.spec.set_batch)
        self.num_test = num_test

    def training_rows(self, device: torch.device) -> Episodes:
        """The episodes that this rank trains on next, drawn on the device."""
        raise NotImplementedError

    def val_batches(self) -> Iterator[Episodes]:
        """The fixed validation set, on the CPU."""
        return self.sampler.batches(self.eval_episodes, Generators(EVAL_SEED, "val", 0, "cpu"))

    def val_episodes(self) -> Episodes:
        """The fixed validation set as one batch."""
        return Episodes.joined(self.val_batches())

    def test_batches(self, number: int = 0) -> Iterator[Episodes]:
        """The fixed test set, on the CPU; 1, 2, ... are further sets of as many episodes."""
        return self.sampler.batches(self.num_test, generators_of_test(number))

    def test_episodes(self) -> Episodes:
        """The fixed test set as one batch."""
        return Episodes.joined(self.test_batches())

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
        parts = _Parts(self.val_batches, start, stop, self.eval_batch_size)
        small = self.eval_episodes * self.sampler.spec.num_numbers <= KEPT_NUMBERS
        data: Any = list(parts) if small else parts
        return DataLoader(data, batch_size=None, generator=torch.Generator())

    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> Episodes:
        """Draws the training rows on the device, moves evaluation batches to it."""
        if self._trainer().training:
            return self.training_rows(device)
        episodes: Episodes = batch.to(device)
        return episodes

    def _trainer(self) -> pl.Trainer:
        if self.trainer is None:
            raise RuntimeError("the data module is not attached to a trainer")
        return self.trainer


class EpisodeDataModule(EpisodeSets):
    """The episodes of one seed, on any number of ranks.

    The global training batch of optimizer step t is a pure function of the data seed and t. Every
    rank draws all of it and takes its rows, so the episodes do not depend on the number of ranks,
    on gradient accumulation or on where a run was resumed.

    Args:
        spec: The kind of episode, as a spec or as plain data.
        seed: Data seed of the training stream.
        batch_size: Episodes in an optimizer step, over all ranks and accumulated batches.
        eval_episodes: Episodes in the validation set, over all ranks.
        eval_batch_size: Episodes evaluated at once on one rank.
        num_test: Episodes in the test set; None for as many.
    """

    def __init__(
        self,
        spec: EpisodeSpec | Mapping[str, Any],
        seed: int = 0,
        batch_size: int = 64,
        eval_episodes: int = 10_000,
        eval_batch_size: int = 2_000,
        num_test: int | None = None,
    ) -> None:
        super().__init__(spec, batch_size, eval_episodes, eval_batch_size, num_test)
        self.seed = seed
        self._step = -1  # the step whose batch is held, and how much of it was handed out
        self._batch: Episodes | None = None
        self._num_taken = 0

    def train_episodes(self, step: int, device: torch.device | str = "cpu") -> Episodes:
        """The global batch of an optimizer step, counted from 0."""
        generators = Generators(self.seed, "train", step, device)
        return self.sampler.sample(self.batch_size, generators, step)

    def training_rows(self, device: torch.device) -> Episodes:
        trainer = self._trainer()
        if self._batch is None or self._step != trainer.global_step:
            self._step, self._num_taken = trainer.global_step, 0
            self._batch = self.train_episodes(self._step, device)
        rows = self.batch_size // (trainer.world_size * trainer.accumulate_grad_batches)
        start = (self._num_taken * trainer.world_size + trainer.global_rank) * rows
        self._num_taken += 1
        return self._batch.rows(start, start + rows)


class ReplicaDataModule(EpisodeSets):
    """The training episodes of several seeds side by side, for replicas of a model.

    Replica i sees what a run by itself with `seed=seeds[i]` sees; a seed may come several times, at
    several rates. Validation and test episodes are those of every seed. For trainers with one
    device.

    Args:
        spec: The kind of episode, as a spec or as plain data.
        seeds: Data seeds of the training streams.
        batch_size: Episodes in an optimizer step, for each seed.
        eval_episodes: Episodes in the validation set.
        eval_batch_size: Episodes evaluated at once.
        num_test: Episodes in the test set; None for as many.
    """

    def __init__(
        self,
        spec: EpisodeSpec | Mapping[str, Any],
        seeds: Sequence[int],
        batch_size: int = 64,
        eval_episodes: int = 10_000,
        eval_batch_size: int = 2_000,
        num_test: int | None = None,
    ) -> None:
        super().__init__(spec, batch_size, eval_episodes, eval_batch_size, num_test)
        self.seeds = tuple(seeds)
        self._step = -1  # as in `EpisodeDataModule`
        self._batch: Episodes | None = None
        self._num_taken = 0

    def train_episodes(self, step: int, device: torch.device | str = "cpu") -> Episodes:
        """The batches of an optimizer step, every part (num_seeds, batch, length, ...)."""
        drawn = {
            seed: self.sampler.sample(
                self.batch_size, Generators(seed, "train", step, device), step
            )
            for seed in dict.fromkeys(self.seeds)
        }
        return Episodes.stacked(drawn[seed] for seed in self.seeds)

    def training_rows(self, device: torch.device) -> Episodes:
        trainer = self._trainer()
        if self._batch is None or self._step != trainer.global_step:
            self._step, self._num_taken = trainer.global_step, 0
            self._batch = self.train_episodes(self._step, device)
        rows = self.batch_size // trainer.accumulate_grad_batches
        start = self._num_taken * rows
        self._num_taken += 1
        return Episodes(*(part[:, start : start + rows] for part in self._batch))


class _Parts(IterableDataset[Episodes]):
    """Rows start, ..., stop - 1 of a set that is drawn anew each time, at most `size` at once."""

    def __init__(
        self, draw: Callable[[], Iterable[Episodes]], start: int, stop: int, size: int
    ) -> None:
        self._draw, self._start, self._stop, self._size = draw, start, stop, size

    def __iter__(self) -> Iterator[Episodes]:
        begin = 0
        for batch in self._draw():
            end = begin + len(batch.x)
            first, stop = max(self._start, begin), min(self._stop, end)
            for row in range(first, stop, self._size):
                yield batch.rows(row - begin, min(row + self._size, stop) - begin)
            begin = end


class _Ticks(IterableDataset[None]):
    """One empty item for each batch; what the batch holds follows from the optimizer step."""

    def __iter__(self) -> Iterator[None]:
        while True:
            yield None
