"""Places in a model where something may be known: residual streams and streaming states."""

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from zoo.analysis.hidden import hidden_states
from zoo.analysis.interventions import Site, at_layer, in_state
from zoo.models.sequence import SequenceModel
from zoo.models.transformer import Transformer
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


def places(model: Predictor) -> list[Place]:
    """The residual stream after each block, and the states that do not grow.

    A model without a residual stream has one state.
    """
    if not isinstance(model, SequenceModel):
        return [Place("state", 1)]
    layers = range(1, len(model.blocks) + 1)
    found = [Place("stream", layer) for layer in layers]
    if not isinstance(model, Transformer):
        found += [Place("state", layer) for layer in layers]
    return found


def site(model: Predictor, x: Tensor, y: Tensor, place: Place) -> Site:
    """A place in the computation of a model for x (batch, length, d_x) and y."""
    if place.kind == "stream":
        assert isinstance(model, SequenceModel)
        return at_layer(model, x, y, place.layer, "example")
    return in_state(model, x, y, _part(model, place.layer))


@torch.no_grad()
def features(model: Predictor, x: Tensor, y: Tensor) -> dict[Place, Tensor]:
    """What a model has at each place after all examples but the query, (batch, ...)."""
    found = {}
    stream = hidden_states(model, x, y).examples if isinstance(model, SequenceModel) else None
    for place in places(model):
        if place.kind == "stream":
            assert stream is not None
            found[place] = stream[place.layer, :, -1]
        else:
            found[place] = site(model, x, y, place).h
    return found


def num_seen(model: Predictor, place: Place, num_examples: int) -> int:
    """How many of the examples a place has seen whole.

    With `shifted` tokens a label comes with the next input, and the products of a GD-SSM do so too:
    the state is one example behind, and the query brings the last one.
    """
    behind = place.kind == "state" and model.token_layout != "pairs"
    return num_examples - behind


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


def _part(model: Predictor, layer: int) -> str:
    """The part of a state that holds weights, where there are windows of convolutions beside it."""
    if not isinstance(model, SequenceModel):
        return "Z"
    block: Any = model.blocks[layer - 1]
    state = block.init_state(1, torch.device("cpu"), torch.float32)
    return f"blocks.{layer - 1}.{len(state) - 1}"
