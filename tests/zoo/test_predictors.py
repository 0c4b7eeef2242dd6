"""The Predictor contract, over the whole registry: a new entry is tested by being registered."""

from typing import Any

import pytest
import torch
from torch import nn

import zoo
from tests.conftest import MakePairs
from zoo.hub.io import load_checkpoint, save_checkpoint
from zoo.predictor import Predictor
from zoo.registry import model_arguments
from zoo.solvers.solver import solver_of

SIZES = [(4, 4), (5, 2), (2, 3)]


def arguments_of(kind: str, name: str, d_x: int, d_y: int) -> dict[str, Any]:
    """Sizes of a predictor that is tested: two layers show what more of them would."""
    layers = {"num_layers": 2} if kind == "model" and "num_layers" in model_arguments(name) else {}
    example = solver_of(name).example(d_x, d_y) if kind == "solver" else {}
    return {"d_x": d_x, "d_y": d_y, **layers, **example}


def create(kind: str, name: str, d_x: int, d_y: int) -> Predictor:
    """A float64 predictor; models start at random."""
    arguments = arguments_of(kind, name, d_x, d_y)
    if kind == "solver":
        try:
            return zoo.create_solver(name, **arguments)
        except ImportError as error:  # of an optional package
            pytest.skip(str(error))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return zoo.create_model(name, **arguments).double()


predictors = pytest.mark.parametrize(
    ("kind", "name"),
    [("model", name) for name in zoo.list_models()]
    + [("solver", name) for name in zoo.list_solvers()],
)
sizes = pytest.mark.parametrize(("d_x", "d_y"), SIZES)
# Every size and every length once with each other's usual one.
sizes_and_lengths = pytest.mark.parametrize(
    ("d_x", "d_y", "length"),
    [(*SIZES[0], length) for length in (1, 2, 3, 5, 17)] + [(*size, 5) for size in SIZES[1:]],
)


@predictors
@sizes_and_lengths
def test_shapes_types_and_finite_values(
    kind: str, name: str, d_x: int, d_y: int, length: int, make_pairs: MakePairs
) -> None:
    predictor = create(kind, name, d_x, d_y)
    x, y = make_pairs(d_x, d_y, length)
    prediction = predictor(x, y)
    assert prediction.shape == y.shape
    assert prediction.dtype == x.dtype
    assert prediction.isfinite().all()
    torch.testing.assert_close(predictor.predict_query(x, y), prediction[:, -1])
    assert predictor.state_size(length) >= 0


@predictors
@sizes
def test_a_position_depends_on_earlier_examples_and_its_own_input_alone(
    kind: str, name: str, d_x: int, d_y: int, make_pairs: MakePairs
) -> None:
    predictor = create(kind, name, d_x, d_y)
    x, y = make_pairs(d_x, d_y, 6)
    expected = predictor(x, y)
    for i in range(6):
        other_x, other_y = x.clone(), y.clone()
        other_x[:, i + 1 :] += 3
        other_y[:, i:] -= 5
        torch.testing.assert_close(predictor(other_x, other_y)[:, i], expected[:, i])


@predictors
@sizes
def test_nan_in_the_last_label_changes_nothing(
    kind: str, name: str, d_x: int, d_y: int, make_pairs: MakePairs
) -> None:
    predictor = create(kind, name, d_x, d_y)
    x, y = make_pairs(d_x, d_y, 5)
    ignored = y.clone()
    ignored[:, -1] = torch.nan
    assert torch.equal(predictor(x, ignored), predictor(x, y))
    assert torch.equal(predictor.predict_query(x, ignored), predictor.predict_query(x, y))


solvers = pytest.mark.parametrize("name", zoo.list_solvers())
BAD = [torch.nan, -torch.inf, 1e30, 1e300]


