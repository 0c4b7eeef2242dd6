"""The error of a model without one of its layers, heads, places of a window, decays or gates."""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from zoo.analysis.checks import check_finite, check_shape
from zoo.analysis.hidden import Passage, apart
from zoo.layers.attention import TransformerBlock
from zoo.layers.gd_ssm import DescentLayer
from zoo.layers.gd_ssm_heads import GDSSMBlock, GDSSMHeads
from zoo.layers.gla import GatedLinearAttentionLayer
from zoo.layers.head_norm import GatedRMSNorm
from zoo.layers.linear_attention import LinearAttention
from zoo.layers.longhorn import LonghornLayer
from zoo.layers.mamba import MambaLayer
from zoo.layers.mamba2 import Mamba2Layer
from zoo.layers.mesa_net import MesaNetLayer
from zoo.layers.mixer import MixerBlock
from zoo.layers.s5 import S5Block, S5Layer
from zoo.layers.short_convolution import ShortConvolution
from zoo.layers.ttt import TTTLayer
from zoo.metrics.classification import cross_entropy
from zoo.metrics.errors import Interval, half_squared_error, mean_interval
from zoo.models.gd_ssm import GDSSMEmbedded
from zoo.models.gd_ssm_base import WindowedPredictor
from zoo.models.linear_transformer import LinearTransformer
from zoo.models.online_learner import OnlineLearner
from zoo.models.sequence import SequenceModel
from zoo.predictor import Predictor

# Where silu, and gelu in its tanh form, are one.
OPEN_SILU, OPEN_GELU = 1.278464542761074, 1.1446303090227823


class Swap(NamedTuple):
    """Another value for an attribute of a module."""

    owner: nn.Module
    name: str
    value: Any


def ablations(model: Predictor) -> list[str]:
    """The names of what a model has that can be taken from it.

    | name | what becomes of it |
    |---|---|
    | `layer l` | a residual block adds nothing; a step of a `gd_ssm` is not taken |
    | `head l.h` | of what is projected out of the heads, the part of head h is zero |
    | `place l.a` | nothing reads place a of the window of a GD-SSM or a short convolution |
    | `decay l` | it is one: no entry of the state becomes smaller by itself |
    | `gate l` | it is open: what comes out of the state is multiplied by one |

    All are counted from 1, places from the oldest token on, layers as at `lens`: of a `gd_ssm` of k
    steps `layer 1` is the last step, which is computed first. Models of one recurrence have
    `place a`, `decay` and `gate`. Rates of writing and gates of an MLP are no gates here. Of S5
    eigenvalues keep their angle, and their size becomes one.

    Raises:
        ValueError: If it is no model.
    """
    return [*_parts(model)]


@contextmanager
def ablated(model: Predictor, part: str) -> Iterator[Predictor]:
    """The model without a part, within a `with` statement; afterwards it is as it was.

    The model itself is changed, so that whatever holds it sees the change; no tensor of it is
    written to.

    Args:
        model: Any model.
        part: One of `ablations(model)`.

    Yields:
        The same model.

    Raises:
        ValueError: If the model has no such part.
    """
    parts = _parts(model)
    if part not in parts:
        raise ValueError(f"{type(model).__name__} has {', '.join(parts)}, got {part!r}")
    # The form of a state is remembered, and without a block it is another one.
    swaps = [*parts[part], Swap(model, "_state_form", None)]
    before = [Swap(owner, name, getattr(owner, name)) for owner, name, _ in swaps]
    try:
        for swap in swaps:
            setattr(*swap)
        yield model
    finally:
        for swap in before:
            setattr(*swap)


