"""Nested operations on lists of digits."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

from pydantic import Field, PositiveInt

from datamodules.family import Drawn, SymbolFamily, one_hot
from datamodules.lazy import torch
from datamodules.spec import Probability

if TYPE_CHECKING:
    from torch import Tensor

    from datamodules.stream import Generators

NUM_DIGITS = 10
OPERATORS = ("[MIN", "[MAX", "[MED", "[SM")
CLOSE = NUM_DIGITS + len(OPERATORS)
PAD = CLOSE + 1
# Expressions drawn for one that is looked for, and how often before the search is given up.
CANDIDATES, MOST_ROUNDS = 6, 100


class ListOps(SymbolFamily):
    """The value of a nested expression: minimum, maximum, median and sum modulo 10 of digits.

    An expression is an operator, its arguments and a bracket, as in `[MAX 2 9 [MIN 4 7 ] 0 ]`. It
    has 2 to max_arguments arguments and one of four operators, uniformly drawn. An argument is a
    digit, uniformly drawn, or with probability share_nested, at a depth below max_depth, an
    expression. The median of an even number of digits is the mean of the middle two, rounded down.
    Drawn are expressions of min_length symbols or more that fit into the episode: those of other
    lengths are drawn again. Symbols for padding come before; only the last position, the last
    bracket, is scored. What each symbol means is its name in `symbols`.

    Source: ListOps of Nangia and Bowman 2018 (arXiv 1804.06028) as Long Range Arena (arXiv
    2011.04006) draws it, with 500 to 2,000 symbols.

    Attributes:
        max_arguments: Largest number of arguments.
        max_depth: Of nesting; digits in the outermost expression have depth 2.
        share_nested: Probability of an argument to be an expression.
        min_length: Least number of symbols of an expression.
    """

    name: Literal["list_ops"] = "list_ops"
    max_arguments: int = Field(default=10, ge=2, le=100)
    max_depth: int = Field(default=10, ge=2, le=20)
    share_nested: Probability = 0.25
    min_length: PositiveInt = 128

    beside: ClassVar[tuple[str, ...]] = ("list_ops_parser",)

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(map(str, range(NUM_DIGITS)))

    @property
    def symbols(self) -> tuple[str, ...]:
        return (*self.classes, *OPERATORS, "]", "pad")

    @property
    def least_length(self) -> int:
        return max(4, self.min_length)

    def draw(self, batch: int, length: int, d_x: int, d_y: int, generators: Generators) -> Drawn:
        inputs = generators("inputs")
        symbols, values, depths = [], [], []
        missing = batch
        for _ in range(MOST_ROUNDS):
            levels, whole_size = self._trees(CANDIDATES * (missing + 4), length, inputs)
            found = (whole_size >= self.min_length) & (whole_size <= length)
            found &= found.cumsum(0) <= missing
            levels = _of_trees(levels, found)
            size, value = _evaluated(levels)
            symbols.append(_written(levels, size, length))
            values.append(value[0])
            depths.append(_depths(levels))
            missing -= len(value[0])
            if missing == 0:
                break
        else:
            raise ValueError(
                f"hardly any expression of function list_ops has {self.min_length} to {length} "
                "symbols: change min_length, num_context, max_arguments or max_depth"
            )
        symbol = torch.cat(symbols)  # (batch, length)
        target = torch.zeros(batch, length, d_y, device=inputs.device)
        target[:, -1] = one_hot(torch.cat(values), d_y)
        scored = (torch.arange(length, device=inputs.device) == length - 1).repeat(batch, 1)
        latents = {"length": (symbol != PAD).sum(1), "depth": torch.cat(depths)}
        return Drawn(one_hot(symbol, d_x), target, scored, latents)

    def _trees(
        self, num_trees: int, length: int, generator: torch.Generator
    ) -> tuple[list[_Level], Tensor]:
        """Draws expressions level by level.

        Returns:
            The levels, and how many symbols each expression has, (num_trees,). Those that outgrow
            the episode are left unfinished, with a number above its length.
        """
        device = generator.device
        tree = torch.arange(num_trees, device=device)
        parent = tree
        size = torch.ones_like(tree)
        levels: list[_Level] = []
        for depth in range(1, self.max_depth + 1):
            shape = tree.shape
            nested = torch.rand(shape, generator=generator, device=device) < self.share_nested
            if depth in (1, self.max_depth):
                nested = torch.full(shape, depth == 1, device=device)
            num_arguments = nested * torch.randint(
                2, self.max_arguments + 1, shape, generator=generator, device=device
            )
            digit = torch.randint(NUM_DIGITS, shape, generator=generator, device=device)
            operator = torch.randint(len(OPERATORS), shape, generator=generator, device=device)
            size = size.index_add(0, tree, num_arguments + nested.long())  # and a bracket for each
            num_arguments *= size[tree] <= length
            symbol = torch.where(nested, NUM_DIGITS + operator, digit)
            levels.append(_Level(tree, parent, nested, num_arguments, symbol))
            number = torch.arange(len(tree), device=device)
            parent = number.repeat_interleave(num_arguments)
            tree = tree[parent]
            if len(tree) == 0:
                break
        return levels, size


class _Level(NamedTuple):
    """The nodes of one depth in all trees; the arguments of an expression follow each other.

    Attributes:
        tree: That a node belongs to, (num_nodes,).
        parent: Its number among those of the level above; at depth 1 its own.
        nested: Whether it is an expression.
        num_arguments: Of an expression; 0 of a digit.
        symbol: The operator or the digit.
    """

    tree: Tensor
    parent: Tensor
    nested: Tensor
    num_arguments: Tensor
    symbol: Tensor


def _of_trees(levels: list[_Level], chosen: Tensor) -> list[_Level]:
    """The levels of some of the trees, bool (num_trees,)."""
    new_tree = chosen.cumsum(0) - 1
    new_parent, parts = new_tree, []
    for level in levels:
        kept = chosen[level.tree]
        tree, parent, *others = (part[kept] for part in level)
        parts.append(_Level(new_tree[tree], new_parent[parent], *others))
        new_parent = kept.cumsum(0) - 1
    return parts


def _evaluated(levels: list[_Level]) -> tuple[list[Tensor], list[Tensor]]:
    """Number of symbols and value of every node, by level."""
    sizes: list[Tensor] = []
    values: list[Tensor] = []
    for number in reversed(range(len(levels))):
        level = levels[number]
        size, value = torch.ones_like(level.symbol), level.symbol
        if number + 1 < len(levels):
            below = levels[number + 1]
            size = size + level.nested
            size = size.index_add(0, below.parent, sizes[-1])
            of_digit = torch.zeros(len(size) * NUM_DIGITS, dtype=torch.long, device=size.device)
            one = torch.ones_like(values[-1])
            of_digit.index_add_(0, below.parent * NUM_DIGITS + values[-1], one)
            lists = of_digit.unflatten(0, (-1, NUM_DIGITS))[level.nested]
            operator = level.symbol[level.nested] - NUM_DIGITS
            value = value.masked_scatter(level.nested, _applied(operator, lists))
        sizes.append(size)
        values.append(value)
    return sizes[::-1], values[::-1]


def _applied(operator: Tensor, of_digit: Tensor) -> Tensor:
    """The values of operators (num,) on lists with so many of each digit (num, 10)."""
    up_to = of_digit.cumsum(1)
    count = up_to[:, -1:]

    def ranked(rank: Tensor) -> Tensor:
        """The digit of that rank, from 0."""
        return (up_to <= rank).sum(1)

    lowest, highest = ranked(0 * count), ranked(count - 1)
    median = (ranked((count - 1) // 2) + ranked(count // 2)) // 2
    total = (of_digit * torch.arange(NUM_DIGITS, device=of_digit.device)).sum(1) % NUM_DIGITS
    found = torch.stack([lowest, highest, median, total], dim=1)  # (num, 4)
    return found.gather(1, operator[:, None])[:, 0]


def _written(levels: list[_Level], sizes: list[Tensor], length: int) -> Tensor:
    """The symbols, (num_trees, length), padded before."""
    symbols = torch.full((len(sizes[0]), length), PAD, device=sizes[0].device)
    start = length - sizes[0]
    for number, (level, size) in enumerate(zip(levels, sizes, strict=True)):
        if number > 0:
            before = size.cumsum(0) - size  # of all nodes of the level
            first = torch.zeros_like(start).scatter_reduce_(
                0, level.parent, before, "amin", include_self=False
            )
            start = start[level.parent] + 1 + before - first[level.parent]
        symbols[level.tree, start] = level.symbol
        symbols[level.tree[level.nested], (start + size - 1)[level.nested]] = CLOSE
    return symbols


def _depths(levels: list[_Level]) -> Tensor:
    """How deep expressions are nested, (num_trees,)."""
    depth = torch.zeros_like(levels[0].tree)
    for number, level in enumerate(levels):
        depth[level.tree[level.nested]] = number + 1
    return depth
