"""Copying and recall of symbols, done again in plain Python."""

import pytest

from datamodules import create_sampler
from datamodules.stream import Generators
from tests.datamodules.statistics import NUM_EPISODES, assert_mean, draw

COPY = {"name": "selective_copy", "vocabulary": 5, "num_copied": 3}
NOISY = {"name": "noisy_recall", "num_keys": 4, "num_noise": 3, "noise_share": 0.4}
INDUCTION = {"name": "induction", "vocabulary": 4}


@pytest.mark.parametrize("length", [6, 7, 20])
def test_markers_ask_for_the_symbols_in_their_order(length: int) -> None:
    episodes = draw(200, num_context=length - 1, function=COPY)
    for x, target, scored in zip(
        episodes.x.argmax(2).tolist(), episodes.target, episodes.scored.tolist(), strict=True
    ):
        copied = [symbol for symbol in x if symbol < 5]
        assert len(copied) == 3
        assert x[-3:] == [6, 6, 6]
        assert set(x[:-3]) - set(copied) <= {5}
        assert target[-3:].argmax(1).tolist() == copied
        assert not target[:-3].any()
        assert scored == [False] * (length - 3) + [True] * 3


def test_copied_symbols_and_their_places_are_uniform() -> None:
    symbol = draw(NUM_EPISODES, num_context=11, function=COPY).x.argmax(2)
    for place in range(9):
        assert_mean(symbol[:, place] < 5, 3 / 9)
    for number in range(5):
        assert_mean(symbol[symbol < 5] == number, 1 / 5)
    told = create_sampler({"function": COPY}).spec.function.tensors(7, 5)
    assert {name: tensor.tolist() for name, tensor in told.items()} == {
        "copied": [0, 1, 2, 3, 4],
        "asked": [6],
    }


@pytest.mark.parametrize("length", [3, 4, 21, 40])
def test_a_key_that_came_before_asks_for_its_value(length: int) -> None:
    episodes = draw(200, num_context=length - 1, function=NOISY)
    for x, target, scored in zip(
        episodes.x.argmax(2).tolist(), episodes.target, episodes.scored.tolist(), strict=True
    ):
        place, value_of = 0, dict[int, int]()
        if length % 2 == 0:
            assert x[0] >= 8
            place = 1
        expected = [False] * length
        while place < length - 1:
            first, second = x[place : place + 2]
            if first < 8:  # a key
                assert 4 <= first < 8
                assert second < 4
                if first in value_of:
                    expected[place] = True
                    assert target[place].argmax() == second == value_of[first]
                value_of[first] = second
            else:
                assert second >= 8
            place += 2
        assert x[-1] in value_of
        assert target[-1].argmax() == value_of[x[-1]]
        assert scored == [*expected[:-1], True]
        assert target.any(1).tolist() == scored


def test_noise_keys_and_values_have_the_shares_that_are_set() -> None:
    episodes, latents = create_sampler({"num_context": 20, "function": NOISY}).sample(
        NUM_EPISODES, Generators(0, "train", 0, "cpu"), latents=True
    )
    symbol = episodes.x.argmax(2)
    blocks = symbol[:, :-1].unflatten(1, (10, 2))
    noise = blocks[..., 0] >= 8
    assert not noise.all(1).any()
    for block in range(10):  # one of ten is never noise
        assert_mean(noise[:, block], 0.4 * 9 / 10)
    for key in range(4):
        assert_mean((blocks[..., 0] == key + 4)[~noise], 1 / 4)
        assert_mean(symbol[:, -1] == key + 4, 1 / 4, scale=1 / 2)
        assert_mean(latents["value_of"] == key, 1 / 4)
    for number in range(3):
        assert_mean(blocks[noise] == 8 + number, 1 / 3)
    always = draw(50, num_context=8, function=NOISY | {"noise_share": 1.0}).x.argmax(2)
    assert ((always[:, :-1] < 4).sum(1) == 1).all()
    told = create_sampler({"function": NOISY}).spec.function.tensors(11, 4)
    assert told["keys"].tolist() == [4, 5, 6, 7]
    assert told["noise"].tolist() == [8, 9, 10]


def test_the_last_key_is_any_of_those_that_came_before() -> None:
    symbol = draw(NUM_EPISODES, num_context=8, function=NOISY | {"noise_share": 0.0}).x.argmax(2)
    keys = symbol[:, 0:-1:2]
    kinds = (keys[..., None] == symbol.new_tensor([4, 5, 6, 7])).any(1)  # (batch, 4)
    two = kinds.sum(1) == 2
    lower = kinds[two].long().argmax(1) + 4
    assert_mean(symbol[two, -1] == lower, 1 / 2, scale=1.0)


@pytest.mark.parametrize("length", [3, 10])
def test_the_last_position_asks_what_followed_the_trigger(length: int) -> None:
    episodes = draw(200, num_context=length - 1, function=INDUCTION)
    for x, target, scored in zip(
        episodes.x.argmax(2).tolist(), episodes.target, episodes.scored.tolist(), strict=True
    ):
        assert x.count(4) == 2
        assert x[-1] == 4
        assert x[-2] != 4
        assert target[-1].argmax() == x[x.index(4) + 1]
        assert not target[:-1].any()
        assert scored == [False] * (length - 1) + [True]


def test_the_trigger_is_anywhere_and_symbols_are_uniform() -> None:
    symbol = draw(NUM_EPISODES, num_context=9, function=INDUCTION).x.argmax(2)
    first = (symbol == 4).long().argmax(1)
    for place in range(8):
        assert_mean(first == place, 1 / 8, scale=1 / 4)
    for number in range(4):
        assert_mean(symbol[symbol < 4] == number, 1 / 4)
