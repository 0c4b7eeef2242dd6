"""The layer lens names the algorithm that a model was constructed to be, layer by layer."""

from typing import Any

import pytest
import torch
from torch import Tensor

import zoo
from tests.conftest import MakePairs
from tests.zoo.test_online_learner import CONSTRUCTIONS, learner
from tests.zoo.test_probes import episodes
from tests.zoo.test_token_layouts import DEEP, LAYOUTS, create
from zoo.analysis.hidden import hidden_states
from zoo.analysis.lens import Candidate, errors_by_layer, lens, match, nearest, nearness, tuned_lens
from zoo.metrics.alignment import QueryResponse, query_response
from zoo.metrics.classification import cross_entropy
from zoo.metrics.errors import half_squared_error
from zoo.models.gd_ssm import construct_gradient_descent_
from zoo.models.linear_transformer import LinearTransformer
from zoo.models.linear_transformer import construct_gradient_descent_ as construct_transformer_
from zoo.models.online_learner import construct_solver_
from zoo.models.sequence import SequenceModel
from zoo.predictor import Predictor
from zoo.solvers.tuning import log_grid

STEP_SIZES = {"step_size": log_grid(0.05, 2.0, 9)}
STEPS = {
    f"{k} steps": Candidate("gradient_descent", {"num_steps": k}, STEP_SIZES) for k in range(1, 6)
}
OTHERS = {
    "ridge": Candidate("ridge", grid={"penalty": log_grid(1e-3, 10, 7)}),
    "least squares": Candidate("least_squares"),
    "2 conjugate steps": Candidate("conjugate_gradient", {"num_steps": 2}),
    "delta rule": Candidate("online_gradient_descent", grid=STEP_SIZES),
}


def pairs(split: str, num: int = 100, **spec: Any) -> tuple[Tensor, Tensor]:
    x, y, _ = episodes(split, num, inputs={"name": "gaussian"}, **spec)
    return 0.5 * x, y


def step_model(kind: str, num_steps: int, step_size: float) -> Predictor:
    """A model of so many steps of gradient descent."""
    if kind == "gd_ssm":
        gd_ssm = zoo.create_model("gd_ssm", d_x=3, d_y=2, num_steps=num_steps).double()
        return construct_gradient_descent_(gd_ssm, step_size)
    model = zoo.create_model(
        "linear_transformer",
        d_x=3,
        d_y=2,
        num_layers=num_steps,
        shared=kind == "linear_transformer, shared",
    ).double()
    assert isinstance(model, LinearTransformer)
    return construct_transformer_(model, step_size)


@pytest.mark.parametrize("kind", ["gd_ssm", "linear_transformer", "linear_transformer, shared"])
@pytest.mark.parametrize("num_steps", [1, 4])
def test_layer_l_of_a_constructed_model_is_l_steps(kind: str, num_steps: int) -> None:
    model = step_model(kind, num_steps, 0.4)
    lenses = lens(model)
    assert [*lenses] == [*range(1, num_steps + 1)]
    x, y = pairs("test")
    for layer, cut in lenses.items():
        exact = zoo.create_solver("gradient_descent", d_x=3, d_y=2, num_steps=layer, step_size=0.4)
        torch.testing.assert_close(cut(x, y), exact(x, y), rtol=0, atol=1e-12)
        found = nearest(cut, STEPS | OTHERS, pairs("train"), (x, y))
        assert next(iter(found)) == f"{layer} steps"
        named = found[f"{layer} steps"]
        assert named.arguments["step_size"] == pytest.approx(0.4, rel=0.005)
        assert named.cosine > 0.9999
        assert named.difference is not None
        assert named.difference < 1e-3
        for label, other in found.items():
            assert label == f"{layer} steps" or other.cosine < named.cosine
    assert [*found.values()] == sorted(found.values(), key=lambda near: -near.cosine)


