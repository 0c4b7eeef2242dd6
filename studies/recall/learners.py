"""Layers that are compared on recall, what they are trained on, and the algorithms beside them."""

from functools import cache
from typing import Any, NamedTuple

from datamodules import EpisodeSpec, create_sampler
from datamodules.episodes import Episodes
from datamodules.recall import Recall
from datamodules.stream import EVAL_SEED, Generators
from studies.measure import query_accuracy
from studies.plan import Effort, Training, Trial
from zoo.evaluation.names import solver_label
from zoo.references import create_reference, facts_of
from zoo.solvers.solver import solver_of
from zoo.solvers.tuning import tune

NUM_KEYS = 16
RATES = (0.001, 0.003, 0.01, 0.03)
MAX_STEPS = 1_500
TRIAL_STEPS = MAX_STEPS // 4
# A third of the steps at a constant rate holds five of them.
VALIDATIONS = 20
# Tried of a solver that forgets, where a layer learns its decay, with every third value that is
# tried of its other argument; that is fitted afterwards.
FORGETTING = (1.0, 0.98, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5)
EVERY = 3
CHOICE_EPISODES = 1_000


class Setting(NamedTuple):
    """Episodes of recall.

    Attributes:
        d: Width of keys and values.
        num_updates: Keys of which the value changes.
    """

    d: int
    num_updates: int

    @property
    def spec(self) -> EpisodeSpec:
        """The episodes."""
        function = Recall(num_keys=NUM_KEYS, num_updates=self.num_updates)
        return EpisodeSpec(d_x=self.d, d_y=self.d, function=function)

    @property
    def overrides(self) -> tuple[str, ...]:
        """The same for a training."""
        return (
            "data=recall",
            f"data.d_x={self.d}",
            f"data.d_y={self.d}",
            f"data.function.num_keys={NUM_KEYS}",
            f"data.function.num_updates={self.num_updates}",
        )


class Learner(NamedTuple):
    """One layer, and the algorithm that it can be constructed to be.

    Attributes:
        name: On the page, and in the names of trainings.
        overrides: Of a training.
        step_ms: Of a step of one seed at one rate, about, at d = 16.
        drawn_as: Whose colour and dashes it has.
        solver: Registered name of the algorithm.
        told: Its arguments that the form of the layer settles.
        forgets: Whether the layer learns a decay, and the solver a forgetting.
    """

    name: str
    overrides: tuple[str, ...]
    step_ms: float
    drawn_as: str
    solver: str
    told: tuple[tuple[str, Any], ...] = ()
    forgets: bool = False


def _online(rule: str, *others: str) -> tuple[str, ...]:
    return ("recipe=online_learner", f"model.rule={rule}", *others)


DECAY = "model.decay=head"
SUM = Learner(
    "sum", _online("gated_linear_attention"), 1.3, "linear_transformer", "gradient_descent"
)
DECAYING_SUM = Learner(
    "decaying sum",
    _online("gated_linear_attention", DECAY),
    1.8,
    "gla",
    "weighted_gradient_descent",
    forgets=True,
)
# As under drift, the decay has to move by much more than a rate of 0.001 moves it.
GD_SSM = Learner(
    "gd_ssm",
    ("recipe=gd_ssm", "optim.ssm_lr=0.01"),
    4.3,
    "gd_ssm",
    "weighted_gradient_descent",
    forgets=True,
)
DELTA = Learner("delta rule", _online("delta_rule"), 2.6, "delta_net", "online_gradient_descent")
GATED_DELTA = Learner(
    "gated delta rule",
    _online("gated_delta_rule", DECAY),
    3.1,
    "gated_delta_net",
    "online_gradient_descent",
    forgets=True,
)
DELTA_PRODUCT = Learner(
    "delta product of two",
    _online("delta_product", "model.num_updates=2"),
    5.5,
    "delta_product",
    "online_gradient_descent",
    (("num_passes", 2),),
)
LONGHORN = Learner("longhorn", _online("longhorn"), 2.7, "longhorn", "longhorn")
TEST_TIME_TRAINING = Learner(
    "test-time training by fours",
    _online("test_time_training", "model.mini_batch=4"),
    3.1,
    "ttt_linear",
    "minibatch_gradient_descent",
    (("window", 4),),
)
MESA = Learner("mesa", _online("mesa"), 13.0, "online_learner", "ridge", (("forgetting", 1.0),))
DECAYING_MESA = Learner(
    "decaying mesa", _online("mesa", DECAY), 13.0, "mesa_net", "ridge", forgets=True
)
LEARNERS = (
    SUM,
    DECAYING_SUM,
    GD_SSM,
    DELTA,
    GATED_DELTA,
    DELTA_PRODUCT,
    LONGHORN,
    TEST_TIME_TRAINING,
    MESA,
    DECAYING_MESA,
)


def training(learner: Learner, setting: Setting, effort: Effort) -> Training:
    """A layer on episodes of a kind, its learning rate chosen by a trial."""
    name = f"{learner.name.replace(' ', '-')}-d{setting.d}-u{setting.num_updates}"
    step_ms = learner.step_ms * setting.d / 16
    overrides = (*learner.overrides, *setting.overrides, "optim.schedule=constant_then_decay")
    rates = RATES[1:3] if effort.fewer_settings else RATES
    return Training(
        name,
        MAX_STEPS,
        step_ms,
        overrides,
        validations=VALIDATIONS,
        trial=Trial(name, TRIAL_STEPS, step_ms, rates, overrides),
    )


class Ceiling(NamedTuple):
    """What an exact algorithm reaches.

    Attributes:
        label: Its name, with what it was told.
        accuracy: At the query.
    """

    label: str
    accuracy: float


@cache
def ceiling(
    solver: str, told: tuple[tuple[str, Any], ...], forgets: bool, setting: Setting, num: int
) -> Ceiling:
    """An algorithm with the arguments of least error, on the test episodes of a setting.

    Args:
        solver: Registered name.
        told: Arguments that are settled.
        forgets: Whether its forgetting is chosen too.
        setting: The episodes.
        num: How many test episodes.
    """
    spec, arguments = setting.spec, dict(told)
    if forgets:
        # Step 0 of this stream is what the other arguments are fitted on.
        generators = Generators(EVAL_SEED, "tune", 1, "cpu")
        episodes = Episodes.joined(create_sampler(spec).batches(CHOICE_EPISODES, generators))
        others = solver_of(solver).grid(facts_of(spec))
        grid = {name: values[::EVERY] for name, values in others.items()}
        grid["forgetting"] = FORGETTING
        best = tune(solver, grid, episodes.x, episodes.y, episodes.target, fixed=arguments)
        arguments["forgetting"] = best["forgetting"]
    fitted = create_reference(solver, spec, arguments)
    return Ceiling(solver_label(solver, arguments), query_accuracy(fitted, spec, num))
