"""What predictors do with values: types, devices, none at all, and values that are not finite."""

import warnings
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import zoo
from tests.conftest import MakeCheckpoint, MakePairs
from tests.zoo.test_predictors import arguments_of, create, predictors, sizes
from zoo.models.sequence import SequenceModel
from zoo.predictor import FLOATS, Predictor
from zoo.solvers.solver import solver_of

models = pytest.mark.parametrize("name", zoo.list_models())

# Every path through a model that mixes positions: those of the defaults and these.
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in zoo.list_models()),
    ("gated_delta_net", {"decay": "key", "num_layers": 2, "d_model": 16, "expand_v": 1}),
    ("gd_ssm", {"decay": "none"}),
    ("gd_ssm", {"num_steps": 3, "learn_start": True, "precondition": True}),
    ("gd_ssm", {"num_steps": 2, "decay": "none"}),
    ("gd_ssm_deep", {"decay": "none"}),
    ("linear_transformer", {"attention": "causal", "num_layers": 2}),
    ("online_learner", {"rule": "mesa"}),
    ("online_learner", {"rule": "test_time_training", "mini_batch": 4}),
    ("transformer", {"positions": "none"}),
]
variants = pytest.mark.parametrize(
    ("name", "arguments"), VARIANTS, ids=[f"{n} {a}" for n, a in VARIANTS]
)
BAD = (torch.nan, torch.inf, -torch.inf, 1e30)


def create_variant(name: str, arguments: dict[str, Any], dtype: torch.dtype) -> Predictor:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return zoo.create_model(name, d_x=3, d_y=2, **arguments).to(dtype)


def floats_of(state: Any) -> list[torch.dtype]:
    """Types of all floating or complex tensors in a state, in their order."""
    if isinstance(state, Tensor):
        return [state.dtype] if state.is_floating_point() or state.is_complex() else []
    return [d for part in state for d in floats_of(part)] if isinstance(state, tuple) else []


def tensors_of(state: Any) -> list[Tensor]:
    """All tensors in a state, in their order."""
    if isinstance(state, Tensor):
        return [state]
    return [t for part in state for t in tensors_of(part)] if isinstance(state, tuple) else []


@variants
def test_a_state_stays_as_it_was_when_the_weights_change(
    name: str, arguments: dict[str, Any], make_pairs: MakePairs
) -> None:
    model = create_variant(name, arguments, torch.float64)
    x, y = make_pairs(3, 2, 3)
    initial = model.init_state(3)
    with torch.no_grad():
        states = initial, model.observe(initial, x, y)
        tensors = tensors_of(states)
        before = [tensor.clone() for tensor in tensors]
        for parameter in model.parameters():
            parameter.add_(1)
    assert before
    assert all(torch.equal(*pair) for pair in zip(tensors, before, strict=True))


@predictors
def test_what_is_not_a_tensor_is_refused_everywhere(
    kind: str, name: str, make_pairs: MakePairs
) -> None:
    predictor = create(kind, name, 3, 2)
    x, y = make_pairs(3, 2, 4)
    state = predictor.init_state(3)
    for other in (Tensor.numpy, Tensor.tolist):
        for call in (predictor, predictor.predict_query):
            with pytest.raises(TypeError, match="x must be a tensor, got <class"):
                call(other(x), y)
            with pytest.raises(TypeError, match="y must be a tensor, got <class"):
                call(x, other(y))
        with pytest.raises(TypeError, match="x must be a tensor, got <class"):
            predictor.observe(state, other(x), other(y))
        with pytest.raises(TypeError, match="x_query must be a tensor, got <class"):
            predictor.predict(state, other(x))


@predictors
def test_types_that_are_not_taken_are_refused_everywhere(
    kind: str, name: str, make_pairs: MakePairs
) -> None:
    predictor = create(kind, name, 3, 2)
    x, y = make_pairs(3, 2, 4)
    state = predictor.observe(predictor.init_state(3), x, y)
    refused = [torch.int64, torch.uint8, torch.bool, torch.complex128, torch.float8_e4m3fn]
    if kind == "model":  # which has a type itself
        refused += [torch.float16, torch.bfloat16, torch.float32]
    for dtype in refused:
        other_x, other_y = x.to(dtype), y.to(dtype)
        for pairs in ((other_x, other_y), (other_x, y), (x, other_y)):
            for call in (predictor, predictor.predict_query):
                with pytest.raises(ValueError, match=f"must have .*float64, got .*{dtype}"):
                    call(*pairs)
            with pytest.raises(ValueError, match=f"must have .*float64, got .*{dtype}"):
                predictor.observe(state, *pairs)
        with pytest.raises(ValueError, match=f"must have .*float64, got {dtype}"):
            predictor.predict(state, other_x)
        with pytest.raises(ValueError, match=f"must be .*float64, got {dtype}"):
            predictor.init_state(3, dtype=dtype)
    with pytest.raises(ValueError, match="x and y must have .* got torch.float64 and"):
        predictor(x, y.float())


