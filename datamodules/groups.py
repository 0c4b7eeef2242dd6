"""Word problems: the product of the elements of a group that have been read."""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import permutations
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import AfterValidator

from datamodules.family import Drawn, SymbolFamily, one_hot
from datamodules.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

    from datamodules.stream import Generators

LARGEST_CYCLE = 256
PERMUTATIONS = ("S3", "S4", "S5", "A4", "A5")


def _known(group: str) -> str:
    cyclic = re.fullmatch(r"Z([1-9][0-9]{0,2})", group)
    if group in PERMUTATIONS or (cyclic and 2 <= int(cyclic[1]) <= LARGEST_CYCLE):
        return group
    raise ValueError(
        f"group must be Z2 to Z{LARGEST_CYCLE}, {', '.join(PERMUTATIONS)}, got {group!r}"
    )


class WordProblem(SymbolFamily):
    """The product g_1 g_2 ... g_i of the elements so far, after a start symbol.

    Symbols are the elements of the group, uniformly drawn, and the start symbol, which is the last
    one. Elements of Z_m are 0, ..., m - 1 under addition; those of S_n and A_n are permutations in
    lexicographic order, g h being g after h. The identity is element 0. Z2 is parity.

    Source: Grazzi et al. 2024 (arXiv 2411.12537) and Siems et al. 2025 (arXiv 2502.10297).

    Attributes:
        group: Z2, Z3, ..., S3, S4, S5, A4 or A5.
        generators: Whether only the identity and generators are drawn: 1 of Z_m, the transpositions
            of S_n, the 3-cycles of A_n.
    """

    name: Literal["word_problem"] = "word_problem"
    group: Annotated[str, AfterValidator(_known)] = "S3"
    generators: bool = False

    beside: ClassVar[tuple[str, ...]] = ("group_table",)

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(map(_written, _elements(self.group)))

    @property
    def symbols(self) -> tuple[str, ...]:
        *drawn, _ = self._of_symbols
        classes = self.classes
        return (*(classes[number] for number in drawn), "start")

    @property
    def _of_symbols(self) -> list[int]:
        """The number of the element that each symbol stands for, the start symbol for the first."""
        every = enumerate(_elements(self.group))
        drawn = [i for i, g in every if not self.generators or _is_small(self.group, g)]
        return [*drawn, 0]

    def tensors(self, d_x: int, d_y: int) -> dict[str, Tensor]:
        """The table[g, h] = g h (d_y, d_y), and the element that each symbol stands for (d_x,).

        The start symbol stands for the identity.
        """
        return {"table": _table(self.group), "elements": torch.tensor(self._of_symbols)}

    def draw(self, batch: int, length: int, d_x: int, d_y: int, generators: Generators) -> Drawn:
        inputs = generators("inputs")
        device = inputs.device
        symbol = torch.randint(d_x - 1, (batch, length), generator=inputs, device=device)
        symbol[:, 0] = d_x - 1
        element = torch.tensor(self._of_symbols, device=device)[symbol]
        product = prefix_products(_table(self.group).to(device), element)
        scored = torch.ones(batch, length, dtype=torch.bool, device=device)
        scored[:, 0] = False
        latents = {"element": element, "product": product}
        return Drawn(one_hot(symbol, d_x), one_hot(product, d_y), scored, latents)


def prefix_products(table: Tensor, elements: Tensor) -> Tensor:
    """The products g_0 g_1 ... g_i for all i.

    Args:
        table: Of the group: number of g h at [g, h], (order, order).
        elements: Their numbers, (batch, length).

    Returns:
        (batch, length); each pass doubles over how many elements the products reach.
    """
    products, reach = elements, 1
    while reach < elements.shape[1]:
        longer = table[products[:, :-reach], products[:, reach:]]
        products = torch.cat([products[:, :reach], longer], dim=1)
        reach *= 2
    return products


Element = int | tuple[int, ...]


@lru_cache
def _elements(group: str) -> list[Element]:
    """The identity comes first."""
    order = int(group[1:])
    if group[0] == "Z":
        return [*range(order)]
    return [p for p in permutations(range(order)) if group[0] == "S" or _is_even(p)]


@lru_cache
def _table(group: str) -> Tensor:
    elements = _elements(group)
    number = {element: i for i, element in enumerate(elements)}
    return torch.tensor([[number[_product(group, g, h)] for h in elements] for g in elements])


def _product(group: str, g: Element, h: Element) -> Element:
    if isinstance(g, int) or isinstance(h, int):
        return (g + h) % int(group[1:])  # type: ignore[operator]
    return tuple(g[k] for k in h)


def _is_even(p: tuple[int, ...]) -> bool:
    inversions = sum(p[i] > p[j] for j in range(len(p)) for i in range(j))
    return inversions % 2 == 0


def _is_small(group: str, element: Element) -> bool:
    """Whether it is the identity or one of the generators."""
    if isinstance(element, int):
        return element <= 1
    moved = sum(place != value for place, value in enumerate(element))
    return moved <= (2 if group[0] == "S" else 3)


def _written(element: Element) -> str:
    return str(element) if isinstance(element, int) else "".join(map(str, element))
