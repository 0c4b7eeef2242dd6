"""How pairs become tokens, for every deep architecture and every layout."""

from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

import zoo
from tests.conftest import MakePairs
from zoo.hub.io import load_checkpoint, save_checkpoint
from zoo.layers.attention import SHORT, TransformerBlock
from zoo.layers.block import SequenceBlock
from zoo.models.sequence import SequenceModel, TokenLayout
from zoo.registry import model_arguments

LAYOUTS = get_args(TokenLayout)
DEEP = [name for name in zoo.list_models() if "tokens" in model_arguments(name)]
names = pytest.mark.parametrize("name", DEEP)
layouts = pytest.mark.parametrize("tokens", LAYOUTS)


def blocks_of(name: str) -> dict[str, Any]:
    """Arguments by which a model has two blocks."""
    return {"blocks": ["mamba", "transformer"]} if name == "hybrid" else {"num_layers": 2}


def create(name: str, tokens: str, **arguments: Any) -> SequenceModel:
    """A small float64 model with a random start, for d_x = 4 and d_y = 2."""
    arguments = {"d_x": 4, "d_y": 2, "d_model": 32, **blocks_of(name), **arguments}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = zoo.create_model(name, tokens=tokens, **arguments).double()
    assert isinstance(model, SequenceModel)
    return model


def streamed(model: SequenceModel, x: Tensor, y: Tensor) -> Tensor:
    """Predictions at every position, one pair after the other."""
    state = model.init_state(len(x), dtype=x.dtype)
    predictions = []
    for i in range(x.shape[1]):
        predictions.append(model.predict(state, x[:, i : i + 1]))
        state = model.observe(state, x[:, i : i + 1], y[:, i : i + 1])
    return torch.cat(predictions, dim=1)


def test_every_deep_architecture_has_the_choice() -> None:
    with torch.device("meta"):
        models = {name: zoo.create_model(name, d_x=1, d_y=1) for name in zoo.list_models()}
    assert [name for name, model in models.items() if isinstance(model, SequenceModel)] == DEEP


@names
@layouts
def test_the_layout_of_a_model_is_the_one_it_was_given(name: str, tokens: str) -> None:
    assert create(name, tokens).token_layout == tokens
    assert zoo.create_model(name, d_x=4, d_y=2).token_layout == "interleaved"


@names
@layouts
def test_a_position_depends_on_what_is_before_it_and_on_its_own_input(
    name: str, tokens: str, make_pairs: MakePairs
) -> None:
    model = create(name, tokens)
    x, y = make_pairs(4, 2, 6)
    expected = model(x, y)
    for i in range(6):
        other_x, other_y = x.clone(), y.clone()
        other_x[:, i + 1 :] += 3
        other_y[:, i:] -= 5
        torch.testing.assert_close(model(other_x, other_y)[:, : i + 1], expected[:, : i + 1])
    for i in range(5):  # and it does depend on all of that
        for part in range(2):
            given = [x.clone(), y.clone()]
            given[part][:, i] += 1
            changed = (model(*given) - expected).abs().amax((0, 2)) > 1e-9
            first = i + part if part == 0 or tokens != "inputs" else 6
            assert changed.tolist() == [j >= first for j in range(6)]


@names
@layouts
@pytest.mark.parametrize("length", [1, 2, 7])
def test_streaming_and_the_query_alone_are_what_forward_says(
    name: str, tokens: str, length: int, make_pairs: MakePairs
) -> None:
    model = create(name, tokens)
    x, y = make_pairs(4, 2, length)
    predictions = model(x, y)
    torch.testing.assert_close(streamed(model, x, y), predictions)
    torch.testing.assert_close(model.predict_query(x, y), predictions[:, -1])
    queries = make_pairs(4, 2, 3, seed=1)[0]
    state = model.init_state(len(x), dtype=x.dtype)
    one_by_one = state
    for i in range(length):
        one_by_one = model.observe(one_by_one, x[:, i : i + 1], y[:, i : i + 1])
    expected = model.predict(one_by_one, queries)
    torch.testing.assert_close(model.predict(model.observe(state, x, y), queries), expected)
    alone = [model.predict(one_by_one, query) for query in queries.split(1, dim=1)]
    torch.testing.assert_close(torch.cat(alone, dim=1), expected)


