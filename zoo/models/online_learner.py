"""One bare layer of fast weights on pairs: each rule can be constructed to be a solver.

Sources: of each rule, those in `zoo/ops/fast_weights`.
"""

import math
from functools import partial
from typing import Literal, NamedTuple

import torch
from pydantic import PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn

from zoo.ops import fast_weights
from zoo.ops.precision import without_autocast
from zoo.predictor import Predictor
from zoo.registry import PredictorConfig, register_model

Rule = Literal[
    "gated_linear_attention",
    "delta_rule",
    "gated_delta_rule",
    "delta_product",
    "longhorn",
    "mesa",
    "test_time_training",
]
# What a rule can do beside writing; the first is what it does if nothing is said.
DECAYS: dict[str, tuple[str, ...]] = {
    "gated_linear_attention": ("none", "head", "key"),
    "delta_rule": ("none",),
    "gated_delta_rule": ("head", "key"),
    "delta_product": ("none", "head", "key"),
    "longhorn": ("none",),
    "mesa": ("none", "head"),
    "test_time_training": ("none",),
}


class OnlineLearnerConfig(PredictorConfig):
    """Arguments of `online_learner`.

    Attributes:
        rule: A function of `zoo.ops.fast_weights`.
        decay: Whether the state decays before each pair: `"none"`, by one number (`"head"`), or by
            one for each coordinate of the keys (`"key"`).
        num_updates: Updates for each pair, of `delta_product`.
        mini_batch: Pairs whose gradients are taken at the same weights, of `test_time_training`.
        scale: Standard deviation of the random start of every map, times the root of its inputs.
        rate: Start of every rate.
    """

    rule: Rule = "delta_rule"
    decay: Literal["none", "head", "key"] = "none"
    num_updates: PositiveInt = 1
    mini_batch: PositiveInt = 1
    scale: PositiveFloat = 1.0
    rate: PositiveFloat = 0.1

    @model_validator(mode="after")
    def _rule_can_do_it(self) -> "OnlineLearnerConfig":
        if self.decay not in DECAYS[self.rule]:
            allowed = " or ".join(repr(decay) for decay in DECAYS[self.rule])
            raise ValueError(f"decay of rule {self.rule} must be {allowed}, got {self.decay!r}")
        for name, rule in (("num_updates", "delta_product"), ("mini_batch", "test_time_training")):
            if getattr(self, name) > 1 and self.rule != rule:
                raise ValueError(f"{name} is of rule {rule}, got {self.rule}")
        return self


class LearnerState(NamedTuple):
    """What is remembered of the pairs; its size does not grow.

    Attributes:
        S: Fast weights after the last pair, (batch, 1, d_x, d_y).
        H: Of `mesa` the weighted second moment of the keys, (batch, 1, d_x, d_x), else None.
        start: Fast weights at the start of the mini-batch under way; S where none is.
        num_seen: Number of pairs.
    """

    S: Tensor
    H: Tensor | None
    start: Tensor
    num_seen: int


# Keys, values, rates and log decays of pairs; fast weights S and moments H.
Writes = tuple[Tensor, Tensor, Tensor | None, Tensor | None]
Moments = tuple[Tensor, Tensor | None]


