"""Word problems, beside products in plain Python."""

from itertools import product as pairs
from typing import Any

import pytest
import torch

from datamodules import EpisodeSpec
from datamodules.functions import WordProblem
from datamodules.groups import prefix_products
from tests.datamodules.statistics import assert_mean, draw

ORDERS = {"Z2": 2, "Z7": 7, "S3": 6, "S4": 24, "S5": 120, "A4": 12, "A5": 60}
NUM_GENERATORS = {"Z2": 2, "Z7": 2, "S3": 4, "S4": 7, "S5": 11, "A4": 9, "A5": 21}  # with identity


def after(group: str, g: str, h: str) -> str:
    """The product g h of two elements by their names."""
    if group[0] == "Z":
        return str((int(g) + int(h)) % int(group[1:]))
    return "".join(g[int(k)] for k in h)


def spec_of(group: str, generators: bool = False, **others: Any) -> dict[str, Any]:
    function = {"name": "word_problem", "group": group, "generators": generators}
    return {"num_context": 20, "function": function} | others


@pytest.mark.parametrize("generators", [False, True])
@pytest.mark.parametrize("group", ORDERS)
def test_targets_are_the_products_of_the_elements_so_far(group: str, generators: bool) -> None:
    spec = spec_of(group, generators)
    family = EpisodeSpec(**spec).function
    assert isinstance(family, WordProblem)
    classes, symbols = family.classes, family.symbols
    episodes = draw(30, **spec)
    assert not episodes.scored[:, 0].any()
    assert episodes.scored[:, 1:].all()
    for x, target in zip(episodes.x.argmax(2).tolist(), episodes.target.argmax(2), strict=True):
        start, *drawn = (symbols[symbol] for symbol in x)
        assert start == "start"
        so_far = classes[0]
        expected = [so_far]
        for element in drawn:
            so_far = after(group, so_far, element)
            expected.append(so_far)
        assert [classes[number] for number in target.tolist()] == expected


@pytest.mark.parametrize("group", ORDERS)
def test_the_table_is_that_of_the_group_with_the_identity_first(group: str) -> None:
    family = WordProblem(group=group)
    told = family.tensors(0, 0)
    table, order = told["table"].tolist(), ORDERS[group]
    names = family.classes
    assert len(names) == len(set(names)) == order
    for g, h in pairs(range(order), repeat=2):
        assert names[table[g][h]] == after(group, names[g], names[h])
    assert table[0] == [row[0] for row in table] == [*range(order)]
    assert all(sorted(row) == [*range(order)] for row in table)
    assert told["elements"].tolist() == [*range(order), 0]


@pytest.mark.parametrize("group", ORDERS)
def test_generators_are_few_and_generate_the_group(group: str) -> None:
    family = WordProblem(group=group, generators=True)
    *names, start = family.symbols
    assert (len(names), start) == (NUM_GENERATORS[group], "start")
    classes = family.classes
    assert [classes[e] for e in family.tensors(0, 0)["elements"][:-1]] == names
    reached = {classes[0]}
    for _ in range(ORDERS[group]):
        reached |= {after(group, g, h) for g in reached for h in names}
    assert reached == set(classes)


@pytest.mark.parametrize("length", [1, 2, 3, 7, 64, 65])
def test_products_of_all_prefixes_are_those_of_a_loop(length: int) -> None:
    table = WordProblem(group="A4").tensors(0, 0)["table"]
    elements = torch.randint(12, (5, length), generator=torch.Generator().manual_seed(0))
    so_far, expected = torch.zeros(5, dtype=torch.long), []
    for element in elements.unbind(1):
        so_far = table[so_far, element]
        expected.append(so_far)
    assert torch.equal(prefix_products(table, elements), torch.stack(expected, 1))


def test_symbols_are_uniform_and_so_are_products() -> None:
    episodes = draw(4000, **spec_of("S3"))
    for shares in (episodes.x[:, 1:, :6], episodes.target[:, 1:]):
        for share in shares.unbind(2):
            assert_mean(share, 1 / 6)
    few = draw(4000, **spec_of("S3", generators=True)).x[:, 1:, :4]
    for share in few.unbind(2):
        assert_mean(share, 1 / 4)


def test_parity_is_the_word_problem_of_two_elements() -> None:
    episodes = draw(100, **spec_of("Z2"))
    ones = episodes.x[..., 1].cumsum(1) % 2
    assert torch.equal(episodes.target[..., 1], ones)
