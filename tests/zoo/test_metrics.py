"""Errors, intervals and alignment."""

import pytest
import torch

import zoo
from tests.conftest import MakePairs
from zoo.metrics.alignment import alignment, query_response
from zoo.metrics.errors import (
    error_summaries,
    error_summary,
    half_squared_error,
    is_rounding,
    mean_interval,
    mean_of_scored,
    ratio_interval,
    ratio_summary,
    tail_share,
)
from zoo.metrics.text import number_text
from zoo.training.validation import RatioOfMeans


def bootstrap_half_width(statistic: torch.Tensor) -> float:
    low, high = torch.quantile(statistic, torch.tensor([0.025, 0.975], dtype=statistic.dtype))
    return (high - low).item() / 2


def test_intervals_agree_with_a_bootstrap_over_episodes() -> None:
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(5000, generator=generator, dtype=torch.float64).square()
    b = a + 0.3 * torch.randn(5000, generator=generator, dtype=torch.float64).square()
    drawn = torch.randint(5000, (2000, 5000), generator=generator)
    means = a[drawn].mean(1)
    ratios = means / b[drawn].mean(1)
    assert mean_interval(a).ci95 == pytest.approx(bootstrap_half_width(means), rel=0.06)
    assert ratio_interval(a, b).ci95 == pytest.approx(bootstrap_half_width(ratios), rel=0.06)
    assert ratio_interval(a, b).value == pytest.approx((a.mean() / b.mean()).item())


def test_half_squared_error_averages_over_outputs() -> None:
    prediction, target = torch.tensor([[1.0, 5.0]]), torch.tensor([[3.0, 4.0]])
    assert half_squared_error(prediction, target).item() == 0.5 * (4 + 1) / 2


def test_positions_that_are_not_scored_do_not_count() -> None:
    prediction = torch.tensor([[[1.0], [100.0], [3.0]], [[1.0], [1.0], [1.0]]])
    scored = torch.tensor([[True, False, True], [True, True, True]])
    errors = mean_of_scored(half_squared_error(prediction, torch.zeros(2, 3, 1)), scored)
    assert errors.tolist() == [0.5 * (1 + 9) / 2, 0.5]


def test_ratio_of_means_does_not_depend_on_batches() -> None:
    metric = RatioOfMeans()
    metric.update(torch.tensor([1.0, 2.0]), torch.tensor([2.0, 2.0]))
    metric.update(torch.tensor([6.0]), torch.tensor([5.0]))
    assert metric.compute().item() == 1.0


def test_jacobian_of_a_linear_solver_is_its_weights(make_pairs: MakePairs) -> None:
    x, y = make_pairs(4, 3, 8)
    solver = zoo.create_solver("ridge", d_x=4, d_y=3, penalty=0.5)
    response = query_response(solver, x, y)
    state = solver.observe(solver.init_state(3), x[:, :-1], y[:, :-1])
    W = solver.weights(state)  # type: ignore[operator]
    torch.testing.assert_close(response.jacobian, W.mT)
    torch.testing.assert_close(response.prediction, solver.predict_query(x, y))


def test_a_predictor_aligns_with_itself_and_not_with_zero(make_pairs: MakePairs) -> None:
    x, y = make_pairs(4, 3, 8)
    solver = zoo.create_solver("ridge", d_x=4, d_y=3, penalty=0.5)
    own = query_response(solver, x, y)
    same = alignment(own, own)
    assert same.prediction_difference.value == same.model_difference.value == 0
    assert same.cosine is not None
    assert same.cosine.value == pytest.approx(1)
    zero = query_response(zoo.create_solver("zero", d_x=4, d_y=3), x, y)
    other = alignment(own, zero)
    assert other.num_zero_norm == len(x)
    assert other.cosine is None
    expected = own.jacobian.flatten(1).norm(dim=1).mean().item()
    assert other.model_difference.value == pytest.approx(expected)
    expected = own.prediction.square().sum(1).sqrt().mean().item()
    assert other.prediction_difference.value == pytest.approx(expected)


