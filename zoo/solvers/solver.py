"""What every exact algorithm says of itself: what it can be told of episodes, and what is tried."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from zoo.predictor import Predictor
from zoo.registry import solver_class
from zoo.solvers.theory import LinearEpisodes

Grid = dict[str, tuple[float, ...]]


@dataclass(frozen=True, eq=False)
class EpisodeFacts:
    """What a solver may know of the episodes that it is measured on.

    Attributes:
        d_x: Width of an input.
        d_y: Width of a label.
        num_context: Number N of examples before the query.
        family: Name of the function family.
        output: What a predictor is to return.
        input_variance: Mean over the coordinates of E x_p^2.
        noise_variance: sigma^2, of the noise on every visible label.
        clean: Whether an example is the input, its label and that noise alone: no distractors, no
            outliers, no inputs that are shown otherwise than the function sees them.
        weight_variance: tau^2, where the label of every position is linear in its input and an
            entry of the weights is N(0, tau^2); None elsewhere.
        rho: Correlation of weights one position apart; None where functions do not drift.
        linear: What the closed forms of `zoo.solvers.theory` need; None where they do not hold.
        labels_hidden: Whether y is zero everywhere, so that nothing is learned from it.
        symbols: What the one-hot inputs are called; empty where inputs are none.
        told: What all episodes share, by the names that the family has for it, such as the table of
            a group or the pool (pool_size, d_y, d_x) that functions are drawn from.
    """

    d_x: int
    d_y: int
    num_context: int
    family: str = "linear"
    output: Literal["value", "logits"] = "value"
    input_variance: float = 1.0
    noise_variance: float = 0.0
    clean: bool = True
    weight_variance: float | None = None
    rho: float | None = None
    linear: LinearEpisodes | None = None
    labels_hidden: bool = False
    symbols: tuple[str, ...] = ()
    told: Mapping[str, Tensor] = field(default_factory=dict)

    def named(self, *names: str) -> dict[str, Any]:
        """What `told` has of these names, as arguments of a solver."""
        return {name: self.told[name].tolist() for name in names if name in self.told}

    @property
    def step_of_sum(self) -> float:
        """About one over the largest eigenvalue of A; a step beyond two of it diverges."""
        return 1 / (self.input_variance * (self.num_context + self.d_x))

    @property
    def step_of_example(self) -> float:
        """About 1 / |x|^2, the step that fits one example."""
        return 1 / (self.input_variance * self.d_x)


class Solver(Predictor):
    """An exact algorithm: a predictor without training that knows what it can be told.

    Predictions can be differentiated with respect to inputs, labels and query unless the class says
    otherwise.

    An argument is given by the user, else told by `known`, else fitted on `grid`, else the default
    of the config.

    Attributes:
        reads_labels: Whether it learns from labels; one that does is of no use where they are
            hidden.
    """

    reads_labels: ClassVar[bool] = True

    @classmethod
    def known(cls, facts: EpisodeFacts, given: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments that follow from the episodes.

        Args:
            facts: Of the episodes.
            given: Arguments that are settled; they go before what is returned.
        """
        return {}

    @classmethod
    def grid(cls, facts: EpisodeFacts) -> Grid:
        """What is tried for the arguments that are not known, by argument."""
        return {}

    @classmethod
    def stands_beside(cls, facts: EpisodeFacts) -> bool:
        """Whether every model that is measured on such episodes is compared with it."""
        return False

    @classmethod
    def example(cls, d_x: int, d_y: int) -> dict[str, Any]:
        """Arguments, those without a default among them, for which it does something in no time."""
        grid = cls.grid(EpisodeFacts(d_x, d_y, num_context=10))
        return {name: values[len(values) // 2] for name, values in grid.items()}


class StreamingSolver(Solver):
    """A solver that predicts from its streaming state; a subclass implements `start`."""

    def start(self, batch_size: int, device: torch.device | str | None) -> Any:
        """The state before the first example: a tensor, episodes first, or a tuple of such."""
        raise NotImplementedError

    def predict_query(self, x: Tensor, y: Tensor) -> Tensor:
        self.check_pairs(x, y)
        state = self.observe(self.start(len(x), x.device), x[:, :-1], y[:, :-1])
        return self.predict(state, x[:, -1:])[:, 0]

    def init_state(
        self,
        batch_size: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Any:
        device, _ = self.state_options(batch_size, device, dtype)
        return self.start(batch_size, device)


def solver_of(name: str) -> type[Solver]:
    """The class of a solver.

    Raises:
        ValueError: If the name is unknown, or its class says nothing of itself.
    """
    found = solver_class(name)
    if not issubclass(found, Solver):
        raise ValueError(f"{found.__name__}, registered as {name!r}, must be a Solver")
    return found
