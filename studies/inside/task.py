"""Episodes that are looked into, and exact algorithms that are told of them."""

from dataclasses import dataclass
from functools import cache

from datamodules import EpisodeSpec, create_sampler
from datamodules.episodes import Episodes
from datamodules.linear import LinearDrift, LinearFamily, LinearPool
from datamodules.stream import EVAL_SEED, Generators, Split
from zoo.predictor import Predictor
from zoo.references import create_reference, facts_of

# Episodes that probes, tuned readouts and arguments of algorithms are fitted on, of the split tune.
NUM_TO_FIT = 500


@dataclass(frozen=True, eq=False)
class Task:
    """A kind of episodes whose labels are values.

    What is drawn and fitted for it is kept, so there is one of each kind.

    Attributes:
        spec: The episodes.
    """

    spec: EpisodeSpec

    @property
    def best(self) -> str:
        """The algorithm with the least expected error of those that are linear in the query.

        Which that is, is known where `is_exact`. Elsewhere it is least squares, or ridge with a
        penalty that is fitted to the episodes.
        """
        function, facts = self.spec.function, facts_of(self.spec)
        if not facts.clean:
            return "ridge"
        if isinstance(function, LinearDrift):
            return "kalman_filter"
        if facts.noise_variance:
            return "dmmse" if isinstance(function, LinearPool) else "ridge"
        return "least_squares" if isinstance(function, LinearFamily) else "ridge"

    @property
    def is_exact(self) -> bool:
        """Whether no algorithm has a smaller expected error than the best one."""
        facts = facts_of(self.spec)
        return facts.clean and (facts.weight_variance is not None or self.best == "dmmse")


@cache
def episodes(task: Task, split: Split, num: int) -> Episodes:
    """Episodes as in training, which no model was trained on."""
    return create_sampler(task.spec).sample(num, Generators(EVAL_SEED, split, 0, "cpu"))


@cache
def solver(name: str, task: Task, num_steps: int = 0) -> Predictor:
    """An exact algorithm that is told of the episodes."""
    return create_reference(name, task.spec, {"num_steps": num_steps} if num_steps else {})
