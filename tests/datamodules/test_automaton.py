"""Random automata, followed step by step in plain Python."""

from typing import Any

import pytest
import torch
from torch import Tensor

from datamodules import Episodes, create_sampler
from datamodules.stream import Generators
from tests.datamodules.statistics import assert_mean

SEPARATOR = 18


def drawn(num_episodes: int, length: int, **function: Any) -> tuple[Episodes, dict[str, Tensor]]:
    spec = {"num_context": length - 1, "function": {"name": "automaton", **function}}
    generators = Generators(0, "train", 0, "cpu")
    return create_sampler(spec).sample(num_episodes, generators, latents=True)


@pytest.mark.parametrize("length", [3, 4, 50, 256])
def test_strings_follow_the_edges_of_the_automaton_and_targets_are_what_may_come_next(
    length: int,
) -> None:
    episodes, latents = drawn(40, length, max_string=7)
    for number in range(40):
        num_states = int(latents["num_states"][number])
        assert 4 <= num_states <= 12
        edges: list[dict[int, int]] = []
        for state in range(num_states):
            count = int(latents["num_edges"][number, state])
            symbols = latents["edge_symbol"][number, state, :count].tolist()
            states = latents["edge_state"][number, state, :count].tolist()
            assert 1 <= count <= 3
            assert len(set(symbols)) == count
            assert all(0 <= symbol < SEPARATOR for symbol in symbols)
            assert all(0 <= other < num_states for other in states)
            edges.append(dict(zip(symbols, states, strict=True)))
        symbols = episodes.x[number].argmax(1).tolist()
        assert symbols[0] == SEPARATOR
        state = 0
        for place, symbol in enumerate(symbols):
            state = 0 if symbol == SEPARATOR else edges[state][symbol]
            assert latents["state"][number, place] == state
            share = 1 / len(edges[state])
            expected = [share if s in edges[state] else 0.0 for s in range(SEPARATOR)]
            assert episodes.target[number, place].tolist() == pytest.approx(expected)
            entropy = torch.special.entr(torch.tensor(expected)).sum().item()
            assert latents["entropy"][number, place].item() == pytest.approx(entropy, abs=1e-6)
            followed = place + 1 < length and symbols[place + 1] == SEPARATOR
            assert episodes.scored[number, place] == (not followed)


def test_episodes_end_inside_a_string_of_one_to_so_many_symbols() -> None:
    episodes, _ = drawn(2000, 60, max_string=5)
    symbols = episodes.x.argmax(2)
    assert (symbols[:, 1] != SEPARATOR).all()
    assert (symbols[:, -1] != SEPARATOR).all()
    assert episodes.scored[:, -1].all()
    for row in symbols[:200].tolist():
        text = "".join("|" if s == SEPARATOR else "a" for s in row)
        *strings, last = text[1:].split("|")
        assert {len(string) for string in strings} <= {1, 2, 3, 4, 5}
        assert 1 <= len(last) <= 7  # goes on where a separator fell on the end
    first = (symbols[:, 1:] == SEPARATOR).long().argmax(1)
    for length in range(1, 6):
        assert_mean(first == length, 1 / 5, scale=1.0)


def test_states_edges_and_symbols_are_uniform() -> None:
    episodes, latents = drawn(10_000, 12)
    for number in range(4, 13):
        assert_mean(latents["num_states"] == number, 1 / 9, scale=0.5)
    for number in range(1, 4):
        assert_mean(latents["num_edges"] == number, 1 / 3)
    for symbol in range(SEPARATOR):
        assert_mean((latents["edge_symbol"][:, :, 0] == symbol).double(), 1 / 18, scale=1 / 3)
        assert_mean((latents["edge_symbol"][:, :, 2] == symbol).double(), 1 / 18, scale=1 / 3)
    few = latents["num_states"] == 4
    for state in range(4):
        assert_mean((latents["edge_state"][few] == state).flatten(), 1 / 4, scale=1 / 2)
    # The edge that the first string takes from state 0 is any of them.
    three = latents["num_edges"][:, 0] == 3
    taken = episodes.x[three, 1].argmax(1)
    for edge in range(3):
        assert_mean(taken == latents["edge_symbol"][three, 0, edge], 1 / 3, scale=1.0)


def test_every_episode_has_an_automaton_of_its_own() -> None:
    _, latents = drawn(300, 12)
    assert len(latents["edge_symbol"].flatten(1).unique(dim=0)) == 300


def test_smaller_automata_have_the_sizes_that_are_set() -> None:
    sizes = {"alphabet": 2, "min_states": 1, "max_states": 2, "max_edges": 2, "max_string": 3}
    episodes, latents = drawn(200, 30, **sizes)
    assert episodes.x.shape[2] == 3
    assert episodes.target.shape[2] == 2
    assert latents["num_states"].unique().tolist() == [1, 2]
    assert latents["num_edges"].unique().tolist() == [1, 2]
