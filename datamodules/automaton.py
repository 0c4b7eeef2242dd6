"""Strings of a random automaton, another one for each episode."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, PositiveInt, model_validator

from datamodules.family import Drawn, SymbolFamily, below, one_hot
from datamodules.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

    from datamodules.stream import Generators


class Automaton(SymbolFamily):
    """Strings of a probabilistic automaton; the target is the distribution of the next symbol.

    Each episode has an automaton of its own with min_states to max_states states, uniformly drawn.
    A state has 1 to max_edges edges, all of the same probability: with different symbols, uniformly
    drawn from the alphabet, and each to a uniformly drawn state. A string starts in state 0 and has
    1 to max_string symbols, uniformly drawn. A separator, the last symbol of the vocabulary, comes
    first and between strings; the last string goes on beyond the episode. A position is scored
    unless a separator follows, which nothing announces.

    Source: RegBench of Akyurek et al. 2024 (arXiv 2401.12973) as in its code, but with the whole
    alphabet for every automaton.

    Attributes:
        alphabet: Number of symbols but the separator.
        min_states: Least number of states.
        max_states: Largest number of states.
        max_edges: Largest number of edges of a state, at most the alphabet.
        max_string: Largest length of a string.
    """

    name: Literal["automaton"] = "automaton"
    alphabet: int = Field(default=18, ge=1, le=256)
    min_states: PositiveInt = 4
    max_states: int = Field(default=12, ge=1, le=256)
    max_edges: PositiveInt = 3
    max_string: PositiveInt = 50

    beside: ClassVar[tuple[str, ...]] = ("context_ngrams",)

    @model_validator(mode="after")
    def _bounds_fit(self) -> Automaton:
        for name, most, bound in [
            ("min_states", "max_states", self.max_states),
            ("max_edges", "alphabet", self.alphabet),
        ]:
            if getattr(self, name) > bound:
                raise ValueError(
                    f"{name} must be at most {most} = {bound}, got {getattr(self, name)}"
                )
        return self

    @property
    def classes(self) -> tuple[str, ...]:
        if self.alphabet <= 26:
            return tuple("abcdefghijklmnopqrstuvwxyz"[: self.alphabet])
        return tuple(f"s{number}" for number in range(self.alphabet))

    @property
    def symbols(self) -> tuple[str, ...]:
        return (*self.classes, "|")

    @property
    def least_length(self) -> int:
        return 3

    def tensors(self, d_x: int, d_y: int) -> dict[str, Tensor]:
        """The separator's number."""
        return {"separator": torch.tensor([self.alphabet])}

    def draw(self, batch: int, length: int, d_x: int, d_y: int, generators: Generators) -> Drawn:
        weights, inputs = generators("weights"), generators("inputs")
        device = inputs.device
        table = (batch, self.max_states)
        num_states = torch.randint(
            self.min_states, self.max_states + 1, (batch, 1, 1), generator=weights, device=device
        )
        num_edges = torch.randint(1, self.max_edges + 1, table, generator=weights, device=device)
        order = torch.rand(*table, self.alphabet, generator=weights, device=device)
        edge_symbol = order.topk(self.max_edges).indices  # (batch, max_states, max_edges)
        edge_state = below(num_states, (*table, self.max_edges), weights)

        is_separator = self._separators(batch, length, inputs)  # (batch, length + 1)
        u = torch.rand(batch, length, 1, generator=inputs, device=device)
        # The edge that would be taken at each position from each state.
        edge = (u * num_edges[:, None]).long()
        edge += self.max_edges * torch.arange(self.max_states, device=device)
        next_state = edge_state.flatten(1).gather(1, edge.flatten(1)).view_as(edge)
        next_state.masked_fill_(is_separator[:, :length, None], 0)
        state = _followed(next_state)  # (batch, length)
        before = torch.cat([torch.zeros_like(state[:, :1]), state[:, :-1]], dim=1)
        taken = edge.gather(2, before[..., None])[..., 0]
        symbol = edge_symbol.flatten(1).gather(1, taken)
        symbol.masked_fill_(is_separator[:, :length], self.alphabet)

        is_edge = torch.arange(self.max_edges, device=device) < num_edges[..., None]
        probability = torch.zeros(*table, self.alphabet, device=device)
        probability.scatter_(2, edge_symbol, is_edge / num_edges[..., None])
        row = state + self.max_states * torch.arange(batch, device=device)[:, None]
        target = probability.flatten(0, 1)[row]  # (batch, length, alphabet)
        latents = {
            "state": state,
            "entropy": num_edges.log().gather(1, state),
            "num_states": num_states.flatten(),
            "num_edges": num_edges,
            "edge_symbol": edge_symbol,
            "edge_state": edge_state,
        }
        return Drawn(one_hot(symbol, d_x), target, ~is_separator[:, 1:], latents)

    def _separators(self, batch: int, length: int, generator: torch.Generator) -> Tensor:
        """Where separators are, one position beyond the episode included."""
        device = generator.device
        num_strings = (length + 1) // 2
        lengths = torch.randint(
            1, self.max_string + 1, (batch, num_strings), generator=generator, device=device
        )
        places = torch.cat([lengths.new_zeros(batch, 1), (lengths + 1).cumsum(1)], dim=1)
        # Whatever comes later falls on a place that is cut off.
        found = torch.zeros(batch, length + 2, dtype=torch.bool, device=device)
        found.scatter_(1, places.clamp(max=length + 1), True)
        found[:, length - 1 : length + 1] = False  # the last string goes on
        return found[:, : length + 1]


def _followed(next_state: Tensor) -> Tensor:
    """The states (batch, length) through which maps (batch, length, num_states) lead from 0."""
    state = next_state.new_zeros(len(next_state), 1)
    states = []
    for step in next_state.unbind(1):
        state = step.gather(1, state)
        states.append(state)
    return torch.cat(states, dim=1)
