"""The next symbol by the symbols before it: n-grams that back off to shorter ones.

With c(s) the number of times that symbol s came after the last k symbols, n their sum and t the
number of different ones, p_k(s) = (c(s) + t p_(k-1)(s)) / (n + t), and p_(k-1) where n is zero;
below p_0, which counts symbols alone, every symbol is as likely. That is the back-off of Witten
and Bell (1991): the more different symbols a context was followed by, the less it is trusted.

The class of a symbol is its own number; symbols from d_y on are no classes and cannot come next.
"""

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from zoo.registry import PredictorConfig, register_solver
from zoo.solvers.solver import EpisodeFacts
from zoo.solvers.symbols import Symbols, SymbolSolver

# The code of a context is a whole number of 63 bits.
MAX_CODE = 2**63 - 1


def backed_off(counts: Tensor, shorter: Tensor) -> Tensor:
    """p_k from the counts of a context and p_(k-1), both (..., num_symbols)."""
    num, kinds = counts.sum(-1, keepdim=True), (counts > 0).sum(-1, keepdim=True)
    return torch.where(num > 0, (counts + kinds * shorter) / (num + kinds).clamp(min=1), shorter)


class ContextNgramsConfig(PredictorConfig):
    """Arguments of `context_ngrams`, explained at `ContextNgrams`."""

    order: PositiveInt = 3


@register_solver("context_ngrams", ContextNgramsConfig)
class ContextNgrams(SymbolSolver):
    """n-grams counted in the episode itself, n up to `order`, with back-off.

    What transformers learn in the context of formal languages (arXiv 2401.12973).
    """

    def __init__(self, config: ContextNgramsConfig) -> None:
        super().__init__(config.d_x, config.d_y)
        self.order = config.order

    def logits(self, symbols: Tensor) -> Tensor:
        return self._of_rows(symbols, 0)

    def last_logits(self, symbols: Tensor) -> Tensor:
        return self._of_rows(symbols, symbols.shape[1] - 1)[:, 0]

    def _of_rows(self, symbols: Tensor, first: int) -> Tensor:
        """Logits at the positions from `first` on."""
        length = symbols.shape[1]
        place = torch.arange(length, device=symbols.device)
        num_symbols = max(self.d_x, self.d_y)
        is_symbol = symbols[..., None] == torch.arange(num_symbols, device=symbols.device)
        # The last row, that of no follower, is not read. Counts are exact in float32.
        followers = is_symbol.roll(-1, 1).float()
        # Which earlier places (batch, rows, length) have the same k symbols before their follower.
        same = (place < place[first:, None]).expand(len(symbols), -1, -1)
        shape = len(symbols), length - first, num_symbols
        p = torch.full(shape, 1 / num_symbols, dtype=torch.float64, device=symbols.device)
        p = backed_off(is_symbol.cumsum(1)[:, first:], p)
        for k in range(1, self.order):
            back = symbols.roll(k - 1, 1)  # what stands k - 1 places before each
            both = (place >= k - 1) & (place[first:, None] >= k - 1)
            same = same & both & (back[:, first:, None] == back[:, None, :])
            p = backed_off(same.float() @ followers, p)
        return p[..., : self.d_y].log()


class FittedNgramsConfig(PredictorConfig):
    """Arguments of `fitted_ngrams`, explained at `FittedNgrams`."""

    text: Annotated[Symbols, Field(min_length=1)]
    order: PositiveInt = 5


@register_solver("fitted_ngrams", FittedNgramsConfig)
class FittedNgrams(SymbolSolver):
    """n-grams counted in a text before the episode, n up to `order`, with back-off.

    It learns nothing from the episode.

    Raises:
        ValueError: If the text has other symbols, or the order is too high for its contexts to have
            a number.
    """

    text: Tensor

    def __init__(self, config: FittedNgramsConfig) -> None:
        super().__init__(config.d_x, config.d_y)
        if max(config.text) >= config.d_x:
            raise ValueError(
                f"text must consist of symbols below {config.d_x}, got {max(config.text)}"
            )
        if config.d_x ** (config.order - 1) > MAX_CODE:
            raise ValueError(
                f"order must be lower for {config.d_x} symbols, whose contexts are counted by "
                f"numbers of 63 bits, got {config.order}"
            )
        self.order = config.order
        self.register_buffer("text", torch.tensor(config.text))
        # For each length of contexts their codes in order, and log p of each.
        self._tables: list[tuple[Tensor, Tensor]] = []

    @classmethod
    def known(cls, facts: EpisodeFacts, given: Mapping[str, Any]) -> dict[str, Any]:
        """The text that training episodes are windows of."""
        return facts.named("text")

    @classmethod
    def example(cls, d_x: int, d_y: int) -> dict[str, Any]:
        return {"text": [(i * i) % d_x for i in range(50)], "order": 3}

    def logits(self, symbols: Tensor) -> Tensor:
        if not self._tables or self._tables[0][1].device != symbols.device:
            self._tables = self._counted(self.text)
        log_p = self._tables[0][1].expand(*symbols.shape, -1).clone()
        for k, (codes, rows) in enumerate(self._tables[1:], start=1):
            asked = self._codes(symbols, k)  # (batch, length - k + 1)
            found = torch.searchsorted(codes, asked).clamp(max=len(codes) - 1)
            known = (codes[found] == asked)[..., None]
            log_p[:, k - 1 :] = torch.where(known, rows[found], log_p[:, k - 1 :])
        return log_p.double()

    def last_logits(self, symbols: Tensor) -> Tensor:
        return self.logits(symbols[:, -self.order :])[:, -1]

    def state_size(self, num_context: int) -> int:
        return min(num_context, self.order - 1)

    def _codes(self, symbols: Tensor, k: int) -> Tensor:
        """The numbers of the k symbols that end at each place from k - 1 on, (..., length - k + 1).

        There are none in fewer than k symbols.
        """
        if symbols.shape[-1] < k:
            return symbols[..., :0]
        weights = self.d_x ** torch.arange(k - 1, -1, -1, device=symbols.device)
        return (symbols.unfold(-1, k, 1) * weights).sum(-1)

    def _counted(self, text: Tensor) -> list[tuple[Tensor, Tensor]]:
        """For each number of symbols before the next one their codes, in order, and log p of each.

        In float32, since there are as many rows as different contexts in the text.
        """
        num_symbols = max(self.d_x, self.d_y)
        counts = torch.bincount(text, minlength=num_symbols).float()[None]
        p = backed_off(counts, torch.full_like(counts, 1 / num_symbols))
        tables = [(text.new_zeros(1), p)]
        for k in range(1, min(self.order, len(text))):
            codes, context = self._codes(text[:-1], k).unique(return_inverse=True)
            counts = counts.new_zeros(len(codes), num_symbols)
            counts.index_put_((context, text[k:]), counts.new_ones(()), accumulate=True)
            shorter, of_shorter = tables[-1]
            suffix = torch.searchsorted(shorter, codes % self.d_x ** (k - 1))
            tables.append((codes, backed_off(counts, of_shorter[suffix])))
        return [(codes, p[:, : self.d_y].log()) for codes, p in tables]