@torch.no_grad()
def error_increases(
    model: Predictor,
    x: Tensor,
    y: Tensor,
    target: Tensor,
    parts: Iterable[str] | None = None,
) -> dict[str, Interval]:
    """By how much the error at the query grows without each part, on the same episodes.

    The error is 0.5*MSE, averaged over the coordinates of the label; of logits the cross entropy.

    Args:
        model: Any model.
        x: (num_episodes, length, d_x).
        y: (num_episodes, length, d_y).
        target: (num_episodes, length, d_y).
        parts: Of `ablations(model)`; all of them unless given.

    Returns:
        Mean and 95 % interval of the paired differences to the whole model, by part. Both are
        infinite where the model without the part predicts NaN or an infinite number.

    Raises:
        ValueError: If the model has no such part, the target is not of the shape of y or not
            finite, a prediction of the whole model is not, or there are fewer than two episodes.
    """
    if isinstance(parts, str):
        raise ValueError(f"parts must be several names, such as [{parts!r}], got {parts!r}")
    check_shape("target", target, tuple(y.shape), "y")
    check_finite(x=x, y=y[:, :-1], target=target[:, -1])
    measure = cross_entropy if model.output == "logits" else half_squared_error
    wanted, prediction = target[:, -1].double(), model.predict_query(x, y)
    check_finite(predictions_of_the_whole_model=prediction)
    whole = measure(prediction.double(), wanted)
    found = {}
    for part in ablations(model) if parts is None else parts:
        with ablated(model, part):
            prediction = model.predict_query(x, y)
        found[part] = Interval(math.inf, math.inf)
        if prediction.isfinite().all():
            found[part] = mean_interval(measure(prediction.double(), wanted) - whole)
    return found


def _parts(model: Predictor) -> dict[str, list[Swap]]:
    """What to exchange in a model for each of its ablations."""
    if isinstance(model, SequenceModel):
        parts = {}
        for number, block in enumerate(model.blocks, start=1):
            parts[f"layer {number}"] = [Swap(model.blocks, str(number - 1), Passage())]
            for head, swap in enumerate(_heads(block), start=1):
                parts[f"head {number}.{head}"] = [swap]
            parts |= _of_recurrence(block, number)
        return parts
    if isinstance(model, LinearTransformer):
        return _of_linear_transformer(model)
    if isinstance(model, WindowedPredictor):
        num_steps = len(model.layer.weights().steps)
        steps = {f"layer {j}": _step(model.layer, num_steps - j) for j in range(1, num_steps + 1)}
        return steps | _of_recurrence(model)
    if isinstance(model, OnlineLearner):
        return {"layer 1": [_without(model, "W_q", ...)], **_of_recurrence(model)}
    raise ValueError(f"only models have parts, got {type(model).__name__}")


def _of_linear_transformer(model: LinearTransformer) -> dict[str, list[Swap]]:
    """Layers and heads; one of several that share their weights gets weights of its own."""
    layers = [model.layers[i % len(model.layers)] for i in range(model.num_layers)]
    parts = {}

    def without(number: int, heads: Any) -> list[Swap]:
        cut = apart(layers[number])
        setattr(*_without(cut, "P", heads))
        return [
            Swap(model, "layers", nn.ModuleList([*layers[:number], cut, *layers[number + 1 :]]))
        ]

    for number, layer in enumerate(layers):
        assert isinstance(layer, LinearAttention)
        parts[f"layer {number + 1}"] = without(number, ...)
        for head in range(len(layer.P)):
            parts[f"head {number + 1}.{head + 1}"] = without(number, head)
    return parts


def _step(layer: DescentLayer, number: int) -> list[Swap]:
    """A step, counted from zero, that adds nothing to the prediction and takes nothing from v."""
    C, E = layer.get_parameter("C"), getattr(layer, "E", None)
    if C.ndim == 2:
        return [_without(layer, "C", ...)]
    swaps, num_steps = [_without(layer, "C", number)], len(C)
    # Without a learned start the first step has no E.
    if E is not None and number >= num_steps - len(E):
        swaps.append(_without(layer, "E", number - num_steps + len(E)))
    return swaps


def _heads(block: nn.Module) -> list[Swap]:
    """For each head of a block its columns of the output projection, as zeros."""
    mixer: Any = block.mixer if isinstance(block, MixerBlock) else None
    if isinstance(block, TransformerBlock):
        out, num_heads = block.attention.out, block.attention.num_heads
    elif isinstance(block, GDSSMBlock):
        out, num_heads = block.out_proj, block.heads.num_heads
    elif mixer is not None and hasattr(mixer, "num_heads"):
        name = "out_proj" if isinstance(mixer, Mamba2Layer) else "o_proj"
        out, num_heads = getattr(mixer, name), mixer.num_heads
    else:
        return []
    columns = torch.arange(out.in_features).chunk(num_heads)
    return [_without(out, "weight", (slice(None), of_head)) for of_head in columns]


