"""Associative recall, beside a dictionary in plain Python."""

from collections import Counter
from typing import Any

import pytest
import torch

from datamodules import EpisodeSpec, create_sampler
from datamodules.functions import Recall
from datamodules.stream import Generators
from tests.datamodules.statistics import NUM_EPISODES, assert_mean, draw


def spec_of(keys: int, updates: int, queries: int, **others: Any) -> dict[str, Any]:
    function = {"name": "recall", "num_keys": keys, "num_updates": updates, "num_queries": queries}
    return {"d_x": 5, "d_y": 3, "function": function | {"num_values": 9}} | others


@pytest.mark.parametrize(("keys", "updates", "queries"), [(4, 0, 1), (6, 3, 1), (5, 5, 5)])
def test_queries_ask_for_the_latest_value_of_a_key_that_was_shown(
    keys: int, updates: int, queries: int
) -> None:
    episodes = draw(200, **spec_of(keys, updates, queries))
    assert episodes.x.shape[1] == keys + updates + queries
    assert torch.equal(episodes.y, episodes.target)
    for x, target, scored in zip(*episodes[0::2], episodes.scored, strict=True):
        seen = [tuple(row) for row in x.tolist()]
        values = [tuple(row) for row in target.tolist()]
        assert len(set(seen[:keys])) == keys
        assert len(set(seen[keys : keys + updates])) == updates
        assert len(set(seen[keys + updates :])) == queries
        latest = dict(zip(seen[: keys + updates], values, strict=False))
        assert len(latest) == keys
        for place, is_scored in enumerate(scored.tolist()):
            assert is_scored == (place >= keys + updates)
            if is_scored:
                assert values[place] == latest[seen[place]]


def test_updated_keys_and_queries_are_uniform_and_their_values_new() -> None:
    _, latents = create_sampler(spec_of(4, 2, 1)).sample(
        NUM_EPISODES, Generators(0, "train", 0, "cpu"), latents=True
    )
    key, value = latents["key"], latents["value"]
    assert (key[:, :4] == torch.arange(4)).all()
    for place in (4, 5, 6):
        for number in range(4):
            assert_mean(key[:, place] == number, 1 / 4, scale=1 / 2)
    for place in range(6):
        for number in range(9):
            assert_mean(value[:, place] == number, 1 / 9, scale=1 / 3)
    before = value.gather(1, key[:, 4:5])[:, 0]
    assert_mean(value[:, 4] == before, 1 / 9, scale=1 / 3)
    assert_mean((key[:, 6:] == key[:, 4:6]).any(1), 1 / 2)  # a query of an updated key


def test_keys_and_values_are_uniform_on_unit_spheres() -> None:
    episodes = draw(2000, **spec_of(6, 2, 1))
    for part in (episodes.x, episodes.target):
        torch.testing.assert_close(part.norm(dim=2), torch.ones(part.shape[:2]))
    x = episodes.x[:, :6]
    for p in range(5):
        assert_mean(x[..., p], 0, scale=1.0)
        assert_mean(x[..., p].square(), 1 / 5)
    assert_mean(x[..., 0] * x[..., 1], 0, scale=1 / 5)


def test_the_code_book_is_fixed_by_its_seed_and_shared_by_all_splits() -> None:
    function = Recall(num_values=9)
    book = function.tensors(5, 3)["code_book"]
    assert torch.equal(book, Recall(num_values=9).code_book(3))
    assert not torch.equal(book, Recall(num_values=9, code_seed=1).code_book(3))
    sampler = create_sampler(spec_of(6, 2, 1))
    for split in ("train", "val", "test"):
        episodes, latents = sampler.sample(50, Generators(0, split, 0, "cpu"), latents=True)
        assert torch.equal(episodes.target, book[latents["value"]])
        keys = latents["keys"][torch.arange(50)[:, None], latents["key"]]
        assert torch.equal(episodes.x, keys)
    counts = Counter(latents["value"].flatten().tolist())
    assert counts.keys() == {*range(9)}


def test_noise_is_on_visible_values_alone() -> None:
    clean, noisy = draw(500, **spec_of(6, 2, 1)), draw(500, **spec_of(6, 2, 1, noise=0.3))
    assert torch.equal(clean.x, noisy.x)
    assert torch.equal(clean.target, noisy.target)
    assert (noisy.y - noisy.target).std().item() == pytest.approx(0.3, rel=0.03)


def test_sizes_of_an_episode_follow_from_the_numbers_of_keys() -> None:
    spec = EpisodeSpec(**spec_of(6, 2, 3))
    assert spec.num_context == 10
    assert spec.function.first_query == 8  # type: ignore[union-attr]
    assert (spec.input_variance, spec.label_variance) == (1 / 5, 1 / 3)
    assert not spec.labels_hidden
    beside = ("dictionary", "online_gradient_descent")
    assert (spec.function.reference, spec.function.beside) == ("gradient_descent", beside)
