"""Sequences of symbols that ask what was read before: copying and recall."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from datamodules.family import Drawn, SymbolFamily, one_hot
from datamodules.lazy import torch
from datamodules.spec import Probability

if TYPE_CHECKING:
    from torch import Tensor

    from datamodules.stream import Generators

# Symbols are one-hot, and each is named.
MOST_SYMBOLS = 4096


class SelectiveCopy(SymbolFamily):
    """Symbols among blanks have to be copied in their order.

    The last num_copied positions show a marker and ask for the symbols in turn, the first marker
    for the first symbol. The symbols, uniformly drawn with repetition, stand at a random subset of
    the positions before; all others are blank. The vocabulary is the symbols, then the blank, then
    the marker.

    Source: Gu and Dao 2023 (arXiv 2312.00752) as in their code, and MAD of Poli et al. 2024 (arXiv
    2403.17844), where the positions that ask are blank and one marker comes before them.

    Attributes:
        vocabulary: Number of symbols that are copied.
        num_copied: How many are copied in an episode.
    """

    name: Literal["selective_copy"] = "selective_copy"
    vocabulary: int = Field(default=16, ge=2, le=MOST_SYMBOLS)
    num_copied: int = Field(default=16, ge=1, le=MOST_SYMBOLS)

    beside: ClassVar[tuple[str, ...]] = ("symbol_copy",)

    @property
    def classes(self) -> tuple[str, ...]:
        return _numbered("", self.vocabulary)

    @property
    def symbols(self) -> tuple[str, ...]:
        return (*self.classes, ".", "?")

    @property
    def least_length(self) -> int:
        return 2 * self.num_copied

    def tensors(self, d_x: int, d_y: int) -> dict[str, Tensor]:
        """Numbers of the symbols that are copied, and of the marker that asks for them."""
        return {"copied": torch.arange(d_y), "asked": torch.tensor([d_y + 1])}

    def draw(self, batch: int, length: int, d_x: int, d_y: int, generators: Generators) -> Drawn:
        inputs = generators("inputs")
        device, num_before = inputs.device, length - self.num_copied
        order = torch.rand(batch, num_before, generator=inputs, device=device)
        place = order.topk(self.num_copied).indices.sort(1).values  # (batch, num_copied)
        copied = torch.randint(d_y, place.shape, generator=inputs, device=device)
        symbol = torch.full((batch, length), d_y, device=device).scatter_(1, place, copied)
        symbol[:, num_before:] = d_y + 1
        target = torch.zeros(batch, length, d_y, device=device)
        target[:, num_before:] = one_hot(copied, d_y)
        scored = (torch.arange(length, device=device) >= num_before).repeat(batch, 1)
        return Drawn(one_hot(symbol, d_x), target, scored, {"copied": copied, "place": place})


class NoisyRecall(SymbolFamily):
    """Keys are followed by their values, with noise in between; a key seen before asks for its own.

    Each episode assigns a value to every key, uniformly drawn. It consists of blocks of two
    positions and ends with one more key. A block is a key, uniformly drawn, and its value; or, with
    probability noise_share, two symbols of noise, but for one block, uniformly drawn, that never
    is. The last key is uniformly drawn from those that came before. An even length begins with a
    symbol of noise more. Every position of a key that came before is scored. The vocabulary is the
    values, then as many keys, then noise.

    Source: noisy in-context recall of MAD, Poli et al. 2024 (arXiv 2403.17844), of several queries.

    Attributes:
        num_keys: Number of keys, and of values.
        num_noise: Number of symbols that are noise.
        noise_share: Probability of a block to be noise.
    """

    name: Literal["noisy_recall"] = "noisy_recall"
    num_keys: int = Field(default=8, ge=2, le=MOST_SYMBOLS)
    num_noise: int = Field(default=16, ge=1, le=MOST_SYMBOLS)
    noise_share: Probability = 0.2

    beside: ClassVar[tuple[str, ...]] = ("symbol_lookup",)

    @property
    def classes(self) -> tuple[str, ...]:
        return _numbered("v", self.num_keys)

    @property
    def symbols(self) -> tuple[str, ...]:
        return (*self.classes, *_numbered("k", self.num_keys), *_numbered("n", self.num_noise))

    @property
    def least_length(self) -> int:
        return 3

    def tensors(self, d_x: int, d_y: int) -> dict[str, Tensor]:
        """Numbers of the keys and of the symbols of noise."""
        return {"keys": torch.arange(d_y, 2 * d_y), "noise": torch.arange(2 * d_y, d_x)}

    def draw(self, batch: int, length: int, d_x: int, d_y: int, generators: Generators) -> Drawn:
        inputs, weights = generators("inputs"), generators("weights")
        device, num_blocks = inputs.device, (length - 1) // 2
        value_of = torch.randint(d_y, (batch, d_y), generator=weights, device=device)
        blocks = (batch, num_blocks)
        key = torch.randint(d_y, blocks, generator=inputs, device=device)
        is_noise = torch.rand(blocks, generator=inputs, device=device) < self.noise_share
        certain = torch.randint(num_blocks, (batch, 1), generator=inputs, device=device)
        is_noise.scatter_(1, certain, False)

        seen = (one_hot(key, d_y) * ~is_noise[..., None]).cumsum(1)  # (batch, num_blocks, d_y)
        before = torch.cat([torch.zeros_like(seen[:, :1]), seen[:, :-1]], dim=1)
        known = (before.gather(2, key[..., None])[..., 0] > 0) & ~is_noise
        draw = torch.rand(batch, d_y, generator=inputs, device=device)
        last = torch.where(seen[:, -1] > 0, draw, -1.0).argmax(1, keepdim=True)  # (batch, 1)

        noise = torch.randint(2 * d_y, d_x, (batch, length), generator=inputs, device=device)
        start = length - 1 - 2 * num_blocks
        pair = torch.stack([key + d_y, value_of.gather(1, key)], dim=2)
        shown = torch.where(
            is_noise[..., None], noise[:, start:-1].unflatten(1, (num_blocks, 2)), pair
        )
        symbol = torch.cat([noise[:, :start], shown.flatten(1), last + d_y], dim=1)
        scored = torch.zeros(batch, length, dtype=torch.bool, device=device)
        scored[:, start:-1:2] = known
        scored[:, -1] = True
        asked = (symbol - d_y).clamp(0, d_y - 1)  # the key, where there is one
        target = one_hot(value_of.gather(1, asked), d_y) * scored[..., None]
        return Drawn(one_hot(symbol, d_x), target, scored, {"value_of": value_of})


class Induction(SymbolFamily):
    """What followed a trigger is asked for when the trigger comes again, at the end.

    The trigger, the last symbol of the vocabulary, stands once at a position that is uniformly
    drawn but for the last two, and at the last. All other symbols are uniformly drawn. Only the
    last position is scored.

    Source: induction heads of Gu and Dao 2023 (arXiv 2312.00752).

    Attributes:
        vocabulary: Number of symbols but the trigger.
    """

    name: Literal["induction"] = "induction"
    vocabulary: int = Field(default=16, ge=2, le=MOST_SYMBOLS)

    beside: ClassVar[tuple[str, ...]] = ("symbol_lookup",)

    @property
    def classes(self) -> tuple[str, ...]:
        return _numbered("", self.vocabulary)

    @property
    def symbols(self) -> tuple[str, ...]:
        return (*self.classes, "!")

    @property
    def least_length(self) -> int:
        return 3

    def tensors(self, d_x: int, d_y: int) -> dict[str, Tensor]:
        """The trigger's number."""
        return {"trigger": torch.tensor([d_y])}

    def draw(self, batch: int, length: int, d_x: int, d_y: int, generators: Generators) -> Drawn:
        inputs = generators("inputs")
        device = inputs.device
        symbol = torch.randint(d_y, (batch, length), generator=inputs, device=device)
        place = torch.randint(length - 2, (batch, 1), generator=inputs, device=device)
        symbol.scatter_(1, place, d_y)
        symbol[:, -1] = d_y
        target = torch.zeros(batch, length, d_y, device=device)
        target[:, -1] = one_hot(symbol.gather(1, place + 1)[:, 0], d_y)
        scored = (torch.arange(length, device=device) == length - 1).repeat(batch, 1)
        return Drawn(one_hot(symbol, d_x), target, scored, {"place": place[:, 0]})


def _numbered(letter: str, count: int) -> tuple[str, ...]:
    return tuple(f"{letter}{number}" for number in range(count))
