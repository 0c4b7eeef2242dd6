"""The value of nested operations on lists of digits."""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from zoo.registry import PredictorConfig, register_solver
from zoo.solvers.solver import EpisodeFacts
from zoo.solvers.symbols import SymbolSolver, sure

# By the token that opens a list of operands; the median of an even number is rounded down.
OPERATIONS: dict[str, Callable[[Sequence[int]], int]] = {
    "[MIN": min,
    "[MAX": max,
    "[MED": lambda found: (
        sum(sorted(found)[(len(found) - 1) // 2 : len(found) // 2 + 1]) // (2 - len(found) % 2)
    ),
    "[SM": lambda found: sum(found) % 10,
}
CLOSING, PADDING = "]", "pad"
TOKENS = (*map(str, range(10)), *OPERATIONS, CLOSING, PADDING)


class ListOpsParserConfig(PredictorConfig):
    """Arguments of `list_ops_parser`, explained at `ListOpsParser`."""

    tokens: Annotated[tuple[str, ...], Field(strict=False)]


@register_solver("list_ops_parser", ListOpsParserConfig)
class ListOpsParser(SymbolSolver):
    """The value of the expression that ends with the query's symbol.

    `tokens` says what each symbol is: a digit, `[MIN`, `[MAX`, `[MED` or `[SM` (the sum modulo 10),
    which open a list of operands, `]`, which closes it, or `pad`, which is passed over. Where no
    expression has come to its end, or a list was closed that was empty or not open, every class is
    as likely. Source: ListOps of Long Range Arena (arXiv 2011.04006).

    Raises:
        ValueError: If there are not d_x tokens, or one is unknown.
    """

    def __init__(self, config: ListOpsParserConfig) -> None:
        super().__init__(config.d_x, config.d_y)
        unknown = [token for token in config.tokens if token not in TOKENS]
        if unknown or len(config.tokens) != config.d_x:
            raise ValueError(
                f"tokens must be {config.d_x} of {' '.join(TOKENS)}, got {' '.join(config.tokens)}"
            )
        self.tokens = config.tokens

    @classmethod
    def known(cls, facts: EpisodeFacts, given: Mapping[str, Any]) -> dict[str, Any]:
        """The names of the symbols, where they are such tokens."""
        return {"tokens": facts.symbols} if {CLOSING, *OPERATIONS} <= {*facts.symbols} else {}

    @classmethod
    def example(cls, d_x: int, d_y: int) -> dict[str, Any]:
        return {"tokens": ["[MAX", "]", "1", "0", "[SM"][:d_x]}

    def logits(self, symbols: Tensor) -> Tensor:
        values = [self._values([self.tokens[s] for s in row]) for row in symbols.tolist()]
        found = torch.tensor(values, dtype=torch.int64, device=symbols.device)
        return sure(found.view(symbols.shape), self.d_y)

    def _values(self, tokens: list[str]) -> list[int]:
        """The value of the expression that ends at each token, -1 where none does."""
        values, open_lists = [], list[tuple[str, list[int]]]()
        is_wrong = False
        for token in tokens:
            value = -1
            if token in OPERATIONS:
                open_lists.append((token, []))
            elif token.isdigit():
                value = int(token)
            elif token == CLOSING:
                is_wrong = is_wrong or not open_lists or not open_lists[-1][1]
                if not is_wrong:
                    operation, operands = open_lists.pop()
                    value = OPERATIONS[operation](operands)
            if value >= 0 and open_lists:
                open_lists[-1][1].append(value)
                value = -1
            values.append(-1 if is_wrong else value)
        return values
