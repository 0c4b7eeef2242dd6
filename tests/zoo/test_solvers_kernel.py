"""Ridge regression on random features."""

import torch

import zoo
from tests.conftest import MakePairs


def test_random_features_ridge_solves_the_normal_equations_of_its_features(
    make_pairs: MakePairs,
) -> None:
    x, y = make_pairs(3, 2, 7)
    solver = zoo.create_solver(
        "random_features_ridge", d_x=3, d_y=2, bandwidth=1.3, penalty=0.2, num_features=11
    )
    prediction, phi = solver(x, y), solver.features(x)
    assert prediction[:, 0].abs().max() == 0
    for i in range(1, 7):
        seen = phi[:, :i]
        W = torch.linalg.solve(seen.mT @ seen + 0.2 * torch.eye(11).double(), seen.mT @ y[:, :i])
        torch.testing.assert_close(prediction[:, i], (phi[:, i, None] @ W)[:, 0])


def test_many_random_features_approach_the_gaussian_kernel(make_pairs: MakePairs) -> None:
    x, y = make_pairs(2, 1, 6)
    settings = {"bandwidth": 2.0, "penalty": 0.5}
    prediction = zoo.create_solver(
        "random_features_ridge", d_x=2, d_y=1, num_features=200_000, **settings
    ).predict_query(x, y)
    kernel = (-torch.cdist(x, x).square() / 8).exp()
    K = kernel[:, :-1, :-1] + 0.5 * torch.eye(x.shape[1] - 1).double()
    wanted = kernel[:, -1:, :-1] @ torch.linalg.solve(K, y[:, :-1])
    torch.testing.assert_close(prediction, wanted[:, 0], rtol=0, atol=0.02)
