"""What is written into a model moves its prediction as far as it must, and parts can be taken."""

import math
import re
from contextlib import suppress
from typing import Any

import pytest
import torch
from torch import Tensor

import zoo
from tests.conftest import MakePairs
from tests.zoo.test_lens import step_model
from tests.zoo.test_online_learner import learner
from tests.zoo.test_probes import episodes
from tests.zoo.test_token_layouts import DEEP, LAYOUTS, create
from zoo.analysis.ablations import ablated, ablations, error_increases
from zoo.analysis.hidden import streaming_states
from zoo.analysis.interventions import (
    at_layer,
    effect,
    exact_change,
    followed,
    in_state,
    probe_change,
)
from zoo.analysis.probes import fit_probe
from zoo.models.gd_ssm import construct_gradient_descent_
from zoo.models.online_learner import construct_solver_
from zoo.predictor import Predictor

LEARNERS: dict[str, tuple[dict[str, Any], dict[str, float]]] = {
    "delta_rule": ({"rule": "delta_rule"}, {"step_size": 0.3}),
    "mesa": ({"rule": "mesa"}, {"ridge": 0.4}),
    "gated_linear_attention": (
        {"rule": "gated_linear_attention", "decay": "head"},
        {"step_size": 0.3, "forgetting": 0.9},
    ),
}


def constructed(name: str) -> Predictor:
    if name.startswith("gd_ssm"):
        return step_model("gd_ssm", int(name[-1]), 0.4)
    arguments, construction = LEARNERS[name]
    return construct_solver_(learner(3, 2, **arguments), **construction)


