"""Algorithms that look something up in the context."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from zoo.registry import PredictorConfig, register_solver
from zoo.solvers.memory import MemorySolver, seen_mask
from zoo.solvers.solver import EpisodeFacts
from zoo.solvers.symbols import Symbols, SymbolSolver, sure


@register_solver("dictionary", PredictorConfig)
class Dictionary(MemorySolver):
    """The label of the example nearest to the query; of equally near ones the latest.

    A dictionary whose keys may be told anew: exact where the query is one of the inputs. Distances
    are euclidean; without examples the prediction is zero. Predictions have gradients with respect
    to labels alone.
    """

    def __init__(self, config: PredictorConfig) -> None:
        super().__init__(config.d_x, config.d_y)

    def answer(self, x: Tensor, y: Tensor, num_seen: Tensor, x_query: Tensor) -> Tensor:
        batch, num_prefixes, num_query, _ = x_query.shape
        num_context = x.shape[1]
        if num_context == 0:
            return y.new_zeros(batch, num_prefixes, num_query, self.d_y)
        # Not by inner products: an example at the query shall be at distance zero.
        distance = torch.cdist(
            x_query.detach().flatten(1, 2), x.detach(), compute_mode="donot_use_mm_for_euclid_dist"
        ).view(batch, num_prefixes, num_query, num_context)
        unseen = ~seen_mask(num_seen, num_context)
        distance = distance.masked_fill(unseen[:, None], torch.inf)
        latest = num_context - 1 - distance.flip(-1).argmin(-1)  # the first of equal ones, flipped
        episode = torch.arange(batch, device=x.device)[:, None, None]
        found = y[episode, latest]  # (batch, num_prefixes, num_query, d_y)
        return found * (num_seen > 0)[:, None, None]


@register_solver("symbol_lookup", PredictorConfig)
class SymbolLookup(SymbolSolver):
    """The symbol that came after the latest earlier occurrence of the query's own symbol.

    What an induction head computes (arXiv 2209.11895). Where the symbol is new, or what came after
    it is no class, every class is as likely.
    """

    def __init__(self, config: PredictorConfig) -> None:
        super().__init__(config.d_x, config.d_y)

    def logits(self, symbols: Tensor) -> Tensor:
        place = torch.arange(symbols.shape[1], device=symbols.device)
        earlier = place < place[:, None]
        same = (symbols[:, :, None] == symbols[:, None, :]) & earlier  # (batch, asked, earlier)
        latest = torch.where(same, place, -1).amax(-1)
        answer = symbols.gather(1, latest + 1)
        return sure(torch.where(latest >= 0, answer, -1), self.d_y)


class SymbolCopyConfig(PredictorConfig):
    """Arguments of `symbol_copy`, explained at `SymbolCopy`."""

    copied: Symbols
    asked: Symbols


@register_solver("symbol_copy", SymbolCopyConfig)
class SymbolCopy(SymbolSolver):
    """At the j-th symbol that asks, the j-th symbol that is to be copied, in their order.

    Symbols `copied` are kept, those `asked` ask for the next of them, all others are passed over.
    Elsewhere, and where fewer were kept, every class is as likely.
    """

    copied: Tensor
    asked: Tensor

    def __init__(self, config: SymbolCopyConfig) -> None:
        super().__init__(config.d_x, config.d_y)
        self.register_buffer("copied", torch.tensor(config.copied, dtype=torch.int64))
        self.register_buffer("asked", torch.tensor(config.asked, dtype=torch.int64))

    @classmethod
    def known(cls, facts: EpisodeFacts, given: Mapping[str, Any]) -> dict[str, Any]:
        """What the family says is copied, and what asks for it."""
        return facts.named("copied", "asked")

    @classmethod
    def example(cls, d_x: int, d_y: int) -> dict[str, Any]:
        return {"copied": [0], "asked": [1]}

    def logits(self, symbols: Tensor) -> Tensor:
        batch, length = symbols.shape
        kept, asking = torch.isin(symbols, self.copied), torch.isin(symbols, self.asked)
        num_kept, num_asked = kept.cumsum(1), asking.cumsum(1)
        # The j-th kept symbol at place j; place 0 takes those that are not kept.
        queue = symbols.new_full((batch, length + 1), -1)
        queue.scatter_(1, num_kept * kept, symbols)
        answer = queue.gather(1, num_asked)
        return sure(torch.where(asking & (num_asked <= num_kept), answer, -1), self.d_y)
