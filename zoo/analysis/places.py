"""Places in a model where something may be known: residual streams and streaming states."""

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from zoo.analysis.checks import check_finite
from zoo.analysis.hidden import hidden_states, state_parts
from zoo.analysis.interventions import Site, at_layer, in_state
from zoo.models.sequence import SequenceModel
from zoo.predictor import Predictor


class Place(NamedTuple):
    """Where in a model something is looked for.

    Attributes:
        kind: `stream`, the residual stream of the token by which the last example has been seen
            whole, or `state`, what is kept of the past.
        layer: Blocks before it, or the block whose state it is, from 1.
    """

    kind: Literal["stream", "state"]
    layer: int

    @property
    def label(self) -> str:
        """As tables have it."""
        return f"{self.kind} {self.layer}"

    @property
    def is_state(self) -> bool:
        """Whether it is a state, which may be an example behind."""
        return self.kind == "state"


def places(model: Predictor) -> list[Place]:
    """The residual stream after each block, and the states that do not grow.

    A model without a residual stream has one state. Attention, which keeps its examples, has none.

    Raises:
        ValueError: If it is no model.
    """
    streams = []
    if isinstance(model, SequenceModel):
        streams = [Place("stream", layer) for layer in range(1, len(model.blocks) + 1)]
    return [*streams, *_parts(model)]


def site(model: Predictor, x: Tensor, y: Tensor, place: Place) -> Site:
    """A place in the computation of a model for x (batch, length, d_x) and y.

    Raises:
        ValueError: If it is none of `places(model)`, it is no model, or a stream is asked for of
            episodes without an example.
    """
    known = places(model)
    if place not in known:
        has = ", ".join(other.label for other in known) or "no stream and no state of constant size"
        raise ValueError(f"{type(model).__name__} has {has}, got {place.label}")
    if isinstance(model, SequenceModel) and not place.is_state:
        return at_layer(model, x, y, place.layer, "example")
    return in_state(model, x, y, _parts(model)[place])


@torch.no_grad()
def features(model: Predictor, x: Tensor, y: Tensor) -> dict[Place, Tensor]:
    """What a model has at each place after all examples but the query, (batch, ...).

    Places are those of `num_seen`. Complex parts of a state are pairs of real numbers.

    Args:
        model: Any model.
        x: (batch, length, d_x), of at least one example and the query.
        y: (batch, length, d_y).

    Raises:
        ValueError: As `num_seen`.
    """
    seen, found = num_seen(model, x.shape[1] - 1), {}
    if isinstance(model, SequenceModel):
        stream = hidden_states(model, x, y).examples
        found = {place: stream[place.layer, :, -1] for place in places(model) if not place.is_state}
    states = _states(model, x, y)
    return found | {place: h for place, h in states.items() if place in seen}


@torch.no_grad()
def num_seen(model: Predictor, num_examples: int) -> dict[Place, int]:
    """How many of so many examples each place has seen whole: the last whose label changes it.

    With `shifted` tokens a label comes with the next input, and the products of a GD-SSM do so too:
    the state is one example behind, and the query brings the last one. The weights of test-time
    training change at the end of a mini-batch. What a state has seen is found by trying, on an
    episode of random numbers; one that has seen nothing yet is left out.

    Args:
        model: Any model.
        num_examples: At least one.

    Raises:
        ValueError: If there is no example, it is no model, or a state is not finite.
    """
    if num_examples < 1:
        raise ValueError(f"places need at least one example, got num_examples = {num_examples}")
    found = {place: num_examples for place in places(model) if not place.is_state}
    like = next(model.parameters())
    generator = torch.Generator().manual_seed(0)
    x, y = (
        torch.randn(1, num_examples + 1, width, generator=generator).to(like)
        for width in (model.d_x, model.d_y)
    )
    before = _states(model, x, y)
    for place, h in before.items():
        check_finite(**{place.label: h})
    for seen in range(num_examples, 0, -1):
        if found.keys() >= before.keys():
            break
        other = y.clone()
        other[:, seen - 1] += 1
        for place, h in _states(model, x, other).items():
            if place not in found and not torch.equal(h, before[place]):
                found[place] = seen
    return {place: found[place] for place in places(model) if place in found}


@torch.no_grad()
def weights(predictor: Predictor, x: Tensor, y: Tensor) -> Tensor:
    """What a solver that is linear in the query has learned of all given examples.

    Args:
        predictor: The solver.
        x: (batch, num_examples, d_x).
        y: (batch, num_examples, d_y).

    Returns:
        (batch, d_x, d_y).
    """
    state = predictor.observe(predictor.init_state(len(x), dtype=x.dtype, device=x.device), x, y)
    return predictor.predict(state, torch.eye(x.shape[2]).to(x).expand(len(x), -1, -1))


def _parts(model: Predictor) -> dict[Place, str]:
    """The parts of a state that hold weights and do not grow with the examples, by place.

    A model of one layer has them first. A block has them last among the parts with the most
    dimensions: windows of convolutions stand before them, biases behind them.
    """
    like = next(model.parameters(), None)
    if like is None:
        raise ValueError(f"only models have places, got {type(model).__name__}")
    start: Any = model.init_state(1, device=like.device, dtype=like.dtype)
    x, y = like.new_zeros(1, 1, model.d_x), like.new_zeros(1, 1, model.d_y)
    after = dict(state_parts("", model.observe(start, x, y)))
    of_layers: list[dict[str, Tensor]] = [dict(state_parts("", start))]
    if isinstance(model, SequenceModel):
        of_layers = [dict(state_parts(f"blocks.{i}", s)) for i, s in enumerate(start.blocks)]
    found = {}
    for layer, parts in enumerate(of_layers, start=1):
        most = max(part.ndim for part in parts.values())
        names = [name for name, part in parts.items() if part.ndim == most]
        name = names[-1] if isinstance(model, SequenceModel) else names[0]
        if after[name].shape == parts[name].shape:
            found[Place("state", layer)] = name
    return found


def _states(model: Predictor, x: Tensor, y: Tensor) -> dict[Place, Tensor]:
    """The states after all examples but the query."""
    names = _parts(model)
    if not names:
        return {}
    state = model.init_state(len(x), device=x.device, dtype=x.dtype)
    parts = dict(state_parts("", model.observe(state, x[:, :-1], y[:, :-1])))
    found = {place: parts[name] for place, name in names.items()}
    return {place: torch.view_as_real(h) if h.is_complex() else h for place, h in found.items()}