@register_model("online_learner", OnlineLearnerConfig)
class OnlineLearner(Predictor):
    """Fast weights S that each pair e_i = (x_i, y_i) trains, asked with x before it is written.

        k_i = W_k e_i,   v_i = W_v e_i,   q_i = W_q x_i
        prediction i = S_{i-1}^T q_i   (of `mesa` G_{i-1}^T (H_{i-1} + diag(ridge))^{-1} q_i)
        S_i = rule(S_{i-1}, k_i, v_i, beta, decay),   S_0 = 0

    All maps are linear, there is one head, and no norm, convolution or gate. Rate, decay and ridge
    are the same for all pairs; their logarithms are parameters, so each is any positive number, a
    decay above one too.

    Parameters: `W_q (d_x, d_x)`; with n = `num_updates` `W_k (n, d_x, d_x + d_y)` and
    `W_v (n, d_y, d_x + d_y)`; `log_beta (n,)`, but for `gated_linear_attention`; `log_decay (1,)`
    or `(d_x,)` with a decay; `log_ridge (d_x,)` of `mesa`.
    """

    token_layout = "pairs"

    W_q: nn.Parameter
    W_k: nn.Parameter
    W_v: nn.Parameter
    log_beta: nn.Parameter | None
    log_decay: nn.Parameter | None
    log_ridge: nn.Parameter | None

    def __init__(self, config: OnlineLearnerConfig) -> None:
        super().__init__(config.d_x, config.d_y)
        d_x, d_y, n = config.d_x, config.d_y, config.num_updates
        self.rule, self.decay, self.mini_batch = config.rule, config.decay, config.mini_batch
        for name, *shape in (
            ("W_q", d_x, d_x),
            ("W_k", n, d_x, d_x + d_y),
            ("W_v", n, d_y, d_x + d_y),
        ):
            weight = nn.Parameter(torch.empty(*shape))
            nn.init.normal_(weight, std=config.scale / math.sqrt(shape[-1]))
            self.register_parameter(name, weight)
        num_decays = {"none": 0, "head": 1, "key": d_x}[config.decay]
        for name, size, start in (
            ("log_beta", 0 if self.rule == "gated_linear_attention" else n, math.log(config.rate)),
            ("log_decay", num_decays, 0.0),
            ("log_ridge", d_x if self.rule == "mesa" else 0, 0.0),
        ):
            parameter = nn.Parameter(torch.full((size,), start)) if size else None
            self.register_parameter(name, parameter)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        self.check_pairs(x, y)
        # The last pair is written after the last prediction, so that any label will do for it.
        examples = torch.cat([y[:, :-1], torch.zeros_like(y[:, :1])], dim=1)
        o, _ = self._run(self._queries(x), self._writes(x, examples), None)
        return self.checked(o[:, :, 0])

    def init_state(
        self,
        batch_size: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> LearnerState:
        device, dtype = self.state_options(batch_size, device, dtype)
        wide = torch.promote_types(dtype, torch.float32)
        S = torch.zeros(batch_size, 1, self.d_x, self.d_y, device=device, dtype=wide)
        H = S.new_zeros(batch_size, 1, self.d_x, self.d_x) if self.rule == "mesa" else None
        return LearnerState(S, H, S.clone(), 0)

    def observe(self, state: LearnerState, x: Tensor, y: Tensor) -> LearnerState:
        self.check_pairs(x, y, state)
        S, H, start, num_seen = state
        # Up to the end of the mini-batch under way, then whole ones, then the beginning of one.
        first = min(-num_seen % self.mini_batch, x.shape[1])
        last = (x.shape[1] - first) % self.mini_batch
        sizes = [first, x.shape[1] - first - last, last]
        for x_part, y_part in zip(x.split(sizes, 1), y.split(sizes, 1), strict=True):
            if not x_part.shape[1]:
                continue
            if num_seen % self.mini_batch == 0:
                start = S
            writes = self._writes(x_part, y_part)
            _, (after, H) = self._run(self._queries(x_part), writes, (start, H))
            # Of a mini-batch under way all gradients are those at its start.
            S = after if start is S else S + (after - start)
            num_seen += x_part.shape[1]
        return LearnerState(S, H, start if num_seen % self.mini_batch else S, num_seen)

    def predict(self, state: LearnerState, x_query: Tensor) -> Tensor:
        self.check_queries(state, x_query)
        q = self._queries(x_query)[:, :, 0]
        W = state.S[:, 0]
        if state.H is not None and self.log_ridge is not None:
            with without_autocast(q.device):
                ridge = self.log_ridge.exp().to(W.dtype).diag()
                factor, failed = torch.linalg.cholesky_ex(state.H[:, 0] + ridge)
                W = torch.cholesky_solve(W, factor)  # (batch, d_x, d_y)
                W = torch.where((failed == 0)[:, None, None], W, torch.nan)
        return self.checked(q @ W.to(q.dtype))

    def state_size(self, num_context: int) -> int:
        weights = self.d_x * self.d_y
        if self.rule == "mesa":
            return weights + self.d_x**2
        return weights * (2 if self.mini_batch > 1 else 1)

    def _queries(self, x: Tensor) -> Tensor:
        """q, (batch, length, 1, d_x)."""
        return (x @ self.W_q.mT)[:, :, None]

    def _writes(self, x: Tensor, y: Tensor) -> Writes:
        """What the rule is given of the pairs beside the queries, for one head."""
        e = torch.cat([x, y], dim=-1)
        k = torch.einsum("npe,bie->binp", self.W_k, e)
        v = torch.einsum("nqe,bie->binq", self.W_v, e)
        log_decay = beta = None
        if self.log_beta is not None:
            beta = self.log_beta.exp().expand(*e.shape[:2], -1)  # (batch, length, n)
        if self.log_decay is not None:
            log_decay = self.log_decay.expand(*e.shape[:2], -1)
            if self.decay == "key":
                log_decay = log_decay[:, :, None]
        if self.rule == "delta_product" and beta is not None:
            return k[:, :, :, None], v[:, :, :, None], beta[..., None], log_decay
        return k, v, beta, log_decay

    def _run(self, q: Tensor, writes: Writes, state: Moments | None) -> tuple[Tensor, Moments]:
        """Outputs of the state before each pair, (batch, length, 1, d_y), and the last state."""
        k, v, beta, log_decay = writes
        S, H = (None, None) if state is None else state
        o: Tensor
        after: Tensor
        fades = self.rule != "gated_linear_attention" or log_decay is not None
        name = self.rule if fades else "linear_attention"
        rule = partial(getattr(fast_weights, name), inclusive=False)
        if self.log_ridge is not None:
            start = None if state is None else (H, S)
            ridge = self.log_ridge.exp()[None]  # (1, d_x)
            o, (H, after) = rule(q, k, v, beta, log_decay, ridge, initial_state=start)
        elif self.rule == "test_time_training":
            o, after = rule(q, k, v, beta, self.mini_batch, initial_state=S)
        else:
            given = [part for part in (beta, log_decay) if part is not None]
            o, after = rule(q, k, v, *given, initial_state=S)
        return o, (after, H)


@torch.no_grad()
def construct_solver_(
    model: OnlineLearner,
    step_size: float | None = None,
    forgetting: float | None = None,
    ridge: float | None = None,
) -> OnlineLearner:
    """Sets the weights, in place, that make the model a solver, at every number of examples.

    W_q picks x, W_k the x and W_v the y of a pair; of several updates all are alike.

    | rule | solver | arguments |
    |---|---|---|
    | `gated_linear_attention` | `weighted_gradient_descent` | step_size, forgetting |
    | `delta_rule` | `online_gradient_descent` | step_size |
    | `gated_delta_rule` | `online_gradient_descent(forgetting=)` | step_size, forgetting |
    | `delta_product`, n updates | `online_gradient_descent(num_passes=n)` | step_size |
    | `longhorn` | `longhorn` | step_size |
    | `mesa` | `ridge`, with a decay `ridge(forgetting=)` | ridge |
    | `test_time_training`, b pairs | `minibatch_gradient_descent(window=b)` | step_size |

    Args:
        model: An `online_learner`.
        step_size: eta of the solver; not of `mesa`.
        forgetting: Factor by which what was learned decays with each example, of a model that has a
            decay: 1 unless given.
        ridge: Penalty of the solver, of `mesa` only.

    Returns:
        The same model.

    Raises:
        ValueError: If the model is another one, an argument is missing or no finite positive number
            (forgetting is at most 1), or the model has no place for it.
    """
    if not isinstance(model, OnlineLearner):
        raise ValueError(f"construct_solver_ needs an online_learner, got {type(model).__name__}")
    for name, number in (("step_size", step_size), ("forgetting", forgetting), ("ridge", ridge)):
        if number is not None and not (isinstance(number, int | float) and math.isfinite(number)):
            raise ValueError(f"{name} must be a finite number, got {number!r}")
    is_mesa, has_decay = model.rule == "mesa", model.log_decay is not None
    for name, given, needed in (("step_size", step_size, not is_mesa), ("ridge", ridge, is_mesa)):
        if needed and (given is None or given <= 0):
            raise ValueError(f"rule {model.rule} needs a positive {name}, got {given}")
        if given is not None and not needed:
            raise ValueError(f"rule {model.rule} has no {name}, got {given}")
    if forgetting is not None and not (has_decay and 0 < forgetting <= 1):
        raise ValueError(
            "forgetting must be positive and at most 1, of a model that has a decay, "
            f"got {forgetting} with {'a' if has_decay else 'no'} decay"
        )
    for weight in (model.W_q, model.W_k, model.W_v):
        weight.zero_()
    model.W_q.fill_diagonal_(1)
    model.W_k[:, :, : model.d_x] = torch.eye(model.d_x)
    model.W_v[:, :, model.d_x :] = torch.eye(model.d_y)
    rate = 1.0 if step_size is None else step_size
    if model.log_beta is None:
        model.W_v.mul_(rate)
    else:
        model.log_beta.fill_(math.log(rate))
    if model.log_decay is not None:
        model.log_decay.fill_(math.log(1.0 if forgetting is None else forgetting))
    if model.log_ridge is not None and ridge is not None:
        model.log_ridge.fill_(math.log(ridge))
    return model
