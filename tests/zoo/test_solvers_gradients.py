"""Gradients of every solver with respect to inputs, labels and query, against differences."""

from typing import Any

import pytest
import torch
from torch import Tensor

import zoo
from tests.conftest import MakePairs
from zoo.registry import list_solvers
from zoo.solvers.solver import solver_of

SYMBOLS = "they read symbols, which inputs change in steps"
NOT_OFFERED = {
    "boosted_trees": "scikit-learn fits them, and they are constant between their thresholds",
    "context_ngrams": SYMBOLS,
    "decision_tree": "scikit-learn fits it, and it is constant between its thresholds",
    "fitted_ngrams": SYMBOLS,
    "group_table": SYMBOLS,
    "list_ops_parser": SYMBOLS,
    "symbol_copy": SYMBOLS,
    "symbol_lookup": SYMBOLS,
}
DIFFERENTIABLE = [name for name in list_solvers() if name not in NOT_OFFERED]

# Cases beside the example of every solver in which it takes another way through its code.
FURTHER: list[tuple[str, dict[str, Any]]] = [
    ("conjugate_gradient", {"num_steps": 6}),  # converged before its last step
    ("kalman_filter", {"transition": 0.9, "noise_variance": 0.0}),
    ("knn", {"weighting": "inverse_distance"}),
    ("newton", {"num_steps": 200}),
    ("ridge", {"penalty": 1e-11}),  # lost in the rounding of A
]
CASES = [(name, solver_of(name).example(4, 2)) for name in DIFFERENTIABLE] + FURTHER


def solver_and_pairs(
    name: str, arguments: dict[str, Any], num_context: int
) -> tuple[zoo.Predictor, Tensor, Tensor]:
    """A solver for d_x = 4 and d_y = 2, and pairs whose inputs are far from dependent."""
    generator = torch.Generator().manual_seed(3)
    axes = torch.eye(4, dtype=torch.float64).repeat(2, 1)[: num_context + 1]
    noise = torch.randn(2, num_context + 1, 6, generator=generator, dtype=torch.float64)
    x, y = axes + 0.3 * noise[..., :4], noise[..., 4:] + axes[:, :2]
    solver = zoo.create_solver(name, d_x=4, d_y=2, **arguments)
    return solver, x.requires_grad_(), y.requires_grad_()


def streamed(solver: zoo.Predictor, x: Tensor, y: Tensor) -> Tensor:
    """`predict_query` by way of the state."""
    state = solver.observe(solver.init_state(len(x), dtype=x.dtype), x[:, :2], y[:, :2])
    state = solver.observe(state, x[:, 2:-1], y[:, 2:-1])
    return solver.predict(state, x[:, -1:])[:, 0]


@pytest.mark.parametrize(("name", "arguments"), CASES)
@pytest.mark.parametrize("num_context", [2, 7])
def test_gradients_are_those_of_finite_differences(
    name: str, arguments: dict[str, Any], num_context: int
) -> None:
    solver, x, y = solver_and_pairs(name, arguments, num_context)
    for method in (solver, solver.predict_query, lambda x, y: streamed(solver, x, y)):
        torch.autograd.gradcheck(
            # `zero`, and others without examples, do not depend on what they are given.
            lambda x, y, method=method: method(x, y) + 0 * x.sum() + 0 * y.sum(),
            (x, y),
            eps=1e-4,
            atol=2e-4,
            fast_mode=True,
        )


@pytest.mark.parametrize("name", ["least_squares", "newton", "ridge", "ridge_evidence"])
def test_equal_eigenvalues_have_gradients(name: str, make_pairs: MakePairs) -> None:
    arguments = solver_of(name).example(4, 2) | {"newton": {"num_steps": 40}}.get(name, {})
    solver = zoo.create_solver(name, d_x=4, d_y=2, **arguments)
    x, y = make_pairs(4, 2, 9)
    x[:, :-1] = torch.eye(4, dtype=x.dtype).repeat(2, 1)
    x.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: solver.predict_query(x, y), x, fast_mode=True)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients_are_finite_where_examples_are_zero_or_repeated(
    name: str, make_pairs: MakePairs
) -> None:
    solver = zoo.create_solver(name, d_x=4, d_y=2, **solver_of(name).example(4, 2))
    x, y = make_pairs(4, 2, 7)
    x[:, 1:3], y[:, 1:3] = x[:, :1], y[:, :1]
    x[:, 3:5], y[:, 3:5] = 0.0, 0.0
    x.requires_grad_(), y.requires_grad_()
    for prediction in (solver(x, y), solver.predict_query(x, y)):
        total = prediction.sum() + 0 * x.sum() + 0 * y.sum()
        for gradient in torch.autograd.grad(total, (x, y)):
            assert gradient.isfinite().all()


def test_inverse_distances_have_finite_gradients_at_an_example(make_pairs: MakePairs) -> None:
    solver = zoo.create_solver("knn", d_x=4, d_y=2, weighting="inverse_distance")
    x, y = make_pairs(4, 2, 7)
    x[:, -1] = x[:, 2]
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(solver.predict_query(x, y).sum(), x)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("name", NOT_OFFERED)
def test_where_gradients_are_not_offered_asking_for_them_raises(
    name: str, make_pairs: MakePairs
) -> None:
    pytest.importorskip("sklearn")
    solver = zoo.create_solver(name, d_x=4, d_y=2, **solver_of(name).example(4, 2))
    x, y = (part.requires_grad_() for part in make_pairs(4, 2, 7))
    with pytest.raises(RuntimeError, match="does not require grad"):
        solver.predict_query(x, y).sum().backward()
