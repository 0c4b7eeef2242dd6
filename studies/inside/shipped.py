"""The trained models that are looked into, their episodes, and the weights of algorithms there."""

from functools import cache
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

import zoo
from datamodules import EpisodeSpec, create_sampler
from datamodules.episodes import Episodes
from datamodules.stream import EVAL_SEED, Generators, Split
from studies.plan import Effort
from zoo.analysis.hidden import hidden_states
from zoo.analysis.interventions import Site, at_layer, in_state
from zoo.hub.find import find_card, known_checkpoints
from zoo.models.sequence import SequenceModel
from zoo.predictor import Predictor
from zoo.references import create_reference

DEEP = ("transformer", "mamba", "s5", "delta_net", "mesa_net", "gd_ssm_deep")
# Their algorithms are known: several steps of gradient descent, and one.
CONTROLS = ("linear_transformer", "gd_ssm")
TASKS = ("linear", "linear_noisy")
# Episodes that probes, tuned readouts and arguments of algorithms are fitted on, of the split tune.
NUM_TO_FIT = 500
# The algorithm with the least expected error, of which the others fall short.
BEST = {"linear": "least_squares", "linear_noisy": "ridge"}


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


def architectures(effort: Effort, *known: str) -> tuple[str, ...]:
    """Deep ones that are measured, with fewer settings one of them, and known ones."""
    return (*(DEEP[3:4] if effort.fewer_settings else DEEP), *known)


def shipped(architecture: str, task: str, seed: int) -> Predictor:
    """A shipped checkpoint, by the seed of its training."""
    return zoo.load(_name(architecture, task, seed))


def seeds_of(architecture: str, task: str, effort: Effort) -> tuple[int, ...]:
    """The seeds that are shipped, of those that are asked for."""
    known = known_checkpoints()
    return tuple(seed for seed in effort.seeds if _name(architecture, task, seed) in known)


def untrained(architecture: str, task: str, seed: int) -> Predictor:
    """The same model with a random start."""
    card = find_card(_name(architecture, task, 0))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return zoo.create_model(architecture, **card.model_args).eval()


def _name(architecture: str, task: str, seed: int) -> str:
    return f"{architecture}.{task}" + (f"@{seed}" if seed else "")


@cache
def spec_of(task: str) -> EpisodeSpec:
    """The episodes that models of a task were trained on."""
    return EpisodeSpec(**find_card(_name("gd_ssm", task, 0)).data)


@cache
def episodes(task: str, split: Split, num: int) -> Episodes:
    """Episodes as in training, which no model was trained on."""
    return create_sampler(spec_of(task)).sample(num, Generators(EVAL_SEED, split, 0, "cpu"))


@cache
def solver(name: str, task: str, num_steps: int = 0) -> Predictor:
    """An exact algorithm that is told of the episodes."""
    return create_reference(name, spec_of(task), {"num_steps": num_steps} if num_steps else {})


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
    state = predictor.observe(predictor.init_state(len(x), dtype=x.dtype), x, y)
    return predictor.predict(state, torch.eye(x.shape[2]).to(x).expand(len(x), -1, -1))


def places(model: Predictor) -> list[Place]:
    """The residual stream after each block, and the states that do not grow."""
    if not isinstance(model, SequenceModel):
        return [Place("state", 1)]
    layers = range(1, len(model.blocks) + 1)
    found = [Place("stream", layer) for layer in layers]
    if type(model).__name__ != "Transformer":
        found += [Place("state", layer) for layer in layers]
    return found


def site(model: Predictor, x: Tensor, y: Tensor, place: Place) -> Site:
    """A place in the computation of a model for x (batch, length, d_x) and y."""
    if place.kind == "stream":
        assert isinstance(model, SequenceModel)
        return at_layer(model, x, y, place.layer, "example")
    return in_state(model, x, y, _part(model, place.layer))


def _part(model: Predictor, layer: int) -> str:
    """The part of a state that holds weights, where there are windows of convolutions beside it."""
    if not isinstance(model, SequenceModel):
        return "Z"
    block: Any = model.blocks[layer - 1]
    state = block.init_state(1, torch.device("cpu"), torch.float32)
    return f"blocks.{layer - 1}.{len(state) - 1}"


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
