"""What algorithms are told of the episodes, and what is fitted."""

from typing import Any

import pytest
import torch

import zoo
from datamodules import EpisodeSpec, create_sampler
from datamodules.stream import EVAL_SEED, Generators
from zoo import references
from zoo.references import (
    arguments_for,
    best_schedule,
    closed_form_of,
    create_reference,
    facts_of,
    linear_moments,
    references_of,
)
from zoo.solvers.moment import GradientDescent
from zoo.solvers.theory import optimal_forgetting, optimal_half_mse, optimal_step_size
from zoo.solvers.tuning import tune


def spec_of(**fields: object) -> EpisodeSpec:
    return EpisodeSpec.model_validate({"d_x": 3, "d_y": 1, "num_context": 8, **fields})


def test_references_know_what_the_episodes_say() -> None:
    noisy = spec_of(noise=0.5, function={"scale": 2.0})  # type: ignore[arg-type]
    assert create_reference("ridge", noisy, {}).penalty == pytest.approx(0.25 / 4)
    moments = linear_moments(noisy)
    assert moments is not None
    assert create_reference("gradient_descent", noisy, {}).step_size == optimal_step_size(moments)
    assert create_reference("ridge", noisy, {"penalty": 3.0}).penalty == 3.0
    sparse = spec_of(d_x=5, function={"name": "sparse_linear"})  # type: ignore[arg-type]
    assert linear_moments(sparse) is None
    pool = EpisodeSpec(
        d_x=3,
        d_y=2,
        noise=0.1,
        function={"name": "linear_pool", "pool_size": 4},  # type: ignore[arg-type]
    )
    dmmse = create_reference("dmmse", pool, {})
    x = torch.randn(6, 9, 3)
    j = torch.arange(6) % 4
    W = pool.function.pool(3, 2)[j]  # type: ignore[union-attr]
    torch.testing.assert_close(dmmse.predict_query(x, x @ W.mT), (x @ W.mT)[:, -1])
    with pytest.raises(ValueError, match="'pool' is missing"):
        create_reference("dmmse", noisy, {})


def test_the_closed_form_knows_the_scale_of_the_inputs() -> None:
    one, two = (
        create_reference("gradient_descent", spec_of(input_scale=scale), {}).step_size
        for scale in (1.0, 2.0)
    )
    assert two == pytest.approx(one / 4)


def test_the_best_schedule_knows_the_scale_of_functions() -> None:
    spec, larger = spec_of(), spec_of(function={"name": "linear", "scale": 2.0})
    (one, expected), (other, expected_larger) = (best_schedule(s, 2) for s in (spec, larger))
    assert one.step_sizes == pytest.approx(other.step_sizes)
    assert expected_larger == pytest.approx(4 * expected)


def test_models_of_several_steps_meet_the_best_schedule() -> None:
    spec = spec_of(function={"scale": 2.0})
    found = references_of(spec, {"name": "gd_ssm", "num_steps": 2})
    test = create_sampler(spec).sample(20_000, Generators(EVAL_SEED, "test", 0, "cpu"))
    x, y, target = test.x, test.y, test.target
    losses = {
        name: 0.5 * (solver.predict_query(x, y) - target[:, -1]).square().flatten(1).mean(1)
        for name, solver in found.items()
    }
    _, expected = best_schedule(spec, 2)
    assert losses["best_schedule_2"].mean().item() == pytest.approx(expected, rel=0.05)
    assert losses["best_schedule_2"].mean() < 0.99 * losses["gradient_descent_2"].mean()
    for other in ({"num_steps": 1}, {"num_layers": 2}, {"num_steps": 17}):
        assert not any("best" in name for name in references_of(spec, other))
    with pytest.raises(ValueError, match="num_steps must be at most 16, got 17"):
        best_schedule(spec, 17)


def test_algorithms_made_for_a_family_stand_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoo.references.TUNE_EPISODES", 200)
    one = {"num_steps": 1}
    sine = spec_of(function={"name": "sine"}, d_x=1)  # type: ignore[arg-type]
    assert {"fixed_features", "random_features_ridge", "knn"} <= set(references_of(sine, one))
    test = create_sampler(sine).sample(500, Generators(EVAL_SEED, "test", 0, "cpu"))
    exact = references_of(sine, one)["fixed_features"]
    assert (exact.predict_query(test.x, test.y) - test.target[:, -1]).abs().max() < 1e-4
    sparse = spec_of(function={"name": "sparse_linear"}, d_x=10, num_context=8)  # type: ignore[arg-type]
    test = create_sampler(sparse).sample(500, Generators(EVAL_SEED, "test", 0, "cpu"))
    errors = {
        name: (solver.predict_query(test.x, test.y) - test.target[:, -1]).square().mean()
        for name, solver in references_of(sparse, one).items()
    }
    assert errors["lasso"] < 0.5 * errors["least_squares"]
    steps = references_of(spec_of(), {"num_steps": 3})
    assert steps["conjugate_gradient_3"].num_steps == 3
    relu = references_of(spec_of(function={"name": "relu_network"}), one)
    assert "knn" in relu
    assert "two_layer_network" not in relu


