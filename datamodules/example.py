"""One episode of a family of sequences, to be read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from datamodules.episodes import EpisodeSpec
from datamodules.family import SequenceFamily
from datamodules.stream import Generators

WIDTH = 100


def example(spec: EpisodeSpec | Mapping[str, Any], seed: int = 0) -> str:
    """A training episode of a seed as text: inputs, labels that are shown, what is asked.

    Args:
        spec: Of a family of sequences.
        seed: Data seed.

    Raises:
        ValueError: If the family is one of functions, whose inputs have no names.
    """
    spec = spec if isinstance(spec, EpisodeSpec) else EpisodeSpec(**spec)
    if not isinstance(spec.function, SequenceFamily):
        raise ValueError(f"inputs of function {spec.function.name} have no names to show")
    spec.function.prepare()
    generators = Generators(seed, "train", 0, "cpu")
    drawn = spec.function.draw(1, spec.num_context + 1, spec.d_x, spec.d_y, generators)
    inputs, targets = spec.function.named(drawn)
    scored = [True] * len(inputs) if drawn.scored is None else drawn.scored[0].tolist()
    rows = {"x": inputs}
    if not spec.labels_hidden:
        rows["y"] = [*targets[:-1], ""]  # nobody reads the last
    rows["asked"] = [target if at else "" for target, at in zip(targets, scored, strict=True)]
    return "\n\n".join(_lines(rows))


def _lines(rows: Mapping[str, list[str]]) -> list[str]:
    """The rows below each other, in as many pieces as the width asks for."""
    margin = max(map(len, rows)) + 1
    pieces: list[list[str]] = []
    column = WIDTH
    for entries in zip(*rows.values(), strict=True):
        width = max(map(len, entries)) + 1
        if column + width > WIDTH:
            pieces.append([f"{name:{margin}}" for name in rows])
            column = margin
        pieces[-1] = [
            line + f"{entry:{width}}" for line, entry in zip(pieces[-1], entries, strict=True)
        ]
        column += width
    return ["\n".join(line.rstrip() for line in piece) for piece in pieces]