@solvers
@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("part", ["x", "y"])
def test_a_bad_example_spoils_only_what_comes_after_it_in_its_episode(
    name: str, bad: float, part: str, make_pairs: MakePairs
) -> None:
    solver = create("solver", name, 5, 2)
    for length in (5, 9):  # fewer and more examples than coordinates
        x, y = make_pairs(5, 2, length)
        expected, expected_query = solver(x, y), solver.predict_query(x, y)
        {"x": x, "y": y}[part][1, 3, 1] = bad
        prediction, query = solver(x, y), solver.predict_query(x, y)
        assert torch.equal(prediction[[0, 2]], expected[[0, 2]])
        assert torch.equal(query[[0, 2]], expected_query[[0, 2]])
        before = 3 if part == "x" else 4  # a bad input is also a bad query
        torch.testing.assert_close(prediction[1, :before], expected[1, :before])
        assert prediction[1, before:].isnan().all()
        assert query[1].isnan().all()


@solvers
def test_infinite_queries_of_small_types_are_nan_too(name: str, make_pairs: MakePairs) -> None:
    solver = create("solver", name, 3, 2)
    x, y = (part.half() for part in make_pairs(3, 2, 5))
    x[1, -1] = torch.inf
    assert solver(x, y)[1, -1].isnan().all()
    assert solver.predict_query(x, y)[1].isnan().all()
    state = solver.observe(solver.init_state(3), x[:, :-1], y[:, :-1])
    assert solver.predict(state, x[:, -1:])[1].isnan().all()


@solvers
@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("part", ["x", "y"])
def test_forward_query_and_stream_agree_on_what_is_nan(
    name: str, bad: float, part: str, make_pairs: MakePairs
) -> None:
    solver = create("solver", name, 3, 2)
    for position in (0, 2, 5):  # 5 is the query
        x, y = make_pairs(3, 2, 6)
        {"x": x, "y": y}[part][1, position] = bad
        prediction = solver(x, y)
        state = solver.init_state(3, dtype=x.dtype)
        streamed = []
        for i in range(6):
            streamed.append(solver.predict(state, x[:, i : i + 1]))
            state = solver.observe(state, x[:, i : i + 1], y[:, i : i + 1])
        torch.testing.assert_close(torch.cat(streamed, dim=1), prediction, equal_nan=True)
        query = solver.predict_query(x, y)
        torch.testing.assert_close(query, prediction[:, -1], equal_nan=True)
        assert query[1].isnan().all() == (part == "x" or position < 5)


@solvers
@pytest.mark.parametrize("bad", BAD)
def test_nothing_later_changes_a_position_of_a_solver(
    name: str, bad: float, make_pairs: MakePairs
) -> None:
    solver = create("solver", name, 3, 2)
    x, y = make_pairs(3, 2, 7)
    expected = solver(x, y)
    for i in range(7):
        later_x, later_y = x.clone(), y.clone()
        later_x[:, i + 1 :] = bad
        later_y[:, i:] = bad
        torch.testing.assert_close(solver(later_x, later_y)[:, : i + 1], expected[:, : i + 1])


@solvers
def test_labels_of_one_episode_that_are_not_one_hot_do_not_fail_the_others(
    name: str, make_pairs: MakePairs
) -> None:
    solver = create("solver", name, 3, 2)
    x, scores = make_pairs(3, 2, 9)
    y = nn.functional.one_hot(scores.argmax(-1), 2).double()
    expected = solver(x, y)
    for wrong in (-3.0, 40.0, 1e6, 1e15):
        y[1, 2] = wrong
        prediction = solver(x, y)
        assert torch.equal(prediction[[0, 2]], expected[[0, 2]])
        torch.testing.assert_close(prediction[1, :3], expected[1, :3])


@predictors
@sizes
def test_episodes_of_a_batch_do_not_see_each_other(
    kind: str, name: str, d_x: int, d_y: int, make_pairs: MakePairs
) -> None:
    predictor = create(kind, name, d_x, d_y)
    x, y = make_pairs(d_x, d_y, 5, batch=4)
    together = predictor(x, y)
    for b in range(4):
        torch.testing.assert_close(predictor(x[b : b + 1], y[b : b + 1]), together[b : b + 1])


