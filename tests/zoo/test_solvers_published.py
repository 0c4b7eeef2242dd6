"""Solvers that carry a paper's name, against loops written from the paper's formulas."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import zoo
from datamodules import EpisodeSpec, create_sampler
from datamodules.stream import EVAL_SEED, Generators
from tests.conftest import MakePairs
from zoo.predictor import Predictor

# Outputs of public reference code for one head of width 4 and values of width 3; what it was.
FAST_WEIGHTS = Path(__file__).parents[1] / "data" / "fast_weights.npz"


def assert_predicts(solver: Predictor, x: Tensor, y: Tensor, expected: Tensor) -> None:
    """All positions at once, the query alone and the stream say what is expected."""
    torch.testing.assert_close(solver(x, y), expected)
    torch.testing.assert_close(solver.predict_query(x, y), expected[:, -1])
    state = solver.init_state(len(x), dtype=x.dtype)
    for i in range(x.shape[1]):
        streamed = solver.predict(state, x[:, i : i + 1])[:, 0]
        torch.testing.assert_close(streamed, expected[:, i])
        state = solver.observe(state, x[:, i : i + 1], y[:, i : i + 1])


@pytest.mark.parametrize("num_passes", [1, 3])
@pytest.mark.parametrize("forgetting", [1.0, 0.8])
def test_the_gated_delta_rule_decays_before_its_error_is_taken(
    forgetting: float, num_passes: int, make_pairs: MakePairs
) -> None:
    # S_t = S_(t-1) alpha (I - beta k k^T) + beta v k^T (arXiv 2412.06464, eq. 10), with further
    # factors of the same key and value (arXiv 2502.10297).
    x, y = make_pairs(4, 3, 9)
    solver = zoo.create_solver(
        "online_gradient_descent",
        d_x=4,
        d_y=3,
        step_size=0.1,
        forgetting=forgetting,
        num_passes=num_passes,
    )
    expected = torch.zeros_like(y)
    for b in range(len(x)):
        S = torch.zeros(3, 4, dtype=x.dtype)
        for t in range(9):
            k, v = x[b, t], y[b, t]
            expected[b, t] = S @ k
            S = forgetting * S
            for _ in range(num_passes):
                S = S @ (torch.eye(4, dtype=x.dtype) - 0.1 * torch.outer(k, k))
                S = S + 0.1 * torch.outer(v, k)
    assert_predicts(solver, x, y, expected)


@pytest.mark.parametrize("rule", ["delta_rule", "gated_delta_rule_head"])
def test_online_gradient_descent_is_the_published_rule_token_by_token(rule: str) -> None:
    data = {
        name: torch.from_numpy(values).double() for name, values in np.load(FAST_WEIGHTS).items()
    }
    q, k, v, beta, g = (data[name] for name in ("q", "k", "v", "beta", "g"))
    S, outputs = data["initial_state"], []
    for t in range(k.shape[1]):
        rate = beta[:, t].flatten()
        out = []
        for b in range(len(k)):
            solver = zoo.create_solver(
                "online_gradient_descent",
                d_x=4,
                d_y=3,
                step_size=rate[b].item(),
                forgetting=1.0 if rule == "delta_rule" else g[b, t].exp().item(),
            )
            state = solver.init_state(1)
            state = state._replace(W=S[b : b + 1])
            state = solver.observe(state, k[b : b + 1, t : t + 1], v[b : b + 1, t : t + 1])
            out.append(state.W)
        S = torch.cat(out)
        outputs.append(torch.einsum("bp,bpm->bm", q[:, t], S))
    torch.testing.assert_close(S, data[f"{rule}/state"], atol=5e-6, rtol=5e-6)
    torch.testing.assert_close(torch.stack(outputs, 1), data[f"{rule}/o"], atol=5e-6, rtol=5e-6)


def test_momentum_follows_the_decay(make_pairs: MakePairs) -> None:
    x, y = make_pairs(3, 2, 7)
    solver = zoo.create_solver(
        "online_gradient_descent", d_x=3, d_y=2, step_size=0.1, momentum=0.4, forgetting=0.9
    )
    expected = torch.zeros_like(y)
    for b in range(len(x)):
        W = V = torch.zeros(3, 2, dtype=x.dtype)
        for i in range(7):
            expected[b, i] = x[b, i] @ W
            W = 0.9 * W
            V = 0.4 * V - 0.1 * torch.outer(x[b, i], x[b, i] @ W - y[b, i])
            W = W + V
    assert_predicts(solver, x, y, expected)


def test_passes_over_one_example_are_one_step_of_another_size(make_pairs: MakePairs) -> None:
    x, y = make_pairs(3, 2, 2, batch=1)
    eta, squares = 0.2, x[0, 0].square().sum().item()
    many = zoo.create_solver("online_gradient_descent", d_x=3, d_y=2, step_size=eta, num_passes=5)
    size = (1 - (1 - eta * squares) ** 5) / squares
    expected = size * (x[:, 0] @ x[0, 1])[:, None] * y[:, 0]
    torch.testing.assert_close(many.predict_query(x, y), expected)


@pytest.mark.parametrize("window", [1, 3, 4, 20])
def test_minibatches_use_the_gradients_of_the_minibatch_so_far(
    window: int, make_pairs: MakePairs
) -> None:
    # W_t = W_t' - eta sum_(s = t' + 1)^t grad l(W_t'; x_s), t' = t - mod(t, b): arXiv 2407.04620,
    # section 2.4. The prediction for x_(t+1) is made after t tokens.
    x, y = make_pairs(3, 2, 10)
    solver = zoo.create_solver(
        "minibatch_gradient_descent", d_x=3, d_y=2, step_size=0.05, window=window
    )
    expected = torch.zeros_like(y)
    for b in range(len(x)):
        weights = [torch.zeros(3, 2, dtype=x.dtype)]
        for t in range(1, 10):
            # The start of the mini-batch that token t, counted from one, belongs to.
            start = (t - 1) // window * window
            gradient = sum(
                torch.outer(x[b, s], x[b, s] @ weights[start] - y[b, s]) for s in range(start, t)
            )
            weights.append(weights[start] - 0.05 * gradient)
        for i in range(10):
            expected[b, i] = x[b, i] @ weights[i]
    assert_predicts(solver, x, y, expected)


@pytest.mark.parametrize("num_steps", [1, 2, 4])
def test_gd_plus_plus_moves_inputs_and_labels_from_the_same_old_tokens(
    num_steps: int, make_pairs: MakePairs
) -> None:
    # x_j <- x_j - gamma X X^T x_j and y_j <- y_j - eta Y X^T x_j at once (arXiv 2212.07677): the
    # query's label, zero at first, becomes minus the prediction.
    x, y = make_pairs(3, 2, 6)
    eta, gamma = 0.05, 0.03
    solver = zoo.create_solver(
        "gradient_descent_plus_plus",
        d_x=3,
        d_y=2,
        step_size=eta,
        gamma=gamma,
        num_steps=num_steps,
    )
    expected = torch.zeros_like(y)
    for b in range(len(x)):
        for i in range(6):
            inputs = [x[b, j] for j in range(i + 1)]  # the query is last
            labels = [*y[b, :i], torch.zeros(2, dtype=x.dtype)]
            for _ in range(num_steps):
                new_inputs, new_labels = [], []
                for x_j, y_j in zip(inputs, labels, strict=True):
                    pairs = list(zip(inputs[:i], labels[:i], strict=True))
                    moved = sum((gamma * x_k * (x_k @ x_j) for x_k, _ in pairs), torch.zeros(3))
                    taken = sum((eta * y_k * (x_k @ x_j) for x_k, y_k in pairs), torch.zeros(2))
                    new_inputs.append(x_j - moved)
                    new_labels.append(y_j - taken)
                inputs, labels = new_inputs, new_labels
            expected[b, i] = -labels[-1]
    assert_predicts(solver, x, y, expected)


def test_ridge_that_forgets_keeps_its_penalty(make_pairs: MakePairs) -> None:
    # W = (sum_j f^(i-j) x x^T + lambda I)^-1 sum_j f^(i-j) x y^T: MesaNet, arXiv 2506.05233.
    x, y = make_pairs(4, 2, 12)
    solver = zoo.create_solver("ridge", d_x=4, d_y=2, penalty=0.4, forgetting=0.7)
    expected = torch.zeros_like(y)
    for b in range(len(x)):
        H, G = torch.zeros(4, 4, dtype=x.dtype), torch.zeros(4, 2, dtype=x.dtype)
        for i in range(12):
            W = torch.linalg.inv(H + 0.4 * torch.eye(4, dtype=x.dtype)) @ G
            expected[b, i] = x[b, i] @ W
            H = 0.7 * H + torch.outer(x[b, i], x[b, i])
            G = 0.7 * G + torch.outer(x[b, i], y[b, i])
    assert_predicts(solver, x, y, expected)
    forgetful = zoo.create_solver(
        "recursive_least_squares", d_x=4, d_y=2, penalty=0.4, forgetting=0.7
    )
    assert (forgetful.predict_query(x, y) - expected[:, -1]).abs().max() > 1e-3


@pytest.mark.parametrize("num_steps", [1, 2, 5])
def test_conjugate_gradients_minimise_over_the_krylov_space(
    num_steps: int, make_pairs: MakePairs
) -> None:
    x, y = make_pairs(4, 2, 8)
    solver = zoo.create_solver("conjugate_gradient", d_x=4, d_y=2, num_steps=num_steps)
    expected = torch.zeros_like(y)
    for b in range(len(x)):
        for i in range(8):
            X, Y = x[b, :i].numpy(), y[b, :i].numpy()
            A = X.T @ X
            for m in range(2 if i else 0):
                krylov = [X.T @ Y[:, m]]
                for _ in range(num_steps - 1):
                    krylov.append(A @ krylov[-1])
                basis = np.linalg.qr(np.stack(krylov[: min(num_steps, i, 4)], axis=1))[0]
                w = basis @ (np.linalg.pinv(X @ basis) @ Y[:, m])
                expected[b, i, m] = float(x[b, i].numpy() @ w)
    assert_predicts(solver, x, y, expected)


def test_conjugate_gradients_have_the_errors_that_were_measured_elsewhere() -> None:
    spec = EpisodeSpec()
    episodes = create_sampler(spec).sample(10_000, Generators(EVAL_SEED, "test", 0, "cpu"))
    x, y = episodes.x, episodes.y
    for num_steps, measured in ((1, 0.198), (2, 0.1305), (4, 0.0754), (8, 0.0320)):
        solver = zoo.create_solver("conjugate_gradient", d_x=10, d_y=10, num_steps=num_steps)
        error = (solver.predict_query(x, y) - episodes.target[:, -1]).square().mean().item() / 2
        assert error == pytest.approx(measured, abs=6e-5 if num_steps > 1 else 6e-4)


@pytest.mark.parametrize(
    ("family", "features"), [("sine", "sine_cosine"), ("quadratic", "squares")]
)
def test_fixed_features_are_exact_once_there_are_as_many_examples(
    family: str, features: str
) -> None:
    d_x = 1 if family == "sine" else 3
    spec = EpisodeSpec(d_x=d_x, d_y=1, num_context=5, function={"name": family})  # type: ignore[arg-type]
    episodes = create_sampler(spec).sample(500, Generators(0, "test", 0, "cpu"))
    x, y = episodes.x.double(), episodes.y.double()
    solver = zoo.create_solver("fixed_features", d_x=d_x, d_y=1, features=features)
    phi = torch.cat([x.sin(), x.cos()], -1) if family == "sine" else x.square()
    errors = (solver(x, y) - episodes.target).abs().amax((0, 2))
    assert errors[phi.shape[2] :].median() < 1e-4
    assert errors[1] > 1e-2
    expected = torch.zeros_like(y)
    for i in range(1, 6):
        W = torch.linalg.pinv(phi[:, :i], rtol=1e-6) @ y[:, :i]
        expected[:, i] = (phi[:, i : i + 1] @ W)[:, 0]
    good = (torch.linalg.cond(phi[:, :-1]) < 1e3).nonzero()[:50, 0]
    assert_predicts(solver, x[good], y[good], expected[good])
