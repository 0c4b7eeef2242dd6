"""The bare layer of fast weights, beside the solver that each of its rules is."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import zoo
from tests.conftest import MakePairs
from zoo.models.online_learner import DECAYS, OnlineLearner, construct_solver_

# Arguments of the model, of the construction, and the solver with its arguments.
CONSTRUCTIONS: list[tuple[dict[str, Any], dict[str, float], str, dict[str, Any]]] = [
    (
        {"rule": "gated_linear_attention", "decay": "head"},
        {"step_size": 0.3, "forgetting": 0.9},
        "weighted_gradient_descent",
        {"step_size": 0.3, "forgetting": 0.9},
    ),
    (
        {"rule": "gated_linear_attention"},
        {"step_size": 0.3},
        "gradient_descent",
        {"step_size": 0.3},
    ),
    ({"rule": "delta_rule"}, {"step_size": 0.2}, "online_gradient_descent", {"step_size": 0.2}),
    (
        {"rule": "gated_delta_rule", "decay": "head"},
        {"step_size": 0.2, "forgetting": 0.9},
        "online_gradient_descent",
        {"step_size": 0.2, "forgetting": 0.9},
    ),
    (
        {"rule": "gated_delta_rule", "decay": "key"},
        {"step_size": 0.2, "forgetting": 0.8},
        "online_gradient_descent",
        {"step_size": 0.2, "forgetting": 0.8},
    ),
    (
        {"rule": "delta_product", "num_updates": 3},
        {"step_size": 0.2},
        "online_gradient_descent",
        {"step_size": 0.2, "num_passes": 3},
    ),
    ({"rule": "longhorn"}, {"step_size": 0.7}, "longhorn", {"step_size": 0.7}),
    ({"rule": "mesa"}, {"ridge": 0.4}, "ridge", {"penalty": 0.4}),
    (
        {"rule": "mesa", "decay": "head"},
        {"ridge": 0.4, "forgetting": 0.9},
        "ridge",
        {"penalty": 0.4, "forgetting": 0.9},
    ),
    (
        {"rule": "test_time_training", "mini_batch": 4},
        {"step_size": 0.05},
        "minibatch_gradient_descent",
        {"step_size": 0.05, "window": 4},
    ),
]
MODELS = [
    {"rule": rule, "decay": decay, **more}
    for rule, decays in DECAYS.items()
    for decay in decays
    for more in (
        [{"num_updates": 1}, {"num_updates": 2}]
        if rule == "delta_product"
        else [{"mini_batch": 1}, {"mini_batch": 3}]
        if rule == "test_time_training"
        else [{}]
    )
]


def learner(d_x: int, d_y: int, **arguments: Any) -> OnlineLearner:
    torch.manual_seed(0)
    model = zoo.create_model("online_learner", d_x=d_x, d_y=d_y, **arguments)
    assert isinstance(model, OnlineLearner)
    return model.double()


@pytest.mark.parametrize(("arguments", "construction", "name", "of_solver"), CONSTRUCTIONS)
@pytest.mark.parametrize(("d_x", "d_y"), [(1, 1), (5, 1), (4, 3), (3, 6)])
def test_each_rule_can_be_constructed_to_be_its_solver_at_every_prefix(
    d_x: int,
    d_y: int,
    arguments: dict[str, Any],
    construction: dict[str, float],
    name: str,
    of_solver: dict[str, Any],
    make_pairs: MakePairs,
) -> None:
    model = construct_solver_(learner(d_x, d_y, **arguments), **construction)
    solver = zoo.create_solver(name, d_x=d_x, d_y=d_y, **of_solver)
    x, y = make_pairs(d_x, d_y, 23)
    torch.testing.assert_close(model(0.5 * x, y), solver(0.5 * x, y), rtol=0, atol=1e-10)


@pytest.mark.parametrize("arguments", MODELS)
def test_pairs_one_by_one_or_in_any_parts_are_the_same_as_all_at_once(
    arguments: dict[str, Any], make_pairs: MakePairs
) -> None:
    model = learner(4, 2, **arguments)
    x, y = make_pairs(4, 2, 20)
    expected = model(x, y)
    state, one_by_one = model.init_state(3), model.init_state(3)
    torch.testing.assert_close(model.predict(state, x[:, :1]), expected[:, :1])
    for start, stop in [(0, 1), (1, 3), (3, 3), (3, 10), (10, 19)]:
        state = model.observe(state, x[:, start:stop], y[:, start:stop])
        prediction = model.predict(state, x[:, stop : stop + 1])
        torch.testing.assert_close(prediction, expected[:, stop : stop + 1])
    for i in range(19):
        one_by_one = model.observe(one_by_one, x[:, i : i + 1], y[:, i : i + 1])
    torch.testing.assert_close(one_by_one, state)


@pytest.mark.parametrize("arguments", MODELS)
def test_every_parameter_of_every_rule_receives_a_gradient_also_under_vmap(
    arguments: dict[str, Any], make_pairs: MakePairs
) -> None:
    model = learner(4, 2, **arguments)
    x, y = make_pairs(4, 2, 9)
    model(x, y).square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
    # Of two replicas, the second of which is another model.
    parameters = {n: torch.stack([p, 0.7 * p]).detach() for n, p in model.named_parameters()}

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        prediction: Tensor = torch.func.functional_call(model, parameters, (x, y))
        return prediction.square().mean()

    together = torch.vmap(torch.func.grad(loss))(parameters)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(together[name][0], parameter.grad)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.7)
    model.zero_grad()
    model(x, y).square().mean().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(together[name][1], parameter.grad)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rule": "delta_rule", "decay": "head"}, "rule delta_rule must be 'none', got 'head'"),
        ({"rule": "gated_delta_rule"}, "must be 'head' or 'key', got 'none'"),
        ({"rule": "mesa", "num_updates": 2}, "num_updates is of rule delta_product, got mesa"),
        ({"mini_batch": 2}, "mini_batch is of rule test_time_training, got delta_rule"),
        ({"rule": "delta"}, "rule: Input should be 'gated_linear_attention', "),
    ],
)
def test_what_a_rule_cannot_do_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        learner(3, 2, **arguments)


@pytest.mark.parametrize(
    ("arguments", "construction", "message"),
    [
        ({}, {}, "delta_rule needs a positive step_size, got None"),
        ({}, {"step_size": -1.0}, "needs a positive step_size, got -1.0"),
        ({}, {"step_size": 0.1, "ridge": 1.0}, "delta_rule has no ridge, got 1.0"),
        ({}, {"step_size": 0.1, "forgetting": 0.9}, "got 0.9 with no decay"),
        ({"rule": "mesa"}, {"ridge": 1.0, "step_size": 0.1}, "mesa has no step_size, got 0.1"),
        ({"rule": "mesa"}, {"ridge": math.nan}, "ridge must be a finite number, got nan"),
        ({}, {"step_size": "a"}, "step_size must be a finite number, got 'a'"),
        (
            {"rule": "mesa", "decay": "head"},
            {"ridge": 1.0, "forgetting": 1.5},
            "forgetting must be positive and at most 1, .* got 1.5 with a decay",
        ),
    ],
)
def test_a_construction_that_a_rule_has_no_place_for_is_refused(
    arguments: dict[str, Any], construction: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        construct_solver_(learner(3, 2, **arguments), **construction)


def test_other_models_have_no_such_construction() -> None:
    deep: Any = zoo.create_model("delta_net", d_x=4, d_y=3)
    with pytest.raises(ValueError, match="needs an online_learner, got DeltaNet"):
        construct_solver_(deep, step_size=0.3)