@predictors
@sizes_and_lengths
def test_streaming_equals_forward_one_by_one_and_all_at_once(
    kind: str, name: str, d_x: int, d_y: int, length: int, make_pairs: MakePairs
) -> None:
    predictor = create(kind, name, d_x, d_y)
    x, y = make_pairs(d_x, d_y, length)
    state = predictor.init_state(len(x), dtype=x.dtype)
    predictions = []
    for i in range(length):
        predictions.append(predictor.predict(state, x[:, i : i + 1]))
        state = predictor.observe(state, x[:, i : i + 1], y[:, i : i + 1])
    torch.testing.assert_close(torch.cat(predictions, dim=1), predictor(x, y))

    at_once = predictor.observe(predictor.init_state(len(x), dtype=x.dtype), x, y)
    queries = make_pairs(d_x, d_y, 4, seed=1)[0]
    expected = predictor.predict(state, queries)
    torch.testing.assert_close(predictor.predict(at_once, queries), expected)
    for i in range(4):  # queries do not see each other
        alone = predictor.predict(at_once, queries[:, i : i + 1])
        torch.testing.assert_close(alone, expected[:, i : i + 1])


@predictors
def test_states_are_values(kind: str, name: str, make_pairs: MakePairs) -> None:
    predictor = create(kind, name, 3, 2)
    x, y = make_pairs(3, 2, 4)
    state = predictor.observe(predictor.init_state(3, dtype=x.dtype), x, y)
    before = predictor.predict(state, x)
    predictor.observe(state, x, y)
    assert torch.equal(predictor.predict(state, x), before)


@predictors
def test_a_state_of_other_episodes_is_refused(kind: str, name: str, make_pairs: MakePairs) -> None:
    predictor = create(kind, name, 3, 2)
    x, y = make_pairs(3, 2, 4)
    for num in (1, 2):  # one would broadcast
        state = predictor.init_state(num, dtype=x.dtype)
        with pytest.raises(ValueError, match=f"the state is of {num} episodes, got {len(x)}"):
            predictor.observe(state, x, y)
        state = predictor.observe(state, x[:num], y[:num])
        with pytest.raises(ValueError, match=f"the state is of {num} episodes, got {len(x)}"):
            predictor.predict(state, x)


@predictors
def test_disagreeing_shapes_are_refused_with_both_shapes(kind: str, name: str) -> None:
    predictor = create(kind, name, 3, 2)
    for x_shape, y_shape in [
        ((2, 5, 3), (2, 4, 2)),
        ((2, 5, 3), (3, 5, 2)),
        ((2, 5, 4), (2, 5, 2)),
        ((2, 5, 3), (2, 5, 3)),
        ((5, 3), (5, 2)),
    ]:
        x, y = torch.zeros(x_shape), torch.zeros(y_shape)
        for call in (predictor, predictor.predict_query):
            with pytest.raises(ValueError, match="same batch and length") as error:
                call(x, y)
            assert str(x_shape) in str(error.value)
            assert str(y_shape) in str(error.value)


@predictors
def test_a_length_that_cannot_be_taken_is_refused(kind: str, name: str) -> None:
    predictor = create(kind, name, 3, 2)
    with pytest.raises(ValueError, match="length 0"):
        predictor(torch.zeros(2, 0, 3), torch.zeros(2, 0, 2))


@predictors
def test_queries_of_the_wrong_width_are_refused(kind: str, name: str) -> None:
    predictor = create(kind, name, 3, 2)
    with pytest.raises(ValueError, match=r"num_query, 3\), got \(2, 1, 4\)"):
        predictor.predict(predictor.init_state(2), torch.zeros(2, 1, 4))