def _of_recurrence(layer: nn.Module, *number: int) -> dict[str, list[Swap]]:
    """Places, decay and gate of a layer, with its number in their names."""
    places: dict[int, list[Swap]] = {}
    decay: list[Swap] = []
    gate: list[Swap] = []
    for module in layer.modules():
        for place, swaps in enumerate(_places(module), start=1):
            places.setdefault(place, []).extend(swaps)
        decay += _decay(module)
        gate += _gate(module)
    parts = {_name("place", *number, place): swaps for place, swaps in places.items()}
    if decay:
        parts[_name("decay", *number)] = decay
    if gate:
        parts[_name("gate", *number)] = gate
    return parts


def _places(module: nn.Module) -> list[list[Swap]]:
    """For each place of the window of a module, its weights without what reads the place."""
    if isinstance(module, DescentLayer | GDSSMHeads):
        matrices = [name for name, _ in module.named_parameters(recurse=False) if name[0] == "Q"]
        return [
            [_without(module, Q, (..., place, slice(None)), (..., place)) for Q in matrices]
            + [_without(module, "D", (..., place))]
            for place in range(3)
        ]
    if isinstance(module, ShortConvolution | nn.Conv1d):
        return [[_without(module, "weight", (..., a))] for a in range(module.weight.shape[-1])]
    return []


def _decay(module: nn.Module) -> list[Swap]:
    """What makes the decay of a module one."""
    if isinstance(module, MesaNetLayer):
        return _saturated(module.a_proj)
    if isinstance(module, GatedLinearAttentionLayer):
        return _saturated(module.gk_proj[1])
    swaps = [Swap(module, "clip_eigs", False)] if isinstance(module, S5Layer) else []
    for name, parameter in module.named_parameters(recurse=False):
        if name == "A_log":
            swaps.append(Swap(module, name, _fixed(torch.full_like(parameter, -math.inf))))
        elif name.startswith("Lambda_re") or name == "log_decay":
            swaps.append(_without(module, name, ...))
    return swaps


def _gate(module: nn.Module) -> list[Swap]:
    """What makes the gate of a module one."""
    if isinstance(module, GatedRMSNorm):
        return [Swap(module, "gate", torch.ones_like)]
    if isinstance(module, S5Block) and module.out2 is not None:
        return _saturated(module.out2)
    if isinstance(module, GDSSMEmbedded):
        return _saturated(module.gate, first=module.gate.out_features // 2)
    if isinstance(module, MambaLayer | LonghornLayer):
        z = slice(module.d_inner, None)
        return [Swap(module, "in_proj", _Held(module.in_proj, z, OPEN_SILU))]
    if isinstance(module, Mamba2Layer):
        z = slice(0, module.d_inner)
        return [Swap(module, "in_proj", _Held(module.in_proj, z, OPEN_SILU))]
    if isinstance(module, TTTLayer):
        return [Swap(module, "g_proj", _Held(module.g_proj, slice(None), OPEN_GELU))]
    return []


class _Held(nn.Module):
    """A linear map, some of whose outputs are a constant."""

    def __init__(self, linear: nn.Linear, outputs: slice, value: float) -> None:
        super().__init__()
        self.linear, self.outputs, self.value = linear, outputs, value

    def forward(self, u: Tensor) -> Tensor:
        o: Tensor = self.linear(u).clone()
        o[..., self.outputs] = self.value
        return o


def _saturated(linear: nn.Module, first: int = 0) -> list[Swap]:
    """A linear map whose outputs from `first` on are infinite, where a sigmoid is one."""
    bias = linear.get_parameter("bias").detach().clone()
    bias[first:] = math.inf
    outputs = slice(first, None)
    return [_without(linear, "weight", outputs), Swap(linear, "bias", _fixed(bias))]


def _without(owner: nn.Module, name: str, *indices: Any) -> Swap:
    """A parameter with zeros at some places."""
    value = owner.get_parameter(name).detach().clone()
    for index in indices:
        value[index] = 0
    return Swap(owner, name, _fixed(value))


def _fixed(value: Tensor) -> nn.Parameter:
    return nn.Parameter(value, requires_grad=False)


def _name(kind: str, *numbers: int) -> str:
    return f"{kind} {'.'.join(map(str, numbers))}".strip()
