"""The next symbol by the symbols before it: n-grams that back off to shorter ones.

With c(s) the number of times that symbol s came after the last k symbols, n their sum and t the
number of different ones, p_k(s) = (c(s) + t p_(k-1)(s)) / (n + t), and p_(k-1) where n is zero;
below p_0, which counts symbols alone, every symbol is as likely. That is the back-off of Witten
and Bell (1991): the more different symbols a context was followed by, the less it is trusted.

The class of a symbol is its own number; symbols from d_y on are no classes and cannot come next.
"""

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

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


class Followers(NamedTuple):
    """How often which symbols came after contexts of one length; those that never did are left out.

    Attributes:
        codes: Of the contexts, in order, (num_contexts,).
        first: Where the followers of each begin and, last, where all end, (num_contexts + 1,).
        symbols: The followers, (num_followers,).
        counts: How often each came, float32 (num_followers,).
    """

    codes: Tensor
    first: Tensor
    symbols: Tensor
    counts: Tensor

    @classmethod
    def of(cls, codes: Tensor, symbols: Tensor, num_symbols: int) -> "Followers":
        """Counts the symbols (n,) that come after contexts of these codes (n,)."""
        codes, context = codes.unique(return_inverse=True)
        pairs, counts = (context * num_symbols + symbols).unique(return_counts=True)
        ends = torch.arange(len(codes) + 1, device=pairs.device) * num_symbols
        return cls(codes, torch.searchsorted(pairs, ends), pairs % num_symbols, counts.float())

    def counts_after(self, asked: Tensor, num_symbols: int) -> Tensor:
        """Counts (..., num_symbols) after contexts of the codes (...), zero after unknown ones."""
        place = torch.searchsorted(self.codes, asked).clamp(max=len(self.codes) - 1).flatten()
        num = torch.where(
            self.codes[place] == asked.flatten(), self.first[place + 1] - self.first[place], 0
        )
        row = torch.arange(len(num), device=num.device).repeat_interleave(num)
        of_row = torch.arange(len(row), device=num.device) - (num.cumsum(0) - num)[row]
        follower = self.first[place][row] + of_row
        counts = self.counts.new_zeros(len(num), num_symbols)
        counts[row, self.symbols[follower]] = self.counts[follower]
        return counts.view(*asked.shape, num_symbols)


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
        self._shortest = torch.empty(0)  # p_0, once it is asked for
        self._followers: list[Followers] = []

    @classmethod
    def known(cls, facts: EpisodeFacts, given: Mapping[str, Any]) -> dict[str, Any]:
        """The text that training episodes are windows of."""
        return facts.named("text")

    @classmethod
    def example(cls, d_x: int, d_y: int) -> dict[str, Any]:
        return {"text": [(i * i) % d_x for i in range(50)], "order": 3}

    def logits(self, symbols: Tensor) -> Tensor:
        if not len(self._shortest) or self._shortest.device != symbols.device:
            self._count(self.text)
        p = self._shortest.expand(*symbols.shape, -1).clone()
        for k, followers in enumerate(self._followers, start=1):
            asked = self._codes(symbols, k)  # (batch, length - k + 1)
            p[:, k - 1 :] = backed_off(followers.counts_after(asked, p.shape[-1]), p[:, k - 1 :])
        return p[..., : self.d_y].log().double()

    def last_logits(self, symbols: Tensor) -> Tensor:
        return self.logits(symbols[:, -self.order :])[:, -1]

    def state_size(self, num_context: int) -> int:
        return min(num_context, self.order - 1)

    def _codes(self, symbols: Tensor, k: int) -> Tensor:
        """The numbers of the k symbols that end at each place from k - 1 on, (..., length - k + 1).

        There are none in fewer than k symbols.
        """
        num_codes = max(symbols.shape[-1] - k + 1, 0)
        code = torch.zeros_like(symbols[..., :num_codes])
        for place in range(k):
            code = code * self.d_x + symbols[..., place : place + num_codes]
        return code

    def _count(self, text: Tensor) -> None:
        """Counts the text, contexts of no symbol first; in float32, as all that is made of it."""
        num_symbols = max(self.d_x, self.d_y)
        counts = torch.bincount(text, minlength=num_symbols).float()
        self._shortest = backed_off(counts, torch.full_like(counts, 1 / num_symbols))
        self._followers = [
            Followers.of(self._codes(text[:-1], k), text[k:], num_symbols)
            for k in range(1, min(self.order, len(text)))
        ]