@names
@layouts
def test_the_last_label_is_never_read(name: str, tokens: str, make_pairs: MakePairs) -> None:
    model = create(name, tokens)
    x, y = make_pairs(4, 2, 5)
    expected, query = model(x, y), model.predict_query(x, y)
    y[:, -1] = torch.nan
    assert torch.equal(model(x, y), expected)
    assert torch.equal(model.predict_query(x, y), query)


@names
def test_of_inputs_no_label_is_read(name: str, make_pairs: MakePairs) -> None:
    model = create(name, "inputs")
    x, y = make_pairs(4, 2, 5)
    nothing = torch.full_like(y, torch.nan)
    assert torch.equal(model(x, nothing), model(x, y))
    assert torch.equal(streamed(model, x, nothing), streamed(model, x, y))


@names
@layouts
def test_every_parameter_gets_a_gradient_at_all_positions_and_at_the_query(
    name: str, tokens: str, make_pairs: MakePairs
) -> None:
    x, y = make_pairs(4, 2, 5)
    for method in ("forward", "predict_query"):
        model = create(name, tokens)
        getattr(model, method)(x, y).square().mean().backward()
        for parameter_name, parameter in model.named_parameters():
            assert parameter.grad is not None, parameter_name
            assert parameter.grad.abs().max() > 0, parameter_name


@names
@layouts
def test_stacked_models_are_each_for_itself(name: str, tokens: str, make_pairs: MakePairs) -> None:
    models = [create(name, tokens) for _ in range(2)]
    with torch.no_grad():
        for parameter in models[1].parameters():
            parameter.mul_(1.5)
    parameters, buffers = torch.func.stack_module_state(list[nn.Module](models))
    x, y = make_pairs(4, 2, 5)
    for method in ("forward", "predict_query"):

        def predict(state: Any, method: str = method) -> Tensor:
            own = Asked(models[0], method)
            named = {f"model.{key}": value for key, value in state.items()}
            return torch.func.functional_call(own, named, (x, y))

        together = torch.vmap(predict)(parameters | buffers)
        alone = torch.stack([getattr(model, method)(x, y) for model in models])
        torch.testing.assert_close(together, alone)


class Asked(nn.Module):
    """A model whose `forward` is one of its other methods."""

    def __init__(self, model: SequenceModel, method: str) -> None:
        super().__init__()
        self.model, self.method = model, method

    def forward(self, x: Tensor, y: Tensor) -> Any:
        return getattr(self.model, self.method)(x, y)


@names
@layouts
def test_a_checkpoint_has_the_layout_and_gives_the_same_predictions(
    name: str,
    tokens: str,
    make_pairs: MakePairs,
    tmp_path: Path,
    card_fields: dict[str, Any],
) -> None:
    model = create(name, tokens)
    arguments = {"d_x": 4, "d_y": 2, "d_model": 32, "tokens": tokens, **blocks_of(name)}
    card_fields |= {"architecture": name, "model_args": arguments, "data": {"d_x": 4}}
    save_checkpoint(tmp_path / "checkpoint", model, card_fields)
    loaded = load_checkpoint(tmp_path / "checkpoint")
    x, y = make_pairs(4, 2, 5)
    assert loaded.token_layout == tokens
    assert torch.equal(loaded(x, y), model(x, y))


@names
@layouts
def test_the_size_of_a_state_counts_the_tokens_of_the_layout(
    name: str, tokens: str, make_pairs: MakePairs
) -> None:
    model = create(name, tokens)
    state = model.observe(model.init_state(3), *make_pairs(4, 2, 20))
    parts = [part for block in state.blocks for part in block if part.ndim > 1]
    numbers = [part[0].numel() * (2 if part.is_complex() else 1) for part in parts]
    label = [] if state.label is None else [state.label.shape[1]]
    assert sum(numbers + label) == model.state_size(20)


def test_a_layout_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match="tokens: .*'shifted' or 'inputs', got 'concatenated'"):
        zoo.create_model("mamba", d_x=1, d_y=1, tokens="concatenated")


