"""Which random numbers belong to which episodes."""

from __future__ import annotations

import hashlib
from typing import Literal

from datamodules.lazy import torch

Split = Literal["train", "val", "test", "tune"]
Component = Literal["weights", "inputs", "noise", "corruption"]

# Validation and test episodes never depend on the seed of a run.
EVAL_SEED = 0


class Generators:
    """The random generators of one batch: a pure function of (seed, split, step, component).

    Seeds are 63 bits of a blake2b hash. Torch's CPU generator keeps 32 of them, so a single
    component may repeat in a long run; weights and inputs are seeded apart, so that an episode
    repeats only if both do.

    Args:
        seed: Data seed, any integer.
        split: No two share a generator. Step sizes and penalties are fitted on "tune".
        step: Optimizer step of a training batch; 0 for the fixed sets.
        device: Where the episodes are drawn. The same key gives other numbers on another type of
            device.
    """

    def __init__(self, seed: int, split: Split, step: int, device: torch.device | str) -> None:
        self.key: tuple[int, Split, int] = (seed, split, step)
        self.device = device
        self._drawn: dict[Component, torch.Generator] = {}
        self._starts: dict[Component, torch.Tensor] = {}

    @property
    def split(self) -> Split:
        """What the episodes are for."""
        return self.key[1]

    def __call__(self, component: Component) -> torch.Generator:
        """A new generator for one component, at the start of its sequence in this batch."""
        generator = torch.Generator(self.device)
        if component in self._starts:
            generator.set_state(self._starts[component])
        else:
            generator.manual_seed(_hashed(*self.key, component))
        self._drawn[component] = generator
        return generator

    def go_on(self) -> None:
        """Ends a batch: every sequence goes on where it stands, for the next part of one set."""
        self._starts = {name: generator.get_state() for name, generator in self._drawn.items()}


def generators_of_test(number: int = 0) -> Generators:
    """Those of the test episodes, the same for every predictor, run and machine.

    Args:
        number: 0 for the set that cards are measured on, 1, 2, ... for further ones.
    """
    # Step 1 is that of the fresh queries of an imitation.
    return Generators(EVAL_SEED, "test", 0 if number == 0 else number + 1, "cpu")


def fixed_generator(name: str, seed: int) -> torch.Generator:
    """A CPU generator of what all episodes share, such as a rotation or a pool of weights.

    Args:
        name: Of what is drawn; different names share no numbers, even at the same seed.
        seed: Any integer.
    """
    return torch.Generator().manual_seed(_hashed(name, seed))


def _hashed(*key: str | int) -> int:
    digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1