@pytest.mark.parametrize("learn_start", [False, True])
@pytest.mark.parametrize("shape_E", ["matrix", "diagonal", "scalar"])
def test_steps_of_their_own_sizes_are_the_last_ones_first(learn_start: bool, shape_E: str) -> None:
    sizes = [0.2, 0.4, 0.8]
    model = zoo.create_model(
        "gd_ssm", d_x=3, d_y=2, num_steps=3, learn_start=learn_start, shape_E=shape_E
    ).double()
    W_0 = torch.ones(2, 3, dtype=torch.float64) if learn_start else None
    construct_gradient_descent_(model, sizes, W_0)
    x, y = pairs("test", 20)
    for layer, cut in lens(model).items():
        expected = zoo.create_model(
            "gd_ssm", d_x=3, d_y=2, num_steps=layer, learn_start=learn_start, shape_E=shape_E
        ).double()
        construct_gradient_descent_(expected, sizes[3 - layer :], W_0)
        torch.testing.assert_close(cut(x, y), expected(x, y), rtol=0, atol=1e-12)
        state = cut.observe(cut.init_state(20), x[:, :-1], y[:, :-1])
        torch.testing.assert_close(cut.predict(state, x[:, -1:]), cut(x, y)[:, -1:])


@pytest.mark.parametrize(("arguments", "construction", "name", "of_solver"), CONSTRUCTIONS)
def test_the_solver_of_every_constructed_learner_is_named(
    arguments: dict[str, Any],
    construction: dict[str, float],
    name: str,
    of_solver: dict[str, Any],
) -> None:
    model = construct_solver_(learner(3, 2, **arguments), **construction)
    lenses = lens(model)
    assert [*lenses] == [1]
    # Of every family, with the number of passes and the window as they are.
    candidates = {
        "weighted_gradient_descent": Candidate(
            "weighted_gradient_descent", {"forgetting": 0.9}, STEP_SIZES
        ),
        "gradient_descent": Candidate("gradient_descent", {}, STEP_SIZES),
        "online_gradient_descent": Candidate("online_gradient_descent", {}, STEP_SIZES),
        "online_gradient_descent, 0.9": Candidate(
            "online_gradient_descent", {"forgetting": 0.9}, STEP_SIZES
        ),
        "online_gradient_descent, 0.8": Candidate(
            "online_gradient_descent", {"forgetting": 0.8}, STEP_SIZES
        ),
        "online_gradient_descent, 3 passes": Candidate(
            "online_gradient_descent", {"num_passes": 3}, STEP_SIZES
        ),
        "longhorn": Candidate("longhorn", {}, STEP_SIZES),
        "ridge": Candidate("ridge", {}, {"penalty": log_grid(0.05, 2, 9)}),
        "ridge, 0.9": Candidate("ridge", {"forgetting": 0.9}, {"penalty": log_grid(0.05, 2, 9)}),
        "minibatch_gradient_descent": Candidate(
            "minibatch_gradient_descent", {"window": 4}, {"step_size": log_grid(0.01, 1, 9)}
        ),
    }
    found = nearest(lenses[1], candidates, pairs("train", 100), pairs("test", 100))
    label, named = next(iter(found.items()))
    assert label.partition(",")[0] == name
    assert named.cosine > 0.9995
    for argument, value in of_solver.items():
        assert named.arguments[argument] == pytest.approx(value, rel=0.005)


@pytest.mark.parametrize("name", DEEP)
@pytest.mark.parametrize("tokens", LAYOUTS)
def test_layers_of_deep_models_are_read_out_by_the_model(
    name: str, tokens: str, make_pairs: MakePairs
) -> None:
    model = create(name, tokens, y_scale=0.5)
    x, y = make_pairs(4, 2, 5)
    lenses, hidden = lens(model), hidden_states(model, x, y)
    assert [*lenses] == [0, 1, 2]
    for layer, cut in lenses.items():
        expected = model.readout(model.norm(hidden.queries[layer])) / 0.5
        torch.testing.assert_close(cut(x, y), expected, rtol=0, atol=0)
        state = cut.observe(cut.init_state(3), x[:, :-1], y[:, :-1])
        torch.testing.assert_close(cut.predict(state, x[:, -1:])[:, 0], expected[:, -1])
    state = model.observe(model.init_state(3), x[:, :-1], y[:, :-1])  # its own is as it was
    torch.testing.assert_close(model.predict(state, x[:, -1:]), model(x, y)[:, -1:])


