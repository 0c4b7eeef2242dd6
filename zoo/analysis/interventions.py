"""Writes weights into what a model computes, and measures what becomes of its prediction."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from zoo.analysis.checks import check_finite, check_shape
from zoo.analysis.hidden import Passage, apart, state_parts
from zoo.analysis.probes import LinearProbe, rows
from zoo.layers.block import BlockState
from zoo.metrics.errors import Z_95, Interval
from zoo.models.gd_ssm import GDSSM
from zoo.models.online_learner import OnlineLearner
from zoo.models.sequence import SequenceModel
from zoo.predictor import Predictor

# Of the largest standard deviation of what a probe reads: what it reads less is not written.
LEAST_READ = 1e-3


@dataclass(frozen=True)
class Site:
    """A place in the computation of a model, and the rest of it as a function.

    Attributes:
        h: What the model has there after the examples of each episode, (batch, ...). Complex parts
            of a state are pairs of real numbers.
        answer: From any h of that shape to the predictions at the query, (batch, d_y). Another
            shape is a ValueError.
    """

    h: Tensor
    answer: Callable[[Tensor], Tensor]


class Effect(NamedTuple):
    """How predictions follow weights that are written: 1 all the way, 0 not at all (`followed`).

    Attributes:
        written: Where the weights are written that the predictions should follow.
        control: Where other weights are written, in the same way.
    """

    written: Interval
    control: Interval


@torch.no_grad()
def at_layer(
    model: SequenceModel,
    x: Tensor,
    y: Tensor,
    layer: int,
    token: Literal["query", "example"] = "query",
) -> Site:
    """The residual stream of one token, (batch, d_model), as `hidden_states` has it.

    Args:
        model: Any deep sequence model; it stays as it is.
        x: (batch, length, d_x); the last position is the query.
        y: (batch, length, d_y).
        layer: Number of blocks before the place; 0 is the embedding.
        token: `"query"`, or `"example"`: the first token by which the last example has been seen
            whole. With `shifted` tokens both are the same.

    Raises:
        ValueError: If the model has no residual stream, no such layer, or the token is unknown or
            not there.
    """
    if not isinstance(model, SequenceModel):
        raise ValueError(
            f"a layer is that of a SequenceModel, got {type(model).__name__}; in_state takes parts "
            "of its state"
        )
    if type(layer) is not int or not 0 <= layer <= len(model.blocks):
        raise ValueError(
            f"layer must be a whole number from 0 to {len(model.blocks)}, got {layer!r}"
        )
    if token not in ("query", "example"):
        raise ValueError(f"token must be 'query' or 'example', got {token!r}")
    if token == "example" and x.shape[1] < 2:
        raise ValueError("token 'example' needs episodes of at least one example, got none")
    own = token == "query" or model.token_layout == "shifted"
    writer, cut = _Writer(-1 if own else -2), apart(model)
    cut.blocks = nn.ModuleList([*model.blocks[:layer], writer, *model.blocks[layer:]])

    cut.predict_query(x, y)
    seen = writer.seen

    def answer(h: Tensor) -> Tensor:
        check_shape("h", h, tuple(seen.shape), "Site.h")
        writer.written = h
        return cut.predict_query(x, y)

    return Site(seen, answer)


@torch.no_grad()
def in_state(predictor: Predictor, x: Tensor, y: Tensor, part: str) -> Site:
    """A part of the streaming state after all examples, which the query is answered from.

    Args:
        predictor: Any model or solver.
        x: (batch, length, d_x); the last position is the query.
        y: (batch, length, d_y).
        part: Its name, as at `streaming_states`.

    Raises:
        ValueError: If the state has no such part.
    """
    state = predictor.init_state(len(x), device=x.device, dtype=x.dtype)
    state = predictor.observe(state, x[:, :-1], y[:, :-1])
    parts = dict(state_parts("", state))
    if part not in parts:
        raise ValueError(
            f"the state of {type(predictor).__name__} has {', '.join(parts)}, got {part!r}"
        )
    found = parts[part]
    seen = torch.view_as_real(found) if found.is_complex() else found

    def answer(h: Tensor) -> Tensor:
        check_shape("h", h, tuple(seen.shape), "Site.h")
        value = torch.view_as_complex(h) if found.is_complex() else h
        return predictor.predict(_replaced(state, part.split("."), value), x[:, -1:])[:, 0]

    return Site(seen, answer)


def probe_change(found: LinearProbe, features: Tensor, h: Tensor, W: Tensor) -> Tensor:
    """The most usual change of h by which a probe reads W.

        (W - probe(h)) (P^T Sigma P)^+ P^T Sigma

    with the weights P of the probe and the covariance Sigma of features: of all changes by which
    the probe reads W it is the smallest in the metric Sigma^+, in which all directions of the
    features vary alike. It does not depend on how features are scaled or mixed, and what hangs
    together with what is read changes with it. Directions in which the readings of the probe have
    less than a thousandth of the largest standard deviation stay as they are.

    Args:
        found: Of `fit_probe`.
        features: Those it was fitted to, (num, ...).
        h: Of other episodes, (batch, ...).
        W: Targets to write, (batch, ...), of the size that the probe was fitted to.

    Returns:
        Of the shape and type of h, complex numbers as pairs of real ones.

    Raises:
        ValueError: If features, h or W have other sizes than the probe, h and W are of other
            numbers of episodes, or a number is not finite.
    """
    if h.is_complex():
        h = torch.view_as_real(h.resolve_conj())
    sizes = rows(h).shape[1], rows(W).shape[1]
    if sizes != found.weight.shape or rows(features).shape[1] != sizes[0]:
        raise ValueError(
            f"the probe reads {found.weight.shape[1]} numbers from {found.weight.shape[0]} "
            f"features, got {sizes[1]} and {sizes[0]}, fitted to {rows(features).shape[1]}"
        )
    if len(h) != len(W):
        raise ValueError(f"h and W must be of the same episodes, got {len(h)} and {len(W)} of them")
    check_finite(features=features, h=h, W=W)
    centred = rows(features) - found.feature_mean
    reads = centred @ found.weight
    inverse = torch.linalg.pinv(reads.mT @ reads, rtol=LEAST_READ**2, hermitian=True)
    change: Tensor = (rows(W) - found(h)) @ inverse @ (reads.mT @ centred)
    return change.view(h.shape).to(h)


@torch.no_grad()
def exact_change(model: Predictor, x: Tensor, y: Tensor, W: Tensor) -> Tensor:
    """The smallest change of a state by which its model answers q with q W, without a probe.

    The state is `S` of an `online_learner`, `Z` of a `gd_ssm`, of which only Z_B is changed: the
    answers are affine in them. How, is found by trying every coordinate with the unit vectors as
    queries. Other queries are answered with q W too if the model is linear in the query, as
    constructed ones are (`read_out`).

    Args:
        model: One layer whose state holds weights.
        x: (batch, length, d_x), of at least one example and the query.
        y: (batch, length, d_y).
        W: Weights to write, (batch, d_x, d_y).

    Returns:
        A change of `in_state(model, x, y, "S").h`, or that of `"Z"`.

    Raises:
        ValueError: If it is another model, shapes do not fit, W is not finite, or no state answers
            with W.
    """
    if not isinstance(model, OnlineLearner | GDSSM):
        raise ValueError(
            f"weights are in the state of an online_learner or a gd_ssm, got {type(model).__name__}"
        )
    if W.shape != (len(x), model.d_x, model.d_y) or x.shape[1] < 2:
        raise ValueError(
            f"W must be ({len(x)}, {model.d_x}, {model.d_y}), of episodes of at least one example, "
            f"got {tuple(W.shape)} of {x.shape[1] - 1} examples"
        )
    check_finite(W=W)
    part = "S" if isinstance(model, OnlineLearner) else "Z"
    state: Any = model.init_state(len(x), device=x.device, dtype=x.dtype)
    state = model.observe(state, x[:, :-1], y[:, :-1])
    h: Tensor = getattr(state, part)  # (batch, 1 or number of recurrences, ., .)
    units = torch.eye(model.d_x).to(x).expand(len(x), -1, -1)

    def weights(h: Tensor) -> Tensor:
        return rows(model.predict(_replaced(state, [part], h), units))

    before, reads = weights(h), []
    for place in range(h[0, 0].numel()):
        tried = h.clone()
        tried[:, 0].view(len(h), -1)[:, place] += 1
        reads.append(weights(tried) - before)
    inverse = torch.linalg.pinv(torch.stack(reads, dim=1))  # (batch, d_x d_y, numbers in h[0, 0])
    change = torch.zeros_like(h)
    change[:, 0] = torch.einsum("bt,btf->bf", rows(W) - before, inverse).view(h[:, 0].shape)
    missed = (weights(h + change) - rows(W)).abs().max().item()
    if not missed <= torch.finfo(h.dtype).eps ** 0.5 * (1 + W.abs().max().item()):
        raise ValueError(
            f"no state of this {type(model).__name__} answers with these weights: the nearest ones "
            f"differ by {missed:.2g}"
        )
    return change


@torch.no_grad()
def effect(site: Site, change: Tensor, control: Tensor, wanted: Tensor) -> Effect:
    """Writes a change and then a control into a place, and says how predictions follow.

    Args:
        site: Where to write.
        change: What is added to h, (batch, ...).
        control: The same of other weights than the wanted predictions are those of.
        wanted: Predictions at the query of the algorithm whose weights are written, (batch, d_y).

    Raises:
        ValueError: If a change is not of the shape of h, and as `followed`.
    """
    check_shape("change", change, tuple(site.h.shape), "Site.h")
    check_shape("control", control, tuple(site.h.shape), "Site.h")
    before = site.answer(site.h)
    return Effect(*(followed(before, site.answer(site.h + c), wanted) for c in (change, control)))


def followed(before: Tensor, after: Tensor, wanted: Tensor) -> Interval:
    """b of the least squares fit p' = a p + b g, with its 95 % interval over episodes.

    A prediction p that becomes the wanted one g has 1, one that stays has 0. One that becomes zero,
    or something that has nothing to do with g, has 0 as well. Sums are over episodes and
    coordinates; episodes are independent, coordinates of one are not.

    Args:
        before: Predictions p, (batch, d_y).
        after: Those of the changed model, p'.
        wanted: Those of the algorithm, g.

    Raises:
        ValueError: If shapes differ, there are fewer than two episodes, a number is not finite, or
            the wanted predictions are a multiple of those before.
    """
    if not before.shape == after.shape == wanted.shape:
        raise ValueError(
            "predictions must have one shape, got "
            f"{tuple(before.shape)}, {tuple(after.shape)} and {tuple(wanted.shape)}"
        )
    if len(before) < 2:
        raise ValueError(f"an effect needs at least 2 episodes, got {len(before)}")
    check_finite(predictions_before=before, predictions_after=after, wanted=wanted)
    p, changed, g = rows(before), rows(after), rows(wanted)
    # What is new in g, and is not in p.
    new = g - ((p * g).sum() / p.square().sum() * p if p.any() else 0)
    size = new.square().sum()
    if not size > torch.finfo(before.dtype).eps * g.square().sum():
        raise ValueError(
            "the wanted predictions are those of the model, up to a factor: there is nothing to "
            "follow"
        )
    b = (new * changed).sum() / size
    left = changed - b * g
    left = left - ((p * left).sum() / p.square().sum() * p if p.any() else 0)
    ci95 = Z_95 * (new * left).sum(1).square().sum().sqrt() / size
    return Interval(b.item(), ci95.item())


class _Writer(Passage):
    """Keeps what passes at one place of the sequence, or puts something else there."""

    seen: Tensor

    def __init__(self, place: int) -> None:
        super().__init__()
        self.place = place
        self.written: Tensor | None = None

    def forward(self, u: Tensor, state: BlockState) -> tuple[Tensor, BlockState]:
        self.seen = u[:, self.place]
        if self.written is not None:
            u = u.clone()
            u[:, self.place] = self.written
        return u, state


def _replaced(state: Any, path: list[str], value: Tensor) -> Any:
    """A state with another part at a path of `state_parts`."""
    if not path:
        return value
    fields = getattr(state, "_fields", None)
    place = int(path[0]) if fields is None else fields.index(path[0])
    parts = list(state)
    parts[place] = _replaced(parts[place], path[1:], value)
    return tuple(parts) if fields is None else type(state)._make(parts)
