"""What a model computes on its way: the residual stream by layer, and streaming states."""

import copy
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from zoo.layers.block import BlockState, SequenceBlock
from zoo.models.sequence import SequenceModel
from zoo.predictor import Predictor

P = TypeVar("P", bound=nn.Module)


class HiddenStates(NamedTuple):
    """The residual stream of a `SequenceModel`: embedded, and after each of its L blocks.

    Attributes:
        queries: (L + 1, batch, length, d_model). Position i is the token that shows x_i without its
            label, after i examples. The prediction is `readout(norm(u))` of the last layer.
        examples: (L + 1, batch, length - 1, d_model). Position i is the first token by which
            example i has been seen whole: with `interleaved` tokens its label, with `pairs` the
            pair, with `shifted` query i + 1. With `inputs`, which show no label, it is query i.
    """

    queries: Tensor
    examples: Tensor


def hidden_states(model: SequenceModel, x: Tensor, y: Tensor) -> HiddenStates:
    """What `model(x, y)` computes at every layer and position; gradients pass through it.

    Args:
        model: Any deep sequence model; it stays as it is.
        x: Inputs, (batch, length, d_x).
        y: Labels, (batch, length, d_y). The last one is never read.

    Raises:
        ValueError: If the model has no residual stream, or does not take x and y.
    """
    if not isinstance(model, SequenceModel):
        raise ValueError(
            f"hidden states are those of a SequenceModel, got {type(model).__name__}; "
            "streaming_states takes predictors whose state does not grow with the examples"
        )
    taps = [_Tap() for _ in range(len(model.blocks) + 1)]
    blocks: list[nn.Module] = [taps[0]]
    for block, tap in zip(model.blocks, taps[1:], strict=True):
        blocks += [block, tap]
    tapped = apart(model)
    tapped.blocks = nn.ModuleList(blocks)
    tapped(x, y)
    num_examples = x.shape[1] - 1
    streams = torch.stack([tap.stream for tap in taps])
    if model.token_layout == "interleaved":
        return HiddenStates(streams[:, :, ::2], streams[:, :, 1::2])
    if model.token_layout == "pairs":
        return HiddenStates(streams, torch.stack([tap.pairs for tap in taps]))
    first = 1 if model.token_layout == "shifted" else 0
    return HiddenStates(streams, streams[:, :, first : first + num_examples])


@torch.no_grad()
def streaming_states(predictor: Predictor, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """The parts of a streaming state by name, each (batch, length, ...).

    Position i is the state after i examples, which `forward` has for its prediction i. The state of
    a solver is what it knows: of `ridge` the moments A and B, of `kalman_filter` W and a root of
    the covariance. A GD-SSM forms the products of an example once the next input is there: after i
    examples its Z holds i - 1 of them.

    Args:
        predictor: A model or a solver whose state has the same size after any number of examples.
        x: Inputs, (batch, length, d_x).
        y: Labels, (batch, length, d_y). The last one is never read.

    Raises:
        ValueError: If the state grows with the examples.
    """
    predictor.check_pairs(x, y)
    state = predictor.init_state(len(x), device=x.device, dtype=x.dtype)
    seen = [dict(state_parts("", state))]
    for i in range(max(1, x.shape[1] - 1)):  # one at least, to see whether the state grows
        state = predictor.observe(state, x[:, i : i + 1], y[:, i : i + 1])
        seen.append(dict(state_parts("", state)))
    for name, part in seen[-1].items():
        if part.shape != seen[0][name].shape:
            raise ValueError(
                f"the state of {type(predictor).__name__} grows with the examples: {name} was "
                f"{tuple(seen[0][name].shape)} and is {tuple(part.shape)}"
            )
    seen = seen[: x.shape[1]]
    return {name: torch.stack([parts[name] for parts in seen], dim=1) for name in seen[0]}


def apart(module: P) -> P:
    """A copy that shares all weights, and whose parts can be replaced without a trace."""
    twin = copy.copy(module)
    for kind in ("_modules", "_parameters"):
        twin.__dict__[kind] = dict(module.__dict__[kind])
    if isinstance(twin, Predictor):
        # What the original has warned of, and the form of its state, are not those of the copy.
        twin.card, twin._warned, twin._state_form = None, set(), None
    return twin


class Passage(SequenceBlock):
    """A block that does nothing and remembers nothing."""

    def forward(self, u: Tensor, state: BlockState) -> tuple[Tensor, BlockState]:
        return u, state

    def ask(self, pairs: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
        return pairs, queries

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> BlockState:
        return (torch.zeros(batch_size, 0, device=device, dtype=dtype),)

    def state_size(self, num_tokens: int) -> int:
        return 0


class _Tap(Passage):
    """Keeps what passes."""

    stream: Tensor
    pairs: Tensor

    def forward(self, u: Tensor, state: BlockState) -> tuple[Tensor, BlockState]:
        self.stream = u
        return u, state

    def ask(self, pairs: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
        self.pairs, self.stream = pairs, queries
        return pairs, queries


def state_parts(name: str, state: Any) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a state that have a row for each episode, with the path to each.

    Args:
        name: The path to the state itself, `""` for a whole one.
        state: Of a predictor, or a part of it.
    """
    if isinstance(state, tuple):
        fields = getattr(state, "_fields", range(len(state)))
        for field, part in zip(fields, state, strict=True):
            yield from state_parts(f"{name}.{field}" if name else str(field), part)
    elif isinstance(state, Tensor) and state.ndim > 0:
        yield name, state
