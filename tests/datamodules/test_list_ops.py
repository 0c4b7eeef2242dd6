"""Nested expressions, read and drawn in plain Python."""

import random
import statistics

import pytest
import torch

from datamodules import EpisodeSpec, create_sampler
from datamodules.functions import ListOps
from datamodules.stream import Generators
from tests.datamodules.statistics import assert_mean, draw

APPLIED = {
    "[MIN": min,
    "[MAX": max,
    "[MED": lambda digits: int(statistics.median(digits)),
    "[SM": lambda digits: sum(digits) % 10,
}


def words_of(x: torch.Tensor) -> list[str]:
    symbols = ListOps().symbols
    return [symbols[symbol] for symbol in x.argmax(1).tolist()]


def read(words: list[str]) -> tuple[int, int, int, list[str]]:
    """Value, depth and most arguments of the expression that words begin with, and the rest."""
    word, *rest = words
    if word.isdigit():
        return int(word), 0, 0, rest
    digits, deepest, most = [], 0, 0
    while rest[0] != "]":
        digit, depth, many, rest = read(rest)
        digits.append(digit)
        deepest, most = max(deepest, depth), max(most, many)
    assert len(digits) >= 2
    return APPLIED[word](digits), deepest + 1, max(most, len(digits)), rest[1:]


@pytest.mark.parametrize(
    "function", [{"min_length": 10}, {"min_length": 20, "max_arguments": 3, "share_nested": 0.6}]
)
def test_targets_are_the_values_of_the_expressions(function: dict[str, float]) -> None:
    spec = {"num_context": 79, "function": {"name": "list_ops", **function}}
    episodes, latents = create_sampler(spec).sample(
        200, Generators(0, "train", 0, "cpu"), latents=True
    )
    assert not episodes.scored[:, :-1].any()
    assert episodes.scored[:, -1].all()
    assert not episodes.target[:, :-1].any()
    for x, target, length, depth in zip(
        episodes.x, episodes.target, latents["length"], latents["depth"], strict=True
    ):
        words = words_of(x)
        expression = words[80 - length :]
        assert words[: 80 - length] == ["pad"] * (80 - length)
        assert function["min_length"] <= length <= 80
        value, deepest, most, rest = read(expression)
        assert rest == []
        assert value == target[-1].argmax()
        assert deepest == depth
        assert most <= function.get("max_arguments", 10)


def test_expressions_of_every_length_within_the_bounds_are_drawn() -> None:
    spec = {"num_context": 11, "function": {"name": "list_ops", "min_length": 10}}
    _, latents = create_sampler(spec).sample(200, Generators(0, "val", 0, "cpu"), latents=True)
    assert latents["length"].unique().tolist() == [10, 11, 12]


def test_depth_is_bounded_and_reached() -> None:
    function = {"name": "list_ops", "min_length": 4, "max_depth": 3, "share_nested": 0.4}
    _, latents = create_sampler({"num_context": 199, "function": function}).sample(
        500, Generators(0, "train", 0, "cpu"), latents=True
    )
    assert latents["depth"].unique().tolist() == [1, 2]  # digits are one deeper


def test_expressions_that_outgrow_the_episode_are_not_drawn_to_their_end() -> None:
    family = ListOps(max_arguments=100, max_depth=20, share_nested=1.0, min_length=4)
    levels, size = family._trees(20, 1000, torch.Generator().manual_seed(0))
    assert (size > 1000).sum() > 10
    assert max(len(level.tree) for level in levels) <= 20 * 1000


def in_plain_python(rng: random.Random, depth: int = 1) -> list[str]:
    """An expression as Long Range Arena draws it, an operator at its root; empty if too long."""
    if depth == 10 or (depth > 1 and rng.random() > 0.25):
        return [str(rng.randrange(10))]
    words = [rng.choice([*APPLIED])]
    for _ in range(rng.randint(2, 10)):
        argument = in_plain_python(rng, depth + 1)
        if not argument or len(words) + len(argument) > 99:
            return []
        words += argument
    return [*words, "]"]


def test_expressions_are_distributed_as_those_of_a_recursive_program() -> None:
    rng, expected = random.Random(0), list[list[str]]()
    while len(expected) < 1500:
        found = in_plain_python(rng)
        if len(found) >= 20:
            expected.append(found)
    spec = {"num_context": 99, "function": {"name": "list_ops", "min_length": 20}}
    drawn = [[word for word in words_of(x) if word != "pad"] for x in draw(1500, **spec).x]
    for measure in (
        len,
        lambda words: sum(word in APPLIED for word in words),
        lambda words: read(words)[0],
        lambda words: read(words)[1],
        lambda words: words[0] == "[MED",
        lambda words: words.count("7"),
    ):
        one, other = (torch.tensor([float(measure(w)) for w in side]) for side in (drawn, expected))
        error = (one.var() / 1500 + other.var() / 1500).sqrt()
        assert abs(one.mean() - other.mean()) < 4 * error


def test_operators_and_digits_are_uniform() -> None:
    spec = {"num_context": 39, "function": {"name": "list_ops", "min_length": 4}}
    symbol = draw(4000, **spec).x.argmax(2)
    for operator in range(4):
        assert_mean(symbol[(symbol >= 10) & (symbol < 14)] == 10 + operator, 1 / 4, scale=1 / 2)
    for digit in range(10):
        assert_mean(symbol[symbol < 10] == digit, 1 / 10, scale=1 / 3)


def test_what_is_hardly_ever_drawn_is_given_up_with_one_line() -> None:
    function = {"name": "list_ops", "min_length": 90, "max_arguments": 2, "share_nested": 0.1}
    spec = EpisodeSpec(num_context=99, function=function)
    with pytest.raises(ValueError, match="hardly any expression .* 90 to 100 symbols"):
        create_sampler(spec).sample(20, Generators(0, "train", 0, "cpu"))