def solved(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The weights of least squares after all examples, and its predictions at the query."""
    solver = zoo.create_solver("least_squares", d_x=3, d_y=2)
    state = solver.observe(solver.init_state(len(x)), x[:, :-1], y[:, :-1])
    W = solver.predict(state, torch.eye(3, dtype=x.dtype).expand(len(x), -1, -1))
    return W, solver.predict_query(x, y)


@pytest.mark.parametrize("name", [*LEARNERS, "gd_ssm 1", "gd_ssm 3"])
def test_the_exact_state_answers_as_the_solver_and_a_random_one_does_not(name: str) -> None:
    model = constructed(name)
    x, y, _ = episodes("test", 1000, noise=0.3)
    W, wanted = solved(x, y)
    site = in_state(model, x, y, "Z" if name.startswith("gd_ssm") else "S")
    torch.testing.assert_close(site.answer(site.h), model.predict_query(x, y), rtol=0, atol=1e-12)
    change = exact_change(model, x, y, W)
    torch.testing.assert_close(site.answer(site.h + change), wanted, rtol=0, atol=1e-10)
    # Those of another episode, and as control those of a third.
    of = [W.roll(k, dims=0) for k in (1, 2)]
    other = torch.einsum("bp,bpq->bq", x[:, -1], of[0])
    found = effect(site, *(exact_change(model, x, y, V) for V in of), other)
    assert found.written.value == pytest.approx(1, abs=1e-9)
    assert found.written.ci95 < 1e-9
    # The mean of the control is zero: 1 of 20 is out of the interval, of twice the interval none.
    assert abs(found.control.value) < 2 * found.control.ci95 < 0.5


def test_a_probe_that_reads_the_weights_writes_them() -> None:
    model = constructed("delta_rule")
    solver = zoo.create_solver("online_gradient_descent", d_x=3, d_y=2, step_size=0.3)
    x, y, _ = episodes("train")
    W = streaming_states(solver, x, y)["W"][:, -1]
    known = in_state(model, x, y, "S").h
    found = fit_probe(known, W)
    x, y, _ = episodes("test", 200, noise=0.3)
    W, wanted = solved(x, y)
    site = in_state(model, x, y, "S")
    change = probe_change(found, known, site.h, W)
    torch.testing.assert_close(change, exact_change(model, x, y, W), rtol=0, atol=1e-8)
    assert effect(site, change, 0 * change, wanted).written.value == pytest.approx(1, abs=1e-7)
    # Half the way, and the other way.
    for share in (0.5, -0.5):
        half = effect(site, share * change, 0 * change, wanted)
        assert half.written.value == pytest.approx(share, abs=1e-7)
        assert half.control == pytest.approx((0, 0), abs=1e-7)


def test_answers_that_have_nothing_to_do_with_what_is_written_have_no_effect() -> None:
    """Neither zero, nor the double of what was there, nor anything else but the wanted ones."""
    generator = torch.Generator().manual_seed(0)
    p, g, other = torch.randn(3, 4000, 2, generator=generator, dtype=torch.float64)
    g = g + 0.5 * p  # as of algorithms that are near each other
    for after in (0 * p, 2 * p, p):
        assert followed(p, after, g) == pytest.approx((0, 0), abs=1e-12)
    assert followed(p, 0.3 * p + 0.7 * g, g) == pytest.approx((0.7, 0), abs=1e-12)
    found = followed(p, other, g)
    assert abs(found.value) < 2 * found.ci95 < 0.1
    # One that answers nothing can be moved as well.
    assert followed(0 * p, 0.7 * g, g) == pytest.approx((0.7, 0), abs=1e-12)


def test_the_interval_of_an_effect_holds_it_nineteen_times_of_twenty() -> None:
    generator, hits = torch.Generator().manual_seed(0), 0
    for _ in range(400):
        p, g, noise = torch.randn(3, 50, 2, generator=generator, dtype=torch.float64)
        found = followed(p, 0.2 * p + 0.6 * g + noise.roll(1, 1) + noise, g)
        hits += abs(found.value - 0.6) < found.ci95
    assert 0.9 < hits / 400 < 0.98


def test_features_change_as_they_hang_together() -> None:
    """Of three features the first is read; the second is its double, the third has noise of it."""
    generator = torch.Generator().manual_seed(0)
    first, noise = torch.randn(2, 4000, generator=generator, dtype=torch.float64)
    h = torch.stack([first, 2 * first, first + noise], dim=1)
    found = fit_probe(h[:, :1] * torch.ones(3), first, (0.0,))
    found = found._replace(weight=torch.tensor([[1.0], [0.0], [0.0]]).double())
    change = probe_change(found, h, h[:40], found(h[:40]) + 1)
    expected = torch.tensor([1.0, 2.0, 1.0]).double().expand(40, 3)
    torch.testing.assert_close(change, expected, rtol=0, atol=0.05)


def test_a_change_does_not_depend_on_the_scale_of_features() -> None:
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(400, 6, generator=generator, dtype=torch.float64)
    mixed = h @ torch.randn(6, 6, generator=generator, dtype=torch.float64)
    wanted = torch.randn(40, 2, generator=generator, dtype=torch.float64)
    scaled = mixed * torch.tensor([1, 1e3, 1, 1e-3, 1, 1]).double()
    for features in (mixed, scaled):
        found = fit_probe(features, h[:, :2], (0.0,))
        change = probe_change(found, features, features[:40], wanted)
        torch.testing.assert_close(found(features[:40] + change), wanted, rtol=0, atol=1e-6)
        as_h = torch.linalg.lstsq(features, h).solution
        if features is mixed:
            expected = change @ as_h
        else:
            torch.testing.assert_close(change @ as_h, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("tokens", LAYOUTS)
@pytest.mark.parametrize("name", ["transformer", "mamba"])
def test_what_is_written_into_a_layer_is_gone_on_from(
    name: str, tokens: str, make_pairs: MakePairs
) -> None:
    """With the stream of another token in its place, a model goes on as if it had seen that."""
    model = create(name, tokens)
    x, y = make_pairs(4, 2, 5)
    expected = model.predict_query(x, y)
    other_x, other_y = x.clone(), y.clone()
    other_x[:, -1] += 1
    for layer in range(3):
        site, other = (at_layer(model, x_, y, layer) for x_ in (x, other_x))
        torch.testing.assert_close(site.answer(site.h), expected)
        torch.testing.assert_close(site.answer(other.h), model.predict_query(other_x, y))
    other_y[:, -2] += 1
    site, other = (at_layer(model, x, y_, 0, token="example") for y_ in (y, other_y))
    torch.testing.assert_close(site.answer(other.h), model.predict_query(x, other_y))
    torch.testing.assert_close(model.predict_query(x, y), expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["s5", "delta_net"])
def test_states_of_deep_models_are_places_too(name: str, make_pairs: MakePairs) -> None:
    model = create(name, "interleaved")
    x, y = make_pairs(4, 2, 5)
    part = [*streaming_states(model, x, y)][-1]
    site = in_state(model, x, y, part)
    torch.testing.assert_close(site.answer(site.h), model.predict_query(x, y))
    assert not torch.equal(site.answer(site.h + 1), site.answer(site.h))


def test_what_cannot_be_written_is_refused(make_pairs: MakePairs) -> None:
    model = constructed("delta_rule")
    x, y, _ = episodes("test", 5)
    W, wanted = solved(x, y)
    with pytest.raises(ValueError, match="state of OnlineLearner has S, start, got 'Z'"):
        in_state(model, x, y, "Z")
    with pytest.raises(ValueError, match="online_learner or a gd_ssm, got Transformer"):
        exact_change(create("transformer", "pairs", d_x=3), x, y, W)
    with pytest.raises(ValueError, match=re.escape("W must be (5, 3, 2)")):
        exact_change(model, x, y, W[:, :2])
    with (
        ablated(model, "layer 1"),
        pytest.raises(ValueError, match="no state of this OnlineLearner"),
    ):
        exact_change(model, x, y, W)
    for share in (1, -2):
        with pytest.raises(ValueError, match="there is nothing to follow"):
            followed(wanted, wanted + 1, share * wanted)
    with pytest.raises(ValueError, match="one shape"):
        followed(wanted, wanted, wanted[:, :1])
    with pytest.raises(ValueError, match="reads 1 numbers from 2 features, got 6 and 6"):
        probe_change(fit_probe(torch.rand(9, 2), torch.rand(9)), W, W, W)
    deep = create("transformer", "pairs", d_x=3)
    with pytest.raises(ValueError, match="from 0 to 2, got 3"):
        at_layer(deep, x, y, 3)
    for layer in (1.0, "1", True):
        with pytest.raises(ValueError, match=f"whole number from 0 to 2, got {layer!r}"):
            at_layer(deep, x, y, layer)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=re.escape("such as ['layer 1'], got 'layer 1'")):
        error_increases(deep, x, y, y, "layer 1")
    with pytest.raises(ValueError, match="at least 2 episodes, got 1"):
        error_increases(deep, x[:1], y[:1], y[:1], ["layer 1"])
    with pytest.raises(ValueError, match="that of a SequenceModel, got OnlineLearner"):
        at_layer(model, x, y, 0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least one example"):
        at_layer(deep, x[:, :1], y[:, :1], 0, "example")


@pytest.mark.parametrize("kind", ["gd_ssm", "linear_transformer", "linear_transformer, shared"])
@pytest.mark.parametrize("num_steps", [1, 3])
def test_a_constructed_model_without_a_layer_is_a_step_less(kind: str, num_steps: int) -> None:
    model = step_model(kind, num_steps, 0.4)
    x, y, _ = episodes("test", 20)
    expected = torch.zeros_like(y)
    if num_steps > 1:
        expected = step_model(kind, num_steps - 1, 0.4)(x, y)
    for layer in range(1, num_steps + 1):
        with ablated(model, f"layer {layer}") as cut:
            torch.testing.assert_close(cut(x, y), expected, rtol=0, atol=1e-14)


def test_a_learned_start_and_step_sizes_stay_without_a_step() -> None:
    model = zoo.create_model("gd_ssm", d_x=3, d_y=2, num_steps=2, learn_start=True).double()
    W_0 = torch.ones(2, 3).double()
    construct_gradient_descent_(model, [0.2, 0.5], W_0)
    x, y, _ = episodes("test", 20)
    single = zoo.create_model("gd_ssm", d_x=3, d_y=2, learn_start=True).double()
    for layer, kept in ((1, 0.2), (2, 0.5)):  # layer 1 is the last step
        construct_gradient_descent_(single, kept, W_0)
        with ablated(model, f"layer {layer}"):
            torch.testing.assert_close(model(x, y), single(x, y), rtol=0, atol=1e-14)


def test_without_decay_a_learner_forgets_nothing() -> None:
    x, y, _ = episodes("test", 20)
    model = constructed("gated_linear_attention")
    summed = construct_solver_(learner(3, 2, rule="gated_linear_attention"), step_size=0.3)
    with ablated(model, "decay"):
        torch.testing.assert_close(model(x, y), summed(x, y), rtol=0, atol=1e-12)
    gd_ssm = zoo.create_model("gd_ssm", d_x=3, d_y=2).double()
    without = zoo.create_model("gd_ssm", d_x=3, d_y=2, decay="none").double()
    without.load_state_dict(gd_ssm.state_dict(), strict=False)
    with ablated(gd_ssm, "decay"):
        torch.testing.assert_close(gd_ssm(x, y), without(x, y), rtol=0, atol=1e-15)


@pytest.mark.parametrize("name", [*DEEP, "gd_ssm", "gd_ssm_embedded", "online_learner"])
def test_every_part_counts_and_the_model_is_the_same_afterwards(
    name: str, make_pairs: MakePairs
) -> None:
    arguments = {"rule": "gated_delta_rule", "decay": "key"} if name == "online_learner" else {}
    if name in DEEP:
        model: Predictor = create(name, "interleaved", d_x=3)
    else:
        model = zoo.create_model(name, d_x=3, d_y=2, **arguments).double()
    for parameter in model.parameters():  # decays and gates that are away from their start
        parameter.data += 0.1
    x, y = make_pairs(3, 2, 5)
    before, state = model(x, y), model.state_dict(keep_vars=True)
    values = {key: value.detach().clone() for key, value in state.items()}
    names = ablations(model)
    for part in names:
        with suppress(KeyError), ablated(model, part) as cut:
            found = cut(x, y)
            streamed = cut.observe(cut.init_state(len(x), dtype=x.dtype), x[:, :-1], y[:, :-1])
            last = cut.predict(streamed, x[:, -1:])
            raise KeyError
        assert found.isfinite().all(), part
        assert not torch.equal(found, before), part
        torch.testing.assert_close(last, found[:, -1:], rtol=0, atol=1e-9)
    after = model.state_dict(keep_vars=True)
    assert [*after] == [*state]
    assert all(after[key] is state[key] for key in state)
    assert all(torch.equal(after[key], values[key]) for key in state)
    torch.testing.assert_close(model(x, y), before, rtol=0, atol=0)


def test_errors_grow_by_what_a_part_did() -> None:
    model = step_model("gd_ssm", 2, 0.4)
    x, y, _ = episodes("test", 200)
    found = error_increases(model, x, y, y)
    assert [*found] == ["layer 1", "layer 2", "place 1", "place 2", "place 3", "decay"]
    one = step_model("gd_ssm", 1, 0.4).predict_query(x, y)
    difference = (one - y[:, -1]).square() - (model.predict_query(x, y) - y[:, -1]).square()
    assert found["layer 1"].value == pytest.approx(0.5 * difference.mean().item())
    assert found["layer 1"].value > found["layer 1"].ci95 > 0
    assert found["decay"] == (0, 0)  # constructed ones have none
    assert [*error_increases(model, x, y, y, ["decay"])] == ["decay"]


@pytest.mark.parametrize(
    "wrong", [lambda t: t[:, -1], lambda t: t[..., 0], lambda t: t[:1], lambda t: t[..., :1]]
)
def test_a_target_of_another_shape_is_not_broadcast(wrong: Any) -> None:
    model = step_model("gd_ssm", 2, 0.4)
    x, y, _ = episodes("test", 20)
    with pytest.raises(ValueError, match=re.escape("target must have the shape of y, (20, 7, 2)")):
        error_increases(model, x, y, wrong(y))


def test_numbers_that_are_not_finite_have_no_effect_and_no_errors() -> None:
    model = constructed("delta_rule")
    x, y, _ = episodes("test", 20)
    W, wanted = solved(x, y)
    site = in_state(model, x, y, "S")
    change, bad = exact_change(model, x, y, W), torch.full_like(W, torch.nan)
    for given in ((change * torch.nan, change, wanted), (change, change, wanted * torch.inf)):
        with pytest.raises(ValueError, match="must be finite, got 40 of 40"):
            effect(site, *given)
    with pytest.raises(ValueError, match="W must be finite"):
        exact_change(model, x, y, bad)
    with pytest.raises(ValueError, match="W must be finite, got 120 of 120"):
        probe_change(fit_probe(site.h, W), site.h, site.h, bad)
    with pytest.raises(ValueError, match="x must be finite"):
        error_increases(model, x * torch.nan, y, y)
    with pytest.raises(ValueError, match="target must be finite"):
        error_increases(model, x, y, y * torch.nan)


def test_one_row_is_not_written_into_all_episodes() -> None:
    model, deep = constructed("delta_rule"), create("transformer", "pairs", d_x=3)
    x, y, _ = episodes("test", 20)
    W, wanted = solved(x, y)
    for site in (in_state(model, x, y, "S"), at_layer(deep, x, y, 1)):
        one, zero = torch.ones_like(site.h[:1]), torch.zeros_like(site.h)
        for given in ((one, zero), (zero, one)):
            with pytest.raises(ValueError, match="must have the shape of Site.h"):
                effect(site, *given, wanted)
        with pytest.raises(ValueError, match="h must have the shape of Site.h"):
            site.answer(one)
    h = in_state(model, x, y, "S").h
    with pytest.raises(ValueError, match="of the same episodes, got 20 and 1 of them"):
        probe_change(fit_probe(h, W), h, h, W[:1])
    with pytest.raises(ValueError, match="an effect needs at least 2 episodes, got 1"):
        followed(wanted[:1], wanted[:1] + 1, wanted[:1])


def test_a_change_of_complex_numbers_is_one_of_pairs() -> None:
    h = torch.view_as_complex(torch.randn(40, 3, 2, generator=torch.Generator().manual_seed(0)))
    W = h[:, 0].imag
    found = fit_probe(h, W)
    assert found.weight.shape == (6, 1)
    change = probe_change(found, h, h, W + 1)
    assert change.shape == (40, 3, 2)
    assert probe_change(found, h.conj(), h.conj(), W).shape == (40, 3, 2)
    torch.testing.assert_close(
        found(torch.view_as_real(h) + change)[:, 0].float(), W + 1, rtol=0, atol=1e-4
    )


def test_a_refusal_names_what_there_is() -> None:
    model = create("transformer", "interleaved", num_heads=2)
    has = "Transformer has layer 1, head 1.1, head 1.2, layer 2, head 2.1, head 2.2, got 'decay 1'"
    with pytest.raises(ValueError, match=re.escape(has)), ablated(model, "decay 1"):
        pass
    with pytest.raises(ValueError, match="only models have parts, got Ridge"):
        ablations(zoo.create_solver("ridge", d_x=3, d_y=2, penalty=1.0))


def test_a_model_that_overflows_has_no_errors_that_grow() -> None:
    model = step_model("gd_ssm", 2, 1e200)
    x, y, _ = episodes("test", 20)
    with pytest.raises(ValueError, match="predictions of the whole model must be finite, got"):
        error_increases(model, x, y, y, ["layer 1"])


def test_the_error_grows_infinitely_where_a_model_without_a_part_overflows() -> None:
    """Steps that are far too large, held by a decay that is as small."""
    model = learner(3, 2, rule="gated_delta_rule", decay="head")
    construct_solver_(model, step_size=1e60, forgetting=1e-60)
    x, y, _ = episodes("test", 20)
    assert model.predict_query(x, y).isfinite().all()
    found = error_increases(model, x, y, y, ["layer 1", "decay"])
    assert found["decay"] == (math.inf, math.inf)
    assert math.isfinite(found["layer 1"].value)