@pytest.mark.parametrize("name", zoo.list_models())
def test_every_parameter_receives_a_gradient(name: str, make_pairs: MakePairs) -> None:
    model = create("model", name, 4, 4)
    x, y = make_pairs(4, 4, 5)
    model(x, y).square().mean().backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.abs().max() > 0, parameter_name


@pytest.mark.parametrize("name", zoo.list_models())
def test_models_run_under_vmap_over_stacked_parameters(name: str, make_pairs: MakePairs) -> None:
    models = [create("model", name, 3, 2) for _ in range(2)]
    with torch.no_grad():
        for parameter in models[1].parameters():
            parameter.mul_(1.5)
    parameters, buffers = torch.func.stack_module_state(list[nn.Module](models))
    x, y = make_pairs(3, 2, 20)

    def predict(state: Any) -> torch.Tensor:
        return torch.func.functional_call(models[0], state, (x, y))

    together = torch.vmap(predict)((parameters, buffers))
    torch.testing.assert_close(together, torch.stack([model(x, y) for model in models]))


@pytest.mark.parametrize("name", zoo.list_models())
def test_models_train_under_bfloat16_autocast(name: str, make_pairs: MakePairs) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = zoo.create_model(name, d_x=4, d_y=4)
    x, y = (part.float() for part in make_pairs(4, 4, 9))
    exact = model(x, y)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        prediction = model(x, y)
        prediction.square().mean().backward()
    # At the first token a head of `gla` reads (q k) v and divides it by its size. What is left of
    # q k, the sign, may turn with the rounding where it is nearly zero.
    error = (prediction.float() - exact).abs()[:, 1 if name == "gla" else 0 :]
    assert error.max() < 0.05 * exact.abs().max() + 1e-6
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", zoo.list_models())
def test_models_compile(name: str, make_pairs: MakePairs) -> None:
    model = create("model", name, 4, 4)
    x, y = make_pairs(4, 4, 9)
    # The tracer and autograd, without the minutes that generating code takes.
    compiled = torch.compile(model, backend="aot_eager")
    torch.testing.assert_close(compiled(x, y), model(x, y))


@pytest.mark.parametrize("name", zoo.list_models())
def test_a_checkpoint_gives_the_same_predictions(
    name: str, make_pairs: MakePairs, tmp_path: Any, card_fields: dict[str, Any]
) -> None:
    model = create("model", name, 4, 3)
    sizes = arguments_of("model", name, 4, 3)
    data = {"d_x": 4, "d_y": 3}
    card_fields |= {"architecture": name, "model_args": sizes, "data": data}
    save_checkpoint(tmp_path / "checkpoint", model, card_fields)
    x, y = make_pairs(4, 3, 5)
    loaded = load_checkpoint(tmp_path / "checkpoint")
    assert torch.equal(loaded(x, y), model(x, y))
    assert torch.equal(loaded.predict_query(x, y), model.predict_query(x, y))
    assert not loaded.training


class Buffered(Predictor):
    """A predictor without a streaming state of its own: the mean of the labels so far."""

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        self.check_pairs(x, y)
        sums = torch.cat([torch.zeros_like(y[:, :1]), y[:, :-1]], dim=1).cumsum(1)
        return sums / torch.arange(x.shape[1], dtype=x.dtype).clamp(min=1)[:, None]


def test_default_streaming_keeps_the_examples(make_pairs: MakePairs) -> None:
    predictor = Buffered(3, 2)
    x, y = make_pairs(3, 2, 6)
    state = predictor.init_state(3, dtype=x.dtype)
    for i in range(6):
        expected = predictor(x, y)[:, i]
        torch.testing.assert_close(predictor.predict(state, x[:, i : i + 1])[:, 0], expected)
        state = predictor.observe(state, x[:, i : i + 1], y[:, i : i + 1])
    assert sum(part[0].numel() for part in state) == predictor.state_size(6) == 30