def test_the_penalty_of_a_ridge_that_forgets_is_fitted() -> None:
    noisy = spec_of(noise=0.5)
    assert create_reference("ridge", noisy, {"forgetting": 1.0}).penalty == 0.25
    assert create_reference("ridge", noisy, {"forgetting": 0.8}).penalty != 0.25


@pytest.mark.parametrize("name", ["ridge", "online_gradient_descent"])
def test_where_weights_drift_algorithms_that_can_forget_are_fitted_to_do_so(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zoo.references.TUNE_EPISODES", 500)
    drift = spec_of(function={"name": "linear_drift", "rho": 0.9}, num_context=12)  # type: ignore[arg-type]
    episodes = create_sampler(drift).sample(500, Generators(EVAL_SEED, "tune", 0, "cpu"))

    def loss(given: dict[str, Any]) -> float:
        predicted = create_reference(name, drift, given).predict_query(episodes.x, episodes.y)
        return (predicted - episodes.target[:, -1]).square().mean().item()

    assert arguments_for(name, drift, {})["forgetting"] < 0.98
    assert loss({}) < 0.98 * loss({"forgetting": 1.0})
    assert "forgetting" not in arguments_for(name, spec_of(noise=0.5), {})


@pytest.mark.parametrize(
    "fields",
    [
        {"noise": 0.1},
        {"distractors": {"count": 1}},
        {"outliers": {"probability": 0.1}},
        {"function": {"name": "linear_drift"}},
        {"function": {"name": "sparse_linear"}},
        {"function": {"name": "linear", "mean_scale": 1.0}},
        {"function": {"name": "sine"}, "d_x": 1},
        {"inputs": {"name": "sign"}, "d_x": 1},
        {"inputs": {"name": "laplace"}},
        {"inputs": {"name": "sphere"}},
        {"inputs": {"name": "ill_conditioned"}},
    ],
)
def test_the_best_schedule_is_for_clean_episodes_alone(
    fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zoo.references.TUNE_EPISODES", 20)
    spec = spec_of(**fields)
    assert not any("best" in name for name in references_of(spec, {"num_steps": 2}))
    with pytest.raises(ValueError, match="the best schedule is not known for"):
        best_schedule(spec, 2)


def test_the_kalman_filter_knows_the_drift() -> None:
    spec = spec_of(function={"name": "linear_drift", "rho": 0.7, "scale": 2.0}, noise=0.3)
    expected = zoo.create_solver(
        "kalman_filter", d_x=3, d_y=1, transition=0.7, noise_variance=0.09, weight_variance=4.0
    )
    x, y = torch.randn(4, 9, 3), torch.randn(4, 9, 1)
    found = create_reference("kalman_filter", spec, {})
    torch.testing.assert_close(found(x, y), expected(x, y))


def test_a_step_that_forgets_knows_the_drift() -> None:
    spec = spec_of(function={"name": "linear_drift", "rho": 0.9}, num_context=20)  # type: ignore[arg-type]
    best = create_reference("weighted_gradient_descent", spec, {})
    slow = create_reference("weighted_gradient_descent", spec, {"forgetting": 0.95})
    plain = create_reference("gradient_descent", spec, {})
    moments = linear_moments(spec)
    assert moments is not None
    assert best.forgetting == optimal_forgetting(moments) < 0.9
    assert best.step_size == optimal_step_size(moments, best.forgetting)
    assert (slow.step_size, slow.forgetting) == (optimal_step_size(moments, 0.95), 0.95)
    assert plain.step_size == optimal_step_size(moments)
    for wrong in ("abc", -0.5, 1.5):
        with pytest.raises(ValueError, match="forgetting"):
            create_reference("weighted_gradient_descent", spec, {"forgetting": wrong})
    # A step that is too long is mended by forgetting more.
    long = create_reference("weighted_gradient_descent", spec, {"step_size": 2 * best.step_size})
    assert long.step_size == 2 * best.step_size
    assert long.forgetting < best.forgetting - 0.05
    # No example says anything of the query: none is best, and a small one of the grid is taken.
    lost = spec_of(function={"name": "linear_drift", "rho": 0.0})  # type: ignore[arg-type]
    assert create_reference("gradient_descent", lost, {}).step_size < 0.1 * plain.step_size


def test_the_closed_form_is_that_of_the_best_single_step() -> None:
    drift = spec_of(function={"name": "linear_drift", "rho": 0.9}, num_context=20)  # type: ignore[arg-type]
    moments = linear_moments(drift)
    assert moments is not None
    assert closed_form_of(drift) < 0.95 * optimal_half_mse(moments)  # type: ignore[operator]
    still = spec_of()
    moments = linear_moments(still)
    assert moments is not None
    assert closed_form_of(still) == optimal_half_mse(moments)


def test_optimal_predictors_are_left_out_where_they_cannot_be_told_or_are_not() -> None:
    for function, name in (
        ({"name": "linear_drift", "rho": 0.9}, "kalman_filter"),
        ({"name": "linear_pool", "pool_size": 4}, "dmmse"),
    ):
        clean = spec_of(function=function, noise=0.1)
        assert name in references_of(clean, {})
        assert name not in references_of(spec_of(function=function, distractors={"count": 2}), {})


def test_without_drift_and_noise_there_is_no_kalman_filter() -> None:
    function = {"name": "linear_drift", "rho": 1.0}
    names = references_of(spec_of(function=function), {"name": "gd_ssm"})
    assert "kalman_filter" not in names
    assert "recursive_least_squares" in names
    assert "kalman_filter" in references_of(spec_of(function=function, noise=0.1), {})


@pytest.mark.parametrize(
    "dirt",
    [
        {"distractors": {"count": 3}},
        {"outliers": {"probability": 0.4}},
        {"inputs": {"name": "preconditioned"}},
    ],
)
def test_where_the_theory_does_not_hold_the_penalty_is_fitted(dirt: dict[str, object]) -> None:
    spec = spec_of(noise=0.1, **dirt)
    assert create_reference("ridge", spec, {}).penalty != pytest.approx(0.01)
    with pytest.raises(ValueError, match="is missing"):
        create_reference("kalman_filter", spec, {})
    if "inputs" not in dirt:
        assert (linear_moments(spec) is None) == ("outliers" in dirt)


def test_several_steps_are_fitted_and_better_than_the_step_size_of_one() -> None:
    spec = EpisodeSpec()  # d = N = 10: one step takes 0.606, each of eight 0.53
    fitted = create_reference("gradient_descent", spec, {"num_steps": 8})
    one_step = create_reference("gradient_descent", spec, {})
    assert fitted.step_size < 0.92 * one_step.step_size
    test = create_sampler(spec).sample(4_000, Generators(EVAL_SEED, "test", 0, "cpu"))

    def loss(step_size: float) -> float:
        solver = zoo.create_solver(
            "gradient_descent", d_x=10, d_y=10, num_steps=8, step_size=step_size
        )
        return (solver.predict_query(test.x, test.y) - test.target[:, -1]).square().mean().item()

    best = loss(fitted.step_size)
    assert best < min(loss(factor * fitted.step_size) for factor in (0.9, 1.1))


@pytest.mark.parametrize(
    ("fields", "name", "given", "expected"),
    [
        ({"noise": 0.5, "function": {"scale": 2.0}}, "ridge", {}, {"penalty": 0.0625}),
        (
            {"noise": 0.5, "function": {"scale": 2.0}},
            "gradient_descent",
            {},
            {"step_size": 1.0389610389610389},
        ),
        (
            {"noise": 0.5, "function": {"scale": 2.0}},
            "gradient_descent",
            {"num_steps": 3},
            {"num_steps": 3, "step_size": 1.028918211780225},
        ),
        (
            {"function": {"name": "linear_drift", "rho": 0.9}, "num_context": 10},
            "weighted_gradient_descent",
            {},
            {"step_size": 1.8370871508116473, "forgetting": 0.754973048660805},
        ),
        (
            {"function": {"name": "linear_drift", "rho": 0.9}, "num_context": 10},
            "recursive_least_squares",
            {},
            {"penalty": 8.333333333333332, "forgetting": 0.5},
        ),
        (
            {"function": {"name": "sine"}, "d_x": 1},
            "random_features_ridge",
            {},
            {"bandwidth": 1.3399112812769498, "penalty": 1e-12},
        ),
    ],
)
def test_what_is_known_and_fitted_stays_as_it_is(
    fields: dict[str, Any],
    name: str,
    given: dict[str, Any],
    expected: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(references, "TUNE_EPISODES", 100)
    assert references.arguments_for(name, spec_of(**fields), given) == expected


def test_a_pool_without_noise_has_no_dmmse() -> None:
    function = {"name": "linear_pool", "pool_size": 4}
    assert "dmmse" not in references_of(spec_of(function=function), {})


def test_no_comparison_sees_the_episodes_that_are_fitted_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []

    def spy(name: str, grid: Any, x: torch.Tensor, *rest: Any, fixed: Any) -> dict[str, Any]:
        seen.append(x)
        return tune(name, grid, x, *rest, fixed=fixed)

    monkeypatch.setattr(references, "tune", spy)
    spec = spec_of()
    create_reference("gradient_descent", spec, {"num_steps": 2})
    for split in ("train", "val", "test"):
        generators = Generators(EVAL_SEED, split, 0, "cpu")  # type: ignore[arg-type]
        drawn = create_sampler(spec).sample(len(seen[0]), generators).x
        assert not torch.isin(seen[0], drawn).all(-1).any()


def test_an_edge_of_the_grid_is_not_left_by_refining() -> None:
    hopeless = spec_of(function={"name": "sparse_parity"}, inputs={"name": "sign"}, d_x=8)
    fitted = create_reference("gradient_descent", hopeless, {}).step_size
    assert fitted == pytest.approx(min(GradientDescent.grid(facts_of(hopeless))["step_size"]))