@predictors
def test_tensors_on_another_device_are_refused_everywhere(
    kind: str, name: str, make_pairs: MakePairs
) -> None:
    predictor = create(kind, name, 3, 2)
    x, y = make_pairs(3, 2, 4)
    elsewhere = x.to("meta"), y.to("meta")
    state = predictor.init_state(3, device="cpu")
    for call in (predictor, predictor.predict_query):
        with pytest.raises(ValueError, match="must be on (cpu|meta), got"):
            call(x, elsewhere[1])
    with pytest.raises(ValueError, match="on cpu, got"):
        predictor.observe(state, *elsewhere)
    with pytest.raises(ValueError, match="on cpu, got"):
        predictor.predict(state, elsewhere[0])


@predictors
def test_numbers_of_episodes_that_are_none_are_refused(kind: str, name: str) -> None:
    predictor = create(kind, name, 3, 2)
    for number in (-1, 2.0, "2", None):
        with pytest.raises(ValueError, match=f"batch_size must be .* got {number!r}"):
            predictor.init_state(number)  # type: ignore[arg-type]


@predictors
def test_states_of_another_predictor_are_refused(
    kind: str, name: str, make_pairs: MakePairs
) -> None:
    predictor = create(kind, name, 3, 2)
    x, y = make_pairs(3, 2, 4)
    of_other_widths = create(kind, name, 5, 4).init_state(3)
    class_of_state = type(predictor.init_state(3)).__name__
    # Those of deep models, behind an embedding, and of symbols have nothing of the widths of pairs.
    of_symbols = kind == "solver" and not solver_of(name).reads_labels
    same_state = isinstance(predictor, SequenceModel) or of_symbols or name == "dmmse"
    for state, refusal in (
        (of_other_widths, "of the state must be a tensor of shape .*, got"),
        ((torch.zeros(3),), f"the state must be of type {class_of_state}, got tuple"),
        (torch.zeros(3, 3), f"the state must be of type {class_of_state}, got Tensor"),
        (None, f"the state must be of type {class_of_state}, got NoneType"),
    ):
        if state is of_other_widths and same_state:
            continue
        for call in (lambda s: predictor.observe(s, x, y), lambda s: predictor.predict(s, x)):
            with pytest.raises(ValueError, match=refusal):
                call(state)


@pytest.mark.parametrize("name", zoo.list_solvers())
def test_solvers_answer_in_the_type_of_the_queries(name: str, make_pairs: MakePairs) -> None:
    solver = create("solver", name, 3, 2)
    x, y = make_pairs(3, 2, 5)
    state = solver.observe(solver.init_state(3), x, y)
    for dtype in FLOATS:
        answer, query = solver.predict(state, x.to(dtype)), solver(x.to(dtype), y.to(dtype))
        assert answer.dtype == query.dtype == dtype
        # What the queries are in float64 after they were rounded, rounded once more at the end.
        expected = solver.predict(state, x.to(dtype).double())
        assert torch.equal(answer, expected.to(dtype))
        assert floats_of(solver.observe(state, x.to(dtype), y.to(dtype))) == floats_of(state)
        asked = solver.init_state(3, dtype=dtype)
        assert floats_of(solver.observe(asked, x, y)) == floats_of(asked)


@pytest.mark.parametrize("dtype", FLOATS)
@variants
def test_models_and_their_states_stay_in_the_type_of_the_parameters(
    name: str, arguments: dict[str, Any], dtype: torch.dtype, make_pairs: MakePairs
) -> None:
    exact = create_variant(name, arguments, torch.float64)
    model = create_variant(name, arguments, dtype)
    x, y = make_pairs(3, 2, 6)
    x, y = x.to(dtype), y.to(dtype)
    prediction, expected = model(x, y), exact(x.double(), y.double())
    assert prediction.dtype == model.predict_query(x, y).dtype == dtype
    # Of `mesa_net` a head may read next to nothing, which its norm enlarges, rounding and all.
    num_eps = 128 if name == "mesa_net" else 32
    tolerance = num_eps * torch.finfo(dtype).eps * expected.abs().max() + 1e-12
    assert (prediction.double() - expected).abs().max() < tolerance
    state = model.init_state(3, dtype=dtype)
    assert floats_of(state) == floats_of(model.init_state(3))
    after = model.observe(model.observe(state, x, y), x, y)
    assert floats_of(after) == floats_of(state)
    assert model.predict(after, x).dtype == dtype


