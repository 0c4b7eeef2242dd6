"""Which random numbers belong to which episodes."""

import hashlib
from typing import Literal

import torch

Split = Literal["train", "val", "test"]
Component = Literal["weights", "inputs", "noise", "corruption"]


class Generators:
    """The random generators of one batch: a pure function of (seed, split, step, component).

    Seeds are 63 bits of a blake2b hash. Torch's CPU generator keeps 32 of them, so a single
    component may repeat in a long run; weights and inputs are seeded apart, so that an episode
    repeats only if both do.

    Args:
        seed: Data seed, any integer.
        split: Train, validation and test never share a generator.
        step: Optimizer step of a training batch; 0 for the fixed sets.
        device: Where the episodes are drawn. The same key gives other numbers on another type of
            device.
    """

    def __init__(self, seed: int, split: Split, step: int, device: torch.device | str) -> None:
        self.key = (seed, split, step)
        self.device = device

    def __call__(self, component: Component) -> torch.Generator:
        """A new generator for one component, at the start of its sequence."""
        text = "/".join(map(str, (*self.key, component)))
        digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
        return torch.Generator(self.device).manual_seed(int.from_bytes(digest) >> 1)
