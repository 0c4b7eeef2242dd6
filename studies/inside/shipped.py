"""The trained models that the study looks into, and their episodes."""

from functools import cache

import torch

import zoo
from datamodules import EpisodeSpec
from studies.inside.task import Task
from studies.plan import Effort
from zoo.hub.card import Card
from zoo.hub.find import find_card, known_checkpoints
from zoo.predictor import Predictor

DEEP = ("transformer", "mamba", "s5", "delta_net", "mesa_net", "gd_ssm_deep")
# Their algorithms are known: several steps of gradient descent, and one.
CONTROLS = ("linear_transformer", "gd_ssm")
TASKS = ("linear", "linear_noisy")
# Where weights drift there is a seed each of layers of one recurrence.
DRIFT = "linear_drift"
DRIFTING = (
    "gd_ssm.linear_drift",
    "online_learner.linear_drift_gated_linear_attention",
    "online_learner.linear_drift_gated_delta_rule",
    "online_learner.linear_drift_mesa",
)


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
    return random_start(find_card(_name(architecture, task, 0)), seed)


def random_start(card: Card, seed: int) -> Predictor:
    """A model like that of a card, with a random start."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return zoo.create_model(card.architecture, **card.model_args).eval()


def _name(architecture: str, task: str, seed: int) -> str:
    return f"{architecture}.{task}" + (f"@{seed}" if seed else "")


@cache
def task_of(name: str) -> Task:
    """The episodes that models of a task were trained on."""
    return Task(EpisodeSpec(**find_card(_name("gd_ssm", name, 0)).data))