@predictors
@sizes
@pytest.mark.parametrize("length", [1, 5, 70])
def test_no_episodes_no_queries_and_no_new_pairs(
    kind: str, name: str, d_x: int, d_y: int, length: int, make_pairs: MakePairs
) -> None:
    length = min(length, 65) if name == "transformer" else length  # its places
    check_nothing(create(kind, name, d_x, d_y), *make_pairs(d_x, d_y, length))


@variants
@pytest.mark.parametrize("length", [1, 5, 65])
def test_no_episodes_no_queries_and_no_new_pairs_of_variants(
    name: str, arguments: dict[str, Any], length: int, make_pairs: MakePairs
) -> None:
    check_nothing(create_variant(name, arguments, torch.float64), *make_pairs(3, 2, length))


def check_nothing(predictor: Predictor, x: Tensor, y: Tensor) -> None:
    """Every method, with no episodes, no queries or no new pairs."""
    length, d_y = y.shape[1:]
    none = x[:0], y[:0]
    assert predictor(*none).shape == (0, length, d_y)
    assert predictor.predict_query(*none).shape == (0, d_y)
    empty = predictor.init_state(0, dtype=x.dtype)
    for state in (empty, predictor.observe(empty, none[0][:, :5], none[1][:, :5])):
        assert predictor.predict(state, x[:0, :3]).shape == (0, min(length, 3), d_y)
    before = predictor.init_state(3, dtype=x.dtype)
    for state in (before, predictor.observe(before, x[:, :5], y[:, :5])):
        assert predictor.predict(state, x[:, :0]).shape == (3, 0, d_y)
        same = predictor.observe(state, x[:, :0], y[:, :0])
        assert torch.equal(predictor.predict(same, x[:, -1:]), predictor.predict(state, x[:, -1:]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@variants
def test_a_bad_value_changes_no_bit_before_it_nor_in_other_episodes(
    name: str, arguments: dict[str, Any], dtype: torch.dtype, make_pairs: MakePairs
) -> None:
    model = create_variant(name, arguments, dtype)
    cases = [*product(BAD, (0, 5, 34, 35), (0, 1))]  # value, position, input or label
    # An episode for each case, one before them, one in their middle and one behind them.
    clean = [0, 17, 34]
    spoiled = [episode for episode in range(35) if episode not in clean]
    x, y = (part.to(dtype) for part in make_pairs(3, 2, 36, batch=35))
    with torch.no_grad():
        expected, expected_query = model(x, y), model.predict_query(x, y)
        pairs = x.clone(), y.clone()
        for episode, (bad, position, which) in zip(spoiled, cases, strict=True):
            pairs[which][episode, position, -1] = bad
        prediction, query = model(*pairs), model.predict_query(*pairs)
    assert torch.equal(prediction[clean], expected[clean])
    assert torch.equal(query[clean], expected_query[clean])
    for episode, (bad, position, which) in zip(spoiled, cases, strict=True):
        first = position + which  # a label spoils what comes after it
        assert torch.equal(prediction[episode, :first], expected[episode, :first])
        if bad != 1e30:  # `gd_ssm` reads no first input where there is no example
            assert not prediction[episode, first + 1 :].isfinite().all(-1).any()


@variants
def test_streams_with_a_bad_value_end_like_forward(
    name: str, arguments: dict[str, Any], make_pairs: MakePairs
) -> None:
    model = create_variant(name, arguments, torch.float64)
    x, y = make_pairs(3, 2, 9)
    x[1, 4, 0], y[2, 6, 1] = torch.nan, torch.inf
    with torch.no_grad():
        expected = model(x, y)
        state, predictions = model.init_state(3), []
        for i in range(9):
            predictions.append(model.predict(state, x[:, i : i + 1]))
            state = model.observe(state, x[:, i : i + 1], y[:, i : i + 1])
        streamed = torch.cat(predictions, dim=1)
        finite = expected.isfinite()
        assert torch.equal(streamed.isfinite(), finite)
        torch.testing.assert_close(streamed[finite], expected[finite])
        queries = make_pairs(3, 2, 4, seed=1)[0]
        answers = model.predict(state, queries)
        queries[0, 2] = torch.nan
        others = [0, 1, 3]  # queries do not see each other
        assert torch.equal(model.predict(state, queries)[0, others], answers[0, others])


@models
@pytest.mark.parametrize("method", ["forward", "predict_query", "predict"])
def test_a_loaded_model_says_once_that_a_context_is_longer_than_trained(
    name: str, method: str, make_checkpoint: MakeCheckpoint
) -> None:
    model = zoo.load(make_checkpoint(name))  # whose card says num_context 6
    x = torch.zeros(2, 9, 3)

    def ask(num_context: int) -> None:
        if method == "predict":
            state = model.observe(model.init_state(2), x[:, :num_context], x[:, :num_context])
            model.predict(state, x[:, :1])
        else:
            getattr(model, method)(x[:, : num_context + 1], x[:, : num_context + 1])

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ask(6)
    message = f"{name}.test was trained on contexts of at most 6 examples, got 8"
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        ask(8)
        ask(8)
    assert [str(warning.message) for warning in found] == [message]


@models
@pytest.mark.parametrize("method", ["forward", "predict_query", "predict"])
@pytest.mark.parametrize("size", [1e30, torch.inf, torch.nan])
def test_a_loaded_model_says_once_that_a_prediction_is_absurd(
    name: str,
    method: str,
    size: float,
    make_checkpoint: MakeCheckpoint,
    make_pairs: MakePairs,
) -> None:
    model = zoo.load(make_checkpoint(name, d_x=3, d_y=2), dtype=torch.float64)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:  # rates and decays may end at zero
                weight.mul_(size)
    x, y = make_pairs(3, 2, 3)

    def ask() -> None:
        if method == "predict":
            model.predict(model.observe(model.init_state(3), x, y), x)
        else:
            getattr(model, method)(x, y)

    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        ask()
        ask()
    (warning,) = found
    assert str(warning.message).startswith(f"{name}.test predicts a value of size")


def test_nothing_is_said_by_fresh_models_in_training_or_under_transforms(
    make_checkpoint: MakeCheckpoint, make_pairs: MakePairs
) -> None:
    x, y = (1e30 * part for part in make_pairs(3, 3, 9))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert zoo.create_model("gd_ssm", d_x=3, d_y=3).card is None
        create("model", "gd_ssm", 3, 3)(x, y)
        loaded = zoo.load(make_checkpoint("gd_ssm"), dtype=torch.float64)
        assert loaded.card.name == "gd_ssm.test"
        loaded.train()(x, y)
        loaded.eval()
        torch.vmap(loaded)(x[:, None], y[:, None])
        torch.compile(loaded, backend="eager")(x, y)
        loaded(x.new_ones(3, 7, 3), y.new_ones(3, 7, 3))


class Method(nn.Module):
    """A method of a predictor as a module, which a trace wants."""

    def __init__(self, predictor: Predictor, method: str) -> None:
        super().__init__()
        self.predictor, self.method = predictor, method

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        result: Tensor = getattr(self.predictor, self.method)(x, y)
        return result


@models
@pytest.mark.parametrize("method", ["forward", "predict_query"])
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
def test_a_trace_predicts_and_learns_like_the_model(
    name: str, method: str, make_pairs: MakePairs
) -> None:
    whole = Method(create("model", name, 3, 2), method)
    pairs, other = make_pairs(3, 2, 15), make_pairs(3, 2, 15, seed=1)
    traced = torch.jit.trace(whole, pairs)
    torch.testing.assert_close(traced(*other), whole(*other))
    parameters = list(whole.parameters())
    expected = torch.autograd.grad(whole(*other).square().sum(), parameters)
    found = torch.autograd.grad(traced(*other).square().sum(), parameters)
    torch.testing.assert_close(found, expected)
    with torch.no_grad():
        traced = torch.jit.trace(whole, pairs)
        torch.testing.assert_close(traced(*other), whole(*other))


@predictors
@pytest.mark.parametrize("start", ["created there", "moved there"])
def test_shapes_come_without_memory_and_weights_can_follow(
    kind: str, name: str, start: str, make_pairs: MakePairs
) -> None:
    whole = create(kind, name, 3, 2)
    if start == "moved there":
        empty = create(kind, name, 3, 2).to("meta")
    else:
        make = zoo.create_solver if kind == "solver" else zoo.create_model
        arguments = arguments_of(kind, name, 3, 2)
        with torch.device("meta"):
            empty = make(name, **arguments)
        if kind == "model":
            empty = empty.double()
    x, y = make_pairs(3, 2, 5)
    on_meta = x.to("meta"), y.to("meta")
    assert empty(*on_meta).shape == (3, 5, 2)
    assert empty(*on_meta).is_meta
    assert empty.predict_query(*on_meta).shape == (3, 2)
    state = empty.observe(empty.init_state(3, device="meta"), *on_meta)
    assert empty.predict(state, on_meta[0]).shape == (3, 5, 2)

    filled = empty.to_empty(device="cpu")
    filled.load_state_dict(whole.state_dict())
    assert torch.equal(filled(x, y), whole(x, y))
