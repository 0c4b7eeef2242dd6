"""The trained models that are looked into, and their episodes."""

from functools import cache

import torch

import zoo
from datamodules import EpisodeSpec, create_sampler
from datamodules.episodes import Episodes
from datamodules.stream import EVAL_SEED, Generators, Split
from studies.plan import Effort
from zoo.hub.find import find_card, known_checkpoints
from zoo.predictor import Predictor
from zoo.references import create_reference

DEEP = ("transformer", "mamba", "s5", "delta_net", "mesa_net", "gd_ssm_deep")
# Their algorithms are known: several steps of gradient descent, and one.
CONTROLS = ("linear_transformer", "gd_ssm")
TASKS = ("linear", "linear_noisy")
# Episodes that probes, tuned readouts and arguments of algorithms are fitted on, of the split tune.
NUM_TO_FIT = 500
# Where weights drift there is a seed each of layers of one recurrence.
DRIFT = "linear_drift"
DRIFTING = (
    "gd_ssm.linear_drift",
    "online_learner.linear_drift_gated_linear_attention",
    "online_learner.linear_drift_gated_delta_rule",
    "online_learner.linear_drift_mesa",
)
# The algorithm with the least expected error, of which the others fall short.
BEST = {"linear": "least_squares", "linear_noisy": "ridge", DRIFT: "kalman_filter"}


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
    return random_start(_name(architecture, task, 0), seed)


def random_start(name: str, seed: int) -> Predictor:
    """A model like a checkpoint, with a random start."""
    card = find_card(name)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return zoo.create_model(card.architecture, **card.model_args).eval()


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