def test_a_block_that_does_nothing_leaves_the_algorithm_as_it_is() -> None:
    model = create("delta_net", "pairs", d_x=3)
    with torch.no_grad():
        for name, parameter in model.blocks[1].named_parameters():
            if "o_proj" in name or "down_proj" in name:
                parameter.zero_()
    x, y = pairs("test", 50)
    errors = errors_by_layer(lens(model), x, y, y)
    assert torch.equal(errors[1], errors[2])
    assert not torch.equal(errors[0], errors[1])
    assert torch.equal(errors[2], half_squared_error(model(x, y), y))
    assert errors[0].shape == (50, 7)


def test_the_tuned_readout_of_the_last_layer_is_that_of_the_model() -> None:
    model = create("transformer", "interleaved", d_x=3, d_model=16, y_scale=2.0)
    x, y = pairs("test", 60)
    own, tuned = lens(model), tuned_lens(model, *pairs("train"))
    answer = model(x, y)
    torch.testing.assert_close(tuned[2](x, y), answer)
    assert not torch.equal(tuned[1](x, y), own[1](x, y))

    def apart_from_answer(cut: Predictor) -> float:
        return (cut(x, y) - answer).square().mean().item()

    for layer in (0, 1):
        assert apart_from_answer(tuned[layer]) < apart_from_answer(own[layer])
    assert torch.equal(model(x, y), answer)


def test_the_query_alone_says_nothing_of_the_labels() -> None:
    """Layer 0 sees no example: its tuned readout is no algorithm, whatever it is compared with."""
    model = create_small("transformer")
    cut = tuned_lens(model, *pairs("train"))[0]
    found = nearest(cut, OTHERS, pairs("train"), pairs("test"))
    assert max(abs(near.cosine) for near in found.values()) < 0.2


def create_small(name: str) -> SequenceModel:
    return create(name, "interleaved", d_x=3, d_model=16)


def test_predictions_that_are_zero_are_near_nothing() -> None:
    zero = zoo.create_solver("zero", d_x=3, d_y=2)
    found = nearest(zero, OTHERS, pairs("train", 20), pairs("test", 20))
    for near in found.values():
        assert near[:3] == (None, None, None)
        assert near.cosine == 0


def test_what_a_candidate_leaves_open_is_fitted_to_the_predictions() -> None:
    ridge = zoo.create_solver("ridge", d_x=3, d_y=2, penalty=0.37)
    solver, arguments = match(OTHERS["ridge"], ridge, *pairs("train"))
    assert arguments["penalty"] == pytest.approx(0.37, rel=0.005)
    x, y = pairs("test")
    torch.testing.assert_close(solver(x, y), ridge(x, y), rtol=0, atol=0.005)
    _, arguments = match(Candidate("ridge", {"penalty": 3.0}), ridge, x, y)
    assert arguments == {"penalty": 3.0}


def test_arguments_that_hang_together_are_found_together() -> None:
    """Two numbers of GD++ from a grid that has neither, as exactly as one."""
    sizes = {"step_size": log_grid(0.1, 5, 5), "gamma": log_grid(0.02, 2, 5)}
    exact = zoo.create_solver(
        "gradient_descent_plus_plus", d_x=3, d_y=2, num_steps=3, step_size=0.63, gamma=0.17
    )
    candidate = Candidate("gradient_descent_plus_plus", {"num_steps": 3}, sizes)
    _, arguments = match(candidate, exact, *pairs("train"))
    assert arguments == {
        "num_steps": 3,
        "step_size": pytest.approx(0.63, rel=0.02),
        "gamma": pytest.approx(0.17, rel=0.05),
    }
    found = nearest(exact, {"GD++": candidate} | OTHERS, pairs("train"), pairs("test"))
    assert next(iter(found)) == "GD++"
    assert found["GD++"].cosine > 0.9999


def test_nothing_beyond_a_grid_is_tried() -> None:
    ridge = zoo.create_solver("ridge", d_x=3, d_y=2, penalty=30.0)
    _, arguments = match(OTHERS["ridge"], ridge, *pairs("train"))
    assert arguments == {"penalty": 10}
    with pytest.raises(ValueError, match="only values above zero"):
        match(Candidate("ridge", grid={"penalty": (0.0, 1.0)}), ridge, *pairs("train"))


