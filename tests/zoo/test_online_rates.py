"""What a learner amounts to does not depend on how its weights are scaled."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import zoo
from tests.conftest import MakePairs
from tests.zoo.test_online_learner import CONSTRUCTIONS, learner
from zoo.analysis.online_rates import (
    counterpart,
    effective_forgetting,
    effective_gain,
    effective_penalty,
    effective_rate,
)
from zoo.models.online_learner import OnlineLearner, construct_solver_


@torch.no_grad()
def rescale_(model: OnlineLearner, M: Tensor, square: float) -> None:
    """Changes keys, k -> M k with M M^T = square I, and what goes with them."""
    model.W_k.copy_(M @ model.W_k)
    model.W_q.copy_(M @ model.W_q)
    if model.log_beta is None:
        model.W_v.div_(square)
    else:
        model.log_beta.sub_(math.log(square))


@pytest.mark.parametrize(("arguments", "construction", "name", "of_solver"), CONSTRUCTIONS)
def test_the_effective_rate_is_that_of_the_solver_however_weights_are_scaled(
    arguments: dict[str, Any],
    construction: dict[str, float],
    name: str,
    of_solver: dict[str, Any],
    make_pairs: MakePairs,
) -> None:
    model = construct_solver_(learner(4, 3, **arguments), **construction)
    x, y = make_pairs(4, 3, 12)
    before = model(x, y)
    rotation = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64)).Q
    rescale_(model, 1.7 * rotation, 1.7**2)
    torch.testing.assert_close(model(x, y), before)  # nothing that is seen from outside
    first = x[:, 0], y[:, 0]
    solver = zoo.create_solver(name, d_x=4, d_y=3, **of_solver)
    assert effective_rate(model, *first) == pytest.approx(effective_rate(solver, *first), rel=1e-6)
    found, settled = counterpart(model)
    assert found == name
    # What a model cannot learn, and nothing that it can.
    assert settled.items() <= ({"forgetting": 1.0} | of_solver).items()
    assert ("forgetting" in settled) <= ("decay" not in arguments)
    assert not {"step_size", "penalty"} & settled.keys()
    assert effective_forgetting(model) == (
        None if "decay" not in arguments else pytest.approx(construction["forgetting"])
    )


def test_the_effective_rate_of_gradient_descent_is_its_step_size(make_pairs: MakePairs) -> None:
    x, y = (part[:, 0] for part in make_pairs(4, 3, 2))
    for name in ("gradient_descent", "online_gradient_descent"):
        solver = zoo.create_solver(name, d_x=4, d_y=3, step_size=0.3)
        assert effective_rate(solver, x, y) == pytest.approx(0.3)
    twice = zoo.create_solver("gradient_descent", d_x=4, d_y=3, step_size=0.3)
    assert effective_rate(twice, 2 * x, -y) == pytest.approx(0.3)


@pytest.mark.parametrize(("arguments", "construction", "name", "of_solver"), CONSTRUCTIONS)
def test_a_gain_multiplies_every_answer_and_a_construction_has_none(
    arguments: dict[str, Any],
    construction: dict[str, float],
    name: str,
    of_solver: dict[str, Any],
    make_pairs: MakePairs,
) -> None:
    model = construct_solver_(learner(4, 3, **arguments), **construction)
    if model.rule == "gated_linear_attention":
        with pytest.raises(ValueError, match="has no gain apart from its rate"):
            effective_gain(model)
        return
    rescale_(model, 1.7 * torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64)).Q, 1.7**2)
    assert effective_gain(model) == pytest.approx(1.0)
    with torch.no_grad():
        model.W_q.mul_(-0.5)
        model.W_v.mul_(-1.6)
    assert effective_gain(model) == pytest.approx(0.8)
    x, y = make_pairs(4, 3, 12)
    solver = zoo.create_solver(name, d_x=4, d_y=3, **of_solver)
    torch.testing.assert_close(model(x, y), 0.8 * solver(x, y))


def test_the_effective_penalty_is_that_of_ridge_however_weights_are_scaled(
    make_pairs: MakePairs,
) -> None:
    model = construct_solver_(learner(4, 3, rule="mesa"), ridge=0.4)
    x, y = make_pairs(4, 3, 12)
    before = model(x, y)
    scales = torch.tensor([0.5, 1.0, 2.0, 3.0], dtype=torch.float64)
    assert model.log_ridge is not None
    assert model.log_beta is not None
    with torch.no_grad():  # each key is scaled, and its penalty by the square
        model.W_k.mul_(scales[:, None])
        model.W_q.mul_(scales[:, None])
        model.log_ridge.add_(2 * scales.log() + 1.0)
        model.log_beta.add_(1.0)
    torch.testing.assert_close(model(x, y), before)
    assert effective_penalty(model) == pytest.approx(0.4)
    rescale_(model, 3.0 * torch.eye(4, dtype=torch.float64), 9.0)
    torch.testing.assert_close(model(x, y), before)
    assert effective_penalty(model) == pytest.approx(0.4)
    with pytest.raises(ValueError, match="only rule mesa has a penalty, got delta_rule"):
        effective_penalty(learner(4, 3))
