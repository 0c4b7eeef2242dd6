"""Where something may be known: every model has its places, and they have seen what they say."""

from typing import Any

import pytest
import torch

import zoo
from tests.conftest import MakePairs
from tests.zoo.test_token_layouts import DEEP, create
from zoo.analysis.places import Place, _parts, features, num_seen, places, site
from zoo.predictor import Predictor

NUM = 5
# Tokens of a mini-batch of test-time training here: its weights change after every second token.
OF_TTT = {"mini_batch": 2}


def small(name: str, tokens: str) -> Predictor:
    arguments: dict[str, Any] = OF_TTT if name.startswith("ttt") else {}
    return create(name, tokens, d_model=16, **arguments)


def last_label_changes(model: Predictor, make_pairs: MakePairs) -> dict[Place, bool]:
    """Which places are not the same with another label of the last example."""
    x, y = make_pairs(4, 2, NUM + 1)
    other = y.clone()
    other[:, -2] += 1
    before, after = features(model, x, y), features(model, x, other)
    assert [*before] == [*num_seen(model, NUM)]
    assert all(h.shape[0] == len(x) for h in before.values())
    return {place: not torch.equal(before[place], after[place]) for place in before}


@pytest.mark.parametrize("name", DEEP)
@pytest.mark.parametrize("tokens", ["interleaved", "pairs", "shifted"])
def test_a_state_is_behind_where_the_last_label_does_not_change_it(
    name: str, tokens: str, make_pairs: MakePairs
) -> None:
    model = small(name, tokens)
    changed, seen = last_label_changes(model, make_pairs), num_seen(model, NUM)
    assert [place for place in places(model) if not place.is_state] == [
        Place("stream", 1),
        Place("stream", 2),
    ]
    expected = {"transformer": [], "hybrid": [1]}.get(name, [1, 2])
    assert [place.layer for place in seen if place.is_state] == expected
    for place, is_changed in changed.items():
        if not place.is_state:
            assert is_changed
            assert seen[place] == NUM
        elif name.startswith("ttt"):
            # Five pairs are two mini-batches and one that is under way.
            assert seen[place] == {"interleaved": 5, "pairs": 4, "shifted": 3}[tokens]
        else:
            assert is_changed == (tokens != "shifted")
            assert seen[place] == NUM - (tokens == "shifted")


@pytest.mark.parametrize(
    ("name", "behind"),
    [
        ("gd_ssm", True),
        ("gd_ssm_embedded", True),
        ("gd_ssm_features", True),
        ("online_learner", False),
    ],
)
def test_a_model_of_one_layer_has_one_state(name: str, behind: bool, make_pairs: MakePairs) -> None:
    model = zoo.create_model(name, d_x=4, d_y=2).double()
    assert last_label_changes(model, make_pairs) == {Place("state", 1): not behind}
    assert num_seen(model, NUM) == {Place("state", 1): NUM - behind}


def test_attention_keeps_its_examples_and_has_no_state(make_pairs: MakePairs) -> None:
    full = zoo.create_model("linear_transformer", d_x=4, d_y=2, num_layers=2).double()
    assert last_label_changes(full, make_pairs) == {}
    causal = zoo.create_model("linear_transformer", d_x=4, d_y=2, attention="causal").double()
    assert last_label_changes(causal, make_pairs) == {Place("state", 1): True}
    model = small("hybrid", "pairs")
    x, y = make_pairs(4, 2, NUM + 1)
    with pytest.raises(ValueError, match="Hybrid has stream 1, stream 2, state 1, got state 2"):
        site(model, x, y, Place("state", 2))
    with pytest.raises(ValueError, match="LinearTransformer has no stream and no state"):
        site(full, x, y, Place("state", 1))


def test_the_states_of_every_model_are_its_weights() -> None:
    """The matrices of a recurrence, neither windows before it nor biases behind it."""
    names = {
        "gla": "blocks.1.0",
        "delta_net": "blocks.1.1",
        "mesa_net": "blocks.1.2",
        "gd_ssm_deep": "blocks.1.1",
        "ttt_linear": "blocks.1.2",
        "ttt_mlp": "blocks.1.4",
    }
    for model, name in names.items():
        assert _parts(small(model, "interleaved"))[Place("state", 2)] == name


def test_weights_that_have_not_changed_yet_are_left_out(make_pairs: MakePairs) -> None:
    model = create("ttt_linear", "pairs", d_model=16, mini_batch=8)
    x, y = make_pairs(4, 2, NUM + 1)
    assert [place.kind for place in features(model, x, y)] == ["stream", "stream"]


def test_what_has_no_places_is_refused(make_pairs: MakePairs) -> None:
    x, y = make_pairs(4, 2, NUM + 1)
    ridge = zoo.create_solver("ridge", d_x=4, d_y=2, penalty=1.0)
    for ask in (
        lambda: places(ridge),
        lambda: num_seen(ridge, NUM),
        lambda: features(ridge, x, y),
        lambda: site(ridge, x, y, Place("state", 1)),
    ):
        with pytest.raises(ValueError, match="only models have places, got Ridge"):
            ask()


@pytest.mark.parametrize("place", [Place("stream", 1), Place("state", 0), Place("state", 2)])
def test_a_place_that_a_model_has_not_is_refused(place: Place, make_pairs: MakePairs) -> None:
    x, y = make_pairs(4, 2, NUM + 1)
    model = zoo.create_model("gd_ssm", d_x=4, d_y=2).double()
    with pytest.raises(ValueError, match=f"GDSSM has state 1, got {place.label}"):
        site(model, x, y, place)
    deep = small("delta_net", "pairs")
    for layer in (0, 3):
        with pytest.raises(ValueError, match=f"state 1, state 2, got stream {layer}"):
            site(deep, x, y, Place("stream", layer))


def test_places_need_an_example(make_pairs: MakePairs) -> None:
    x, y = make_pairs(4, 2, 1)
    for model in (small("delta_net", "pairs"), zoo.create_model("gd_ssm", d_x=4, d_y=2).double()):
        with pytest.raises(ValueError, match="at least one example, got num_examples = 0"):
            features(model, x, y)
        with pytest.raises(ValueError, match="at least one example, got num_examples = -1"):
            num_seen(model, -1)


def test_a_state_that_is_not_finite_has_not_seen_all() -> None:
    model = zoo.create_model("online_learner", d_x=4, d_y=2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(torch.nan)
    with pytest.raises(ValueError, match="state 1 must be finite"):
        num_seen(model, NUM)
