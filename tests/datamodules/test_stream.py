"""Which episodes are drawn when: a pure function of seed, split and optimizer step."""

from typing import Any

import pytest
import torch

from datamodules import EpisodeDataModule, EpisodeSpec
from datamodules.stream import Generators, fixed_generator

SPEC = EpisodeSpec(d_x=3, d_y=3, num_context=4)


class FakeTrainer:
    """As much of a trainer as the data module looks at."""

    def __init__(self, rank: int = 0, world_size: int = 1, accumulate: int = 1) -> None:
        self.global_rank, self.world_size = rank, world_size
        self.accumulate_grad_batches = accumulate
        self.training = True
        self.global_step = 0


def module_on(trainer: FakeTrainer, **arguments: Any) -> EpisodeDataModule:
    module = EpisodeDataModule(SPEC, **arguments)
    module.trainer = trainer  # type: ignore[assignment]
    module.setup("fit")
    return module


def test_steps_seeds_splits_and_components_draw_different_numbers() -> None:
    keys = [(0, "train", 0), (0, "train", 1), (1, "train", 0), (0, "val", 0)]
    keys += [(0, "test", 0), (0, "tune", 0)]
    draws = [
        torch.rand(4, generator=Generators(*key, "cpu")(component))
        for key in keys
        for component in ("weights", "inputs", "noise", "corruption")
    ]
    assert len(torch.stack(draws).unique(dim=0)) == 24
    again = torch.rand(4, generator=Generators(*keys[0], "cpu")("weights"))
    assert torch.equal(again, draws[0])


def test_what_all_episodes_share_is_drawn_from_its_name_and_seed() -> None:
    keys = [("pool", 0), ("pool", 1), ("rotation", 0), ("rotation", 1)]
    draws = [torch.rand(4, generator=fixed_generator(*key)) for key in keys]
    assert len(torch.stack(draws).unique(dim=0)) == 4
    assert torch.equal(torch.rand(4, generator=fixed_generator("pool", 0)), draws[0])


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_ranks_and_accumulation_share_out_the_same_global_batch(
    world_size: int, accumulate: int
) -> None:
    whole = EpisodeDataModule(SPEC, seed=5, batch_size=8)
    for step in (0, 1, 7):
        rows = {}
        for rank in range(world_size):
            trainer = FakeTrainer(rank, world_size, accumulate)
            trainer.global_step = step  # any step can be the first, as after a resume
            module = module_on(trainer, seed=5, batch_size=8)
            for part in range(accumulate):
                rows[part, rank] = module.transfer_batch_to_device(None, torch.device("cpu"), 0)
        together = torch.cat([rows[key].x for key in sorted(rows)])
        assert torch.equal(together, whole.train_episodes(step).x)


def test_the_global_random_state_is_neither_read_nor_touched() -> None:
    module = EpisodeDataModule(SPEC)
    before = torch.random.get_rng_state()
    first = module.train_episodes(3)
    assert torch.equal(torch.random.get_rng_state(), before)
    with torch.random.fork_rng():
        torch.manual_seed(99)
        assert torch.equal(module.train_episodes(3).x, first.x)


def test_evaluation_episodes_are_10000_and_do_not_depend_on_the_seed() -> None:
    one, two = EpisodeDataModule(SPEC, seed=1), EpisodeDataModule(SPEC, seed=2)
    assert len(one.val_episodes().x) == len(one.test_episodes().x) == 10_000
    assert torch.equal(one.val_episodes().x, two.val_episodes().x)
    assert torch.equal(one.test_episodes().y, two.test_episodes().y)
    assert not torch.equal(one.val_episodes().x, one.test_episodes().x)
    assert not torch.equal(one.train_episodes(0).x, two.train_episodes(0).x)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_every_validation_episode_belongs_to_one_rank(world_size: int) -> None:
    parts = []
    for rank in range(world_size):
        module = module_on(
            FakeTrainer(rank, world_size), batch_size=6, eval_episodes=100, eval_batch_size=30
        )
        parts += [batch.x for batch in module.val_dataloader()]
    assert torch.equal(torch.cat(parts), module.val_episodes().x)


@pytest.mark.parametrize(
    "function",
    [
        {"name": "linear"},
        {"name": "linear_pool"},
        {"name": "sine"},
        {"name": "relu_network"},
    ],
)
def test_a_large_set_comes_in_batches_with_the_numbers_of_one(
    function: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datamodules.episodes.SET_BATCH", 160)
    d_x = 1 if function["name"] == "sine" else 3
    spec = EpisodeSpec(d_x=d_x, d_y=1, num_context=4, function=function, noise=0.1)  # type: ignore[arg-type]
    module = EpisodeDataModule(spec, eval_episodes=500, num_test=1_001)
    for batches, size, split in (
        (list(module.val_batches()), 500, "val"),
        (list(module.test_batches()), 1_001, "test"),
    ):
        assert {len(batch.x) for batch in batches[:-1]} == {160}
        assert 160 <= len(batches[-1].x) < 320
        assert sum(len(batch.x) for batch in batches) == size
        whole = module.sampler.sample(size, Generators(0, split, 0, "cpu"))  # type: ignore[arg-type]
        first = module.sampler.sample(160, Generators(0, split, 0, "cpu"))  # type: ignore[arg-type]
        for name in ("x", "y", "target"):
            parts = [getattr(batch, name) for batch in batches]
            assert torch.equal(parts[0], getattr(first, name))
            if function["name"] in ("linear", "linear_pool"):  # one draw for each component
                assert torch.equal(torch.cat(parts), getattr(whole, name))


@pytest.mark.parametrize("kept", [True, False])
def test_every_episode_of_a_large_validation_set_belongs_to_one_rank(
    kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datamodules.episodes.SET_BATCH", 160)
    if not kept:
        monkeypatch.setattr("datamodules.datamodule.KEPT_NUMBERS", 0)
    parts = []
    for rank in range(3):
        trainer = FakeTrainer(rank, 3)
        module = module_on(trainer, batch_size=6, eval_episodes=1_000, eval_batch_size=70)
        loader = module.val_dataloader()
        assert isinstance(loader.dataset, list) == kept
        batches = list(loader)
        assert max(len(batch.x) for batch in batches) == 70
        parts += [batch.x for batch in batches]
    assert torch.equal(torch.cat(parts), module.val_episodes().x)


def test_further_test_sets_share_no_episode() -> None:
    module = EpisodeDataModule(SPEC, eval_episodes=20)
    x = torch.cat([batch.x for number in range(11) for batch in module.test_batches(number)])
    assert len(x) == len(x.flatten(1).unique(dim=0)) == 220


def test_a_batch_that_does_not_divide_is_refused_with_the_numbers() -> None:
    with pytest.raises(ValueError, match="64 episodes.*3 ranks x 2 accumulated.*multiple of 6"):
        module_on(FakeTrainer(world_size=3, accumulate=2), batch_size=64)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        EpisodeDataModule(SPEC, batch_size=0)