@pytest.mark.parametrize("wrong", [lambda t: t[:, -1], lambda t: t[..., 0], lambda t: t[:1]])
def test_a_target_of_another_shape_is_not_broadcast(wrong: Any) -> None:
    x, y = pairs("test", 20)
    with pytest.raises(ValueError, match="target must have the shape of y"):
        errors_by_layer(lens(step_model("gd_ssm", 2, 0.4)), x, y, wrong(y))


def test_predictions_that_are_not_finite_are_near_nothing() -> None:
    model, (x, y) = step_model("gd_ssm", 2, 0.4), pairs("test", 20)
    bad = x.clone()
    bad[3, 2] = torch.nan
    for name in ("ridge", "2 conjugate steps"):
        with pytest.raises(ValueError, match="predictions of the layer must be finite, got 2 of"):
            nearest(model, {name: OTHERS[name]}, pairs("train", 20), (bad, y))
    with pytest.raises(ValueError, match="predictions of the layer must be finite, got 2 of 40"):
        match(OTHERS["ridge"], model, bad, y)


@pytest.mark.parametrize(
    ("fixed", "grid", "said"),
    [
        ({}, {"penalty": 1.0}, "one value or more of penalty, got 1.0"),
        ({}, {"penalty": torch.ones(2)}, "a tuple or a list of one value or more of penalty"),
        ({}, 1.0, r"grid must have arguments by name, such as {'penalty': ...}, got 1.0"),
        (2, {}, "fixed must have arguments by name, .*, got 2"),
        ({}, {"penalty": ()}, r"one value or more of penalty, got \(\)"),
        ({"penalty": 1.0}, {"penalty": (1.0, 2.0)}, r"either fixed or fitted, got both of \['pen"),
        ({}, {"num_steps": (1, 2, 4)}, "such as fixed={'num_steps': 1}"),
    ],
)
def test_what_cannot_be_fitted_is_no_candidate(fixed: Any, grid: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Candidate("ridge", fixed, grid)


def test_what_has_no_layers_or_no_such_predictions_is_refused() -> None:
    with pytest.raises(ValueError, match="only models have layers, got Ridge"):
        lens(zoo.create_solver("ridge", d_x=3, d_y=2, penalty=1.0))
    model = create_small("s5")
    with pytest.raises(ValueError, match="needs at least one candidate"):
        nearest(model, {}, pairs("train", 20), pairs("test", 20))
    with pytest.raises(ValueError, match=r"such as Candidate\(.*, got 'ridge' as 'a'"):
        nearest(model, {"a": "ridge"}, pairs("train", 20), pairs("test", 20))  # type: ignore[dict-item]
    classes = Candidate("softmax_gradient_descent", {"step_size": 0.1})
    with pytest.raises(ValueError, match="predicts logits, the layer value"):
        nearest(model, {"": classes}, pairs("train", 20), pairs("test", 20))


def test_responses_of_one_episode_are_not_broadcast() -> None:
    x, y = pairs("test", 40)
    f = query_response(step_model("gd_ssm", 2, 0.4), x, y)
    g = query_response(zoo.create_solver("ridge", d_x=3, d_y=2, penalty=1.0), x, y)
    for name, wrong in (
        ("predictions", QueryResponse(g.prediction[:1], g.jacobian)),
        ("Jacobians", QueryResponse(g.prediction, g.jacobian[:1])),
    ):
        with pytest.raises(ValueError, match=f"{name} of the algorithm must have the shape of"):
            nearness(f, wrong, {})


def test_errors_of_logits_are_cross_entropies() -> None:
    model = create("transformer", "interleaved", d_x=3, d_model=16, output="logits")
    x, y = pairs("test", 20)
    y = torch.nn.functional.one_hot(y.argmax(-1), 2).to(x)
    errors = errors_by_layer(lens(model), x, y, y)
    torch.testing.assert_close(errors[2], cross_entropy(model(x, y), y))
    assert errors[0].shape == (20, 7)
