"""Associative recall: values are looked up by their keys."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import NonNegativeInt, PositiveInt, model_validator

from datamodules.family import Drawn, SequenceFamily
from datamodules.lazy import torch
from datamodules.stream import fixed_generator

if TYPE_CHECKING:
    from torch import Tensor

    from datamodules.stream import Generators


class Recall(SequenceFamily):
    """The value that a key had last: num_keys pairs, then updates, then queries.

    The keys are uniform on the unit sphere of R^d_x, new ones for each episode. The values are
    drawn with repetition from a code book of num_values vectors, which are uniform on the unit
    sphere of R^d_y and drawn once. First comes every key with its value. Then come num_updates
    different keys in random order, with values drawn anew. Then num_queries different keys are
    asked for; the labels of earlier queries are shown. Only queries are scored, and num_context is
    num_keys + num_updates + num_queries - 1.

    Source: MQAR of zoology (arXiv 2312.04927), whose keys and values are symbols.

    Attributes:
        num_keys: Keys in an episode.
        num_updates: Keys that get another value, at most num_keys.
        num_queries: Keys that are asked for, at most num_keys.
        num_values: Vectors in the code book.
        code_seed: Of the code book; training, validation and test have the same one.
    """

    name: Literal["recall"] = "recall"
    num_keys: PositiveInt = 16
    num_updates: NonNegativeInt = 8
    num_queries: PositiveInt = 1
    num_values: PositiveInt = 64
    code_seed: int = 0

    beside: ClassVar[tuple[str, ...]] = ("dictionary", "online_gradient_descent")
    takes: ClassVar[frozenset[str]] = frozenset({"noise"})

    @model_validator(mode="after")
    def _keys_suffice(self) -> Recall:
        for name in ("num_updates", "num_queries"):
            if getattr(self, name) > self.num_keys:
                raise ValueError(
                    f"{name} must be at most num_keys = {self.num_keys}, got {getattr(self, name)}"
                )
        return self

    @property
    def first_query(self) -> int:
        """The first position that is scored."""
        return self.num_keys + self.num_updates

    @property
    def settles(self) -> dict[str, int]:
        return {"num_context": self.first_query + self.num_queries - 1}

    @property
    def least_length(self) -> int:
        return self.first_query + self.num_queries

    @property
    def most_length(self) -> int:
        return self.least_length

    def label_variance(self, d_x: int, d_y: int, input_variance: float) -> float:
        return 1 / d_y

    def tensors(self, d_x: int, d_y: int) -> dict[str, Tensor]:
        return {"code_book": self.code_book(d_y)}

    def code_book(self, d_y: int) -> Tensor:
        """The values, float32 (num_values, d_y) on the CPU."""
        return _code_book(self.num_values, self.code_seed, d_y)

    def draw(self, batch: int, length: int, d_x: int, d_y: int, generators: Generators) -> Drawn:
        inputs, weights = generators("inputs"), generators("weights")
        device = weights.device
        keys = _on_sphere(torch.randn(batch, self.num_keys, d_x, generator=inputs, device=device))

        def several_keys(count: int) -> Tensor:
            order = torch.rand(batch, self.num_keys, generator=weights, device=device).argsort(1)
            return order[:, :count]

        in_order = torch.arange(self.num_keys, device=device).expand(batch, -1)
        key = torch.cat(
            [in_order, several_keys(self.num_updates), several_keys(self.num_queries)], dim=1
        )  # (batch, length)
        shown = (batch, self.first_query)
        value = torch.randint(self.num_values, shown, generator=weights, device=device)
        latest = value[:, : self.num_keys].scatter(
            1, key[:, self.num_keys : self.first_query], value[:, self.num_keys :]
        )  # (batch, num_keys)
        value = torch.cat([value, latest.gather(1, key[:, self.first_query :])], dim=1)
        x = keys.gather(1, key[..., None].expand(-1, -1, d_x))
        target = self.code_book(d_y).to(device)[value]
        scored = torch.arange(length, device=device) >= self.first_query
        latents = {"keys": keys, "key": key, "value": value}
        return Drawn(x, target, scored.repeat(batch, 1), latents)

    def named(self, drawn: Drawn) -> tuple[list[str], list[str]]:
        key, value = (drawn.latents[name][0].tolist() for name in ("key", "value"))
        return [f"k{number}" for number in key], [f"v{number}" for number in value]


@lru_cache(maxsize=4)
def _code_book(num_values: int, code_seed: int, d_y: int) -> Tensor:
    generator = fixed_generator("code book", code_seed)
    return _on_sphere(torch.randn(num_values, d_y, generator=generator))


def _on_sphere(z: Tensor) -> Tensor:
    unit: Tensor = z / torch.linalg.vector_norm(z, dim=-1, keepdim=True)
    return unit