def test_tokens_are_the_sequences_that_the_class_describes(make_pairs: MakePairs) -> None:
    x, y = make_pairs(4, 2, 3)
    zero = torch.zeros_like(y[:, :1])
    for tokens in LAYOUTS:
        model = create("transformer", tokens, x_scale=2.0, y_scale=0.5, positions="none")
        seen: list[Tensor] = []
        model.blocks[0].register_forward_pre_hook(lambda _, given, seen=seen: seen.append(given[0]))
        model.predict_query(x, y)
        of_x = model.embed_x(2 * x)
        if model.embed_y is None:
            expected = of_x
        else:
            of_y, of_zero = model.embed_y(y / 2), model.embed_y(zero)
            expected = {
                "interleaved": torch.stack(
                    [of_x[:, 0], of_y[:, 0], of_x[:, 1], of_y[:, 1], of_x[:, 2]], 1
                ),
                "shifted": of_x + torch.cat([of_zero, of_y[:, :2]], 1),
                "pairs": of_x + torch.cat([of_y[:, :2], of_zero], 1),
            }[tokens]
        torch.testing.assert_close(seen[0], expected)


@pytest.mark.parametrize(("tokens", "places"), [*zip(LAYOUTS, (9, 5, 5, 5), strict=True)])
def test_learned_positions_count_the_tokens_of_the_layout(
    tokens: str, places: int, make_pairs: MakePairs
) -> None:
    model = create("transformer", tokens, max_context=4)
    positions: Any = model.positions
    assert positions.weight.shape == (places, 32)
    x, y = make_pairs(4, 2, 6)
    model(x[:, :5], y[:, :5])
    with pytest.raises(ValueError, match=r"length 5 \(max_context = 4 and the query\), got 6"):
        model(x, y)
    with torch.no_grad():
        positions.weight[-1] *= 100  # a constant would be normalised away
    before = create("transformer", tokens, max_context=4)(x[:, :5], y[:, :5])
    after = model(x[:, :5], y[:, :5])
    torch.testing.assert_close(after[:, :4], before[:, :4])  # the last place is the last query's
    assert (after[:, 4] - before[:, 4]).abs().max() > 1e-3


@pytest.mark.parametrize("num_pairs", [0, 1, 6, SHORT])
def test_attention_answers_all_queries_at_once_as_one_after_the_other(num_pairs: int) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        block = TransformerBlock(8, num_heads=2).double()
        pairs = torch.randn(3, num_pairs, 8, dtype=torch.float64, requires_grad=True)
        queries = torch.randn(3, num_pairs + 1, 8, dtype=torch.float64, requires_grad=True)
    results = []
    for ask in (block.ask, lambda *given: SequenceBlock.ask(block, *given)):
        after, answers = ask(pairs, queries)
        loss = after.sin().sum() + answers.cos().sum()
        of_all = [pairs, queries, *block.parameters()]
        results.append((after, answers, *torch.autograd.grad(loss, of_all)))
    for at_once, in_turn in zip(*results, strict=True):
        torch.testing.assert_close(at_once, in_turn)


def test_a_token_that_is_no_number_spoils_what_sees_it_alone() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        block = TransformerBlock(8, num_heads=2).double()
        pairs, queries = torch.randn(2, 4, 8).double(), torch.randn(2, 5, 8).double()
    expected = block.ask(pairs, queries)
    pairs[0, 2], queries[1, 1] = torch.nan, torch.inf
    after, answers = block.ask(pairs, queries)
    assert after.isnan().any(-1).tolist() == [[False, False, True, True], [False] * 4]
    spoiled = [[False] * 3 + [True] * 2, [False, True, False, False, False]]
    assert answers.isnan().any(-1).tolist() == spoiled
    whole = ~answers.isnan()
    torch.testing.assert_close(answers[whole], expected[1][whole])


@names
@layouts
def test_all_positions_of_pairs_are_trained_where_they_are_answered_at_once(
    name: str, tokens: str
) -> None:
    model = create(name, tokens)
    model.check_positions("last")
    if tokens != "pairs" or name == "transformer":
        model.check_positions("all")
    else:
        with pytest.raises(ValueError, match="positions=last, got all .*; positions=all takes"):
            model.check_positions("all")