def test_query_response_works_inside_inference_mode(make_pairs: MakePairs) -> None:
    model = zoo.create_model("gd_ssm", d_x=3, d_y=3).double()
    x, y = make_pairs(3, 3, 5)
    expected = query_response(model, x, y)
    with torch.inference_mode():
        made_inside = query_response(model, x + 0, y + 0)
    torch.testing.assert_close(made_inside, expected)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_one_episode_has_no_interval() -> None:
    with pytest.raises(ValueError, match="at least 2 episodes, got 1"):
        mean_interval(torch.zeros(1))


def test_the_tail_share_is_what_the_worst_thousandth_carries() -> None:
    errors = torch.ones(10_000)
    errors[:10] = 1_001.0
    assert tail_share(errors) == pytest.approx(10_010 / 20_000)
    assert tail_share(torch.ones(10_000)) == pytest.approx(0.001)
    # Of 500 episodes half of the worst one belongs to the worst thousandth.
    assert tail_share(torch.cat([torch.ones(499), torch.full((1,), 501.0)])) == 250.5 / 1_000
    assert tail_share(torch.zeros(500)) == 0


def test_a_mean_that_few_episodes_carry_has_no_interval_but_the_range_of_further_sets() -> None:
    generator = torch.Generator().manual_seed(0)

    def measured(number: int) -> dict[str, torch.Tensor]:
        light = torch.rand(2_000, generator=generator)
        return {"light": light, "heavy": light + (number == 3) * 1e3 * (light > 0.999)}

    first = measured(3)
    found = error_summaries(first, measured)
    light, heavy = found["light"], found["heavy"]
    assert light.ci95 == mean_interval(first["light"]).ci95
    assert light.lowest is light.highest is None
    assert heavy.value == pytest.approx(first["heavy"].mean().item())
    assert heavy.median == pytest.approx(first["heavy"].double().quantile(0.5).item())
    assert heavy.tail_share is not None
    assert heavy.tail_share > 0.1
    assert heavy.ci95 is None
    assert heavy.lowest is not None
    assert heavy.highest is not None
    assert heavy.lowest < 0.6 < heavy.highest
    assert "± " not in number_text(heavy)
    assert "heavy tail" in number_text(heavy)


def test_a_small_mean_that_one_wrong_episode_makes_is_no_rounding() -> None:
    errors = torch.full((10_000,), 1e-15, dtype=torch.float64)
    assert is_rounding(errors, 1e-6)
    assert error_summary(errors, negligible=1e-6).tail_share is None
    errors[0] = 0.005
    assert errors.mean() < 1e-6
    assert not is_rounding(errors, 1e-6)
    found = error_summary(errors, negligible=1e-6, apart=[1e-7, 2e-6])
    assert (found.ci95, found.lowest, found.highest) == (None, 1e-7, 2e-6)
    assert found.tail_share == pytest.approx(1)


@pytest.mark.parametrize("size", [2, 3, 20, 500])
def test_the_interval_of_an_error_never_reaches_zero(size: int) -> None:
    errors = torch.full((size,), 1e-3)
    errors[0] = 1.0
    value, ci95 = mean_interval(errors)
    assert ci95 > value, "the plain interval does"
    assert error_summary(errors).ci95 is None
    assert ratio_summary(errors, torch.ones(size)).ci95 is None
    assert ratio_summary(torch.ones(size), errors).ci95 is None


def test_a_ratio_of_heavy_tailed_errors_has_the_range_of_further_sets() -> None:
    errors = torch.ones(1_000)
    errors[0] = 1e4
    ratio = ratio_summary(torch.ones(1_000), errors, lambda: ([2.0, 6.0], [4.0, 2.0]))
    assert (ratio.ci95, ratio.lowest, ratio.highest) == (None, 0.5, 3.0)
