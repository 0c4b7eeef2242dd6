"""Hidden states are those of the forward pass, and probes find in them what was put there."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot

import zoo
from datamodules import create_sampler
from datamodules.stream import Generators
from tests.conftest import MakePairs
from tests.zoo.test_online_learner import learner
from tests.zoo.test_token_layouts import DEEP, LAYOUTS, create
from zoo.analysis.hidden import apart, hidden_states, streaming_states
from zoo.analysis.probes import fit_probe, probe, probe_all, r_squared, rows
from zoo.models.gd_ssm import construct_gradient_descent_
from zoo.models.online_learner import construct_solver_
from zoo.models.sequence import SequenceModel

NUM = 300


def episodes(split: Any, num: int = NUM, **spec: Any) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """x and y in float64, and what they were drawn from."""
    sampler = create_sampler({"d_x": 3, "d_y": 2, "num_context": 6, **spec})
    drawn, latents = sampler.sample(num, Generators(0, split, 0, "cpu"), latents=True)
    return drawn.x.double(), drawn.y.double(), latents


def sums(x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """The moments A and B at every position."""
    return streaming_states(zoo.create_solver("zero", d_x=x.shape[2], d_y=y.shape[2]), x, y)


@pytest.mark.parametrize("name", DEEP)
@pytest.mark.parametrize("tokens", LAYOUTS)
def test_the_last_hidden_state_is_read_out_as_the_prediction(
    name: str, tokens: str, make_pairs: MakePairs
) -> None:
    model = create(name, tokens)
    x, y = make_pairs(4, 2, 5)
    before = model(x, y)
    hidden = hidden_states(model, x, y)
    assert hidden.queries.shape == (3, 3, 5, 32)
    assert hidden.examples.shape == (3, 3, 4, 32)
    prediction = model.readout(model.norm(hidden.queries[-1])) / model.y_scale
    torch.testing.assert_close(prediction, before, rtol=0, atol=0)
    assert len(model.blocks) == 2
    torch.testing.assert_close(model(x, y), before, rtol=0, atol=0)


@pytest.mark.parametrize("tokens", LAYOUTS)
def test_hidden_states_see_what_their_position_may_see(tokens: str, make_pairs: MakePairs) -> None:
    model = create("delta_net", tokens)
    x, y = make_pairs(4, 2, 5)
    hidden = hidden_states(model, x, y)
    later_x, later_y = x.clone(), y.clone()
    later_x[:, 3:], later_y[:, 2:] = 0, 0
    changed = hidden_states(model, later_x, later_y)
    same_queries = (hidden.queries == changed.queries).all(-1).all(0).all(0)
    assert same_queries.tolist() == [True, True, True, False, False]
    same_examples = (hidden.examples == changed.examples).all(-1).all(0).all(0)
    # Example 2 has lost its label, which is never read where labels are hidden.
    assert same_examples.tolist() == [True, True, tokens == "inputs", False]
    u = model.embed_x(x * model.x_scale)
    if tokens in ("interleaved", "inputs"):
        assert torch.equal(hidden.queries[0], u)
    if tokens == "pairs":
        assert model.embed_y is not None
        assert torch.equal(hidden.examples[0], (u + model.embed_y(y * model.y_scale))[:, :-1])


def test_gradients_pass_through_hidden_states(make_pairs: MakePairs) -> None:
    model = create("transformer", "interleaved")
    x, y = make_pairs(4, 2, 5)
    x.requires_grad_()
    hidden_states(model, x, y).queries[1, :, -1].sum().backward()
    assert x.grad is not None
    assert x.grad[:, 0].abs().sum() > 0


def test_a_copy_shares_weights_and_nothing_else(make_pairs: MakePairs) -> None:
    model = create("s5", "interleaved")
    x, y = make_pairs(4, 2, 5)
    before = model(x, y)
    twin = apart(model)
    twin.blocks = model.blocks[:1]
    twin.readout = torch.nn.Linear(32, 2).double()
    assert not torch.equal(twin(x, y), before)
    assert torch.equal(model(x, y), before)
    assert isinstance(twin, SequenceModel)
    assert twin.embed_x is model.embed_x


@pytest.mark.parametrize("name", ["gd_ssm", "online_learner", "mamba", "s5", "delta_net"])
def test_states_at_a_position_are_those_after_as_many_examples(
    name: str, make_pairs: MakePairs
) -> None:
    arguments: dict[str, Any] = {"num_layers": 2, "d_model": 16} if name in DEEP else {}
    model = zoo.create_model(name, d_x=4, d_y=2, **arguments).double()
    x, y = make_pairs(4, 2, 5)
    found = streaming_states(model, x, y)
    assert found
    assert {len(part) for part in found.values()} == {3}
    assert {part.shape[1] for part in found.values()} == {5}
    prefix = streaming_states(model, x[:, :4], y[:, :4])
    for part, shorter in zip(found.values(), prefix.values(), strict=True):
        torch.testing.assert_close(part[:, :4], shorter, rtol=0, atol=0)


def test_a_growing_state_and_a_model_without_a_stream_are_refused(make_pairs: MakePairs) -> None:
    x, y = make_pairs(4, 2, 5)
    with pytest.raises(ValueError, match="state of Transformer grows with the examples"):
        streaming_states(create("transformer", "interleaved"), x, y)
    with pytest.raises(ValueError, match="state of Transformer grows with the examples"):
        streaming_states(create("transformer", "interleaved"), x[:, :1], y[:, :1])
    found = streaming_states(zoo.create_model("gd_ssm", d_x=4, d_y=2).double(), x[:, :1], y[:, :1])
    assert found["Z"].shape[:2] == (3, 1)
    assert not found["Z"].any()
    with pytest.raises(ValueError, match="those of a SequenceModel, got GDSSM; streaming_states"):
        hidden_states(zoo.create_model("gd_ssm", d_x=4, d_y=2).double(), x, y)  # type: ignore[arg-type]


def test_the_state_of_a_constructed_gd_ssm_tells_the_moments_and_one_step() -> None:
    model = zoo.create_model("gd_ssm", d_x=3, d_y=2, num_steps=3).double()
    construct_gradient_descent_(model, 0.4)
    states, moments = {}, {}
    for split in ("train", "test"):
        x, y, _ = episodes(split)
        Z = streaming_states(model, x, y)["Z"]
        # The product of the newest example waits for the next input.
        states[split], moments[split] = Z[:, -1], {k: v[:, -2] for k, v in sums(x, y).items()}
    for name in ("A", "B"):
        found = probe(*((states[s], moments[s][name]) for s in ("train", "test")))
        assert found.r2.value == pytest.approx(1, abs=1e-9)
        assert abs(found.shuffled.value) < 0.05


@pytest.mark.parametrize(
    ("arguments", "construction", "solver", "of_solver"),
    [
        ({"rule": "delta_rule"}, {"step_size": 0.3}, "online_gradient_descent", {"step_size": 0.3}),
        ({"rule": "longhorn"}, {"step_size": 0.7}, "longhorn", {"step_size": 0.7}),
        ({"rule": "gated_linear_attention"}, {"step_size": 0.3}, "zero", {}),
    ],
)
def test_the_state_of_a_constructed_learner_tells_the_weights_of_its_solver(
    arguments: dict[str, Any],
    construction: dict[str, float],
    solver: str,
    of_solver: dict[str, Any],
) -> None:
    model = construct_solver_(learner(3, 2, **arguments), **construction)
    exact = zoo.create_solver(solver, d_x=3, d_y=2, **of_solver)
    parts = []
    for split in ("train", "test"):
        x, y, _ = episodes(split)
        known = streaming_states(exact, x, y)
        W = known["W"] if "W" in known else known["B"]
        parts.append((streaming_states(model, x, y)["S"][:, -1], W[:, -1]))
    found = probe(*parts)
    assert found.r2.value == pytest.approx(1, abs=1e-9)
    assert found.r2.ci95 < 1e-9
    assert abs(found.shuffled.value) < 0.05


def test_untrained_models_tell_less_and_their_controls_nothing() -> None:
    constructed = construct_solver_(learner(3, 2, rule="delta_rule"), step_size=0.3)
    deep = create_untrained()
    exact = zoo.create_solver("ridge", d_x=3, d_y=2, penalty=0.5)
    learned, hidden = [], []
    for split in ("train", "test"):
        x, y, _ = episodes(split)
        state = exact.observe(exact.init_state(NUM), x[:, :-1], y[:, :-1])
        W = exact.predict(state, torch.eye(3, dtype=x.dtype).expand(NUM, -1, -1))
        learned.append((streaming_states(constructed, x, y)["S"][:, -1], W))
        hidden.append((hidden_states(deep, x, y).queries[-1, :, -1].detach(), W))
    with_state, untrained = probe(*learned), probe(*hidden)
    assert with_state.r2.value > 0.8
    assert untrained.r2.value < 0.2
    for found in (with_state, untrained):
        assert abs(found.shuffled.value) < 0.05


def create_untrained() -> SequenceModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = zoo.create_model("transformer", d_x=3, d_y=2, d_model=16, num_layers=2).double()
    assert isinstance(model, SequenceModel)
    return model


@pytest.mark.parametrize(
    ("spec", "latent"),
    [
        ({"function": {"name": "linear_pool", "pool_size": 4}, "noise": 0.1}, "pool_member"),
        ({"function": {"name": "linear"}, "noise": 0.1}, "weights"),
    ],
)
def test_latents_of_the_sampler_are_targets(spec: dict[str, Any], latent: str) -> None:
    parts = []
    for split in ("train", "test"):
        x, y, latents = episodes(split, **spec)
        target = latents[latent]
        if latent == "pool_member":
            target = one_hot(target, 4)
        least = zoo.create_solver("least_squares", d_x=3, d_y=2)
        state = least.observe(least.init_state(NUM), x[:, :-1], y[:, :-1])
        W = least.predict(state, torch.eye(3, dtype=x.dtype).expand(NUM, -1, -1))
        parts.append((W, target))
    found = probe(*parts)
    assert found.r2.value > 0.5
    assert abs(found.shuffled.value) < 0.05


@pytest.mark.parametrize(
    ("spec", "latent", "most"),
    [
        ({"function": {"name": "word_problem"}, "num_context": 8}, "element", 0.42),
        ({"function": {"name": "recall"}}, "value", 0.1),
        ({"d_x": 5, "d_y": 1, "function": {"name": "tabular"}}, "noise_level", 0.1),
    ],
)
def test_latents_are_found_where_they_are_and_hardly_in_untrained_models(
    spec: dict[str, Any], latent: str, most: float
) -> None:
    num = 4 * NUM  # so that every symbol is among those that are fitted
    sampler, constructed, untrained = create_sampler(spec), [], []
    widths = {"d_x": sampler.spec.d_x, "d_y": sampler.spec.d_y}
    tokens = "inputs" if sampler.spec.labels_hidden else "interleaved"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = zoo.create_model("delta_net", d_model=16, num_layers=2, tokens=tokens, **widths)
        mixed = torch.randn(100, 100).double()
    assert isinstance(model, SequenceModel)
    for split in ("train", "test"):
        generators = Generators(0, split, 0, "cpu")  # type: ignore[arg-type]
        drawn, known = sampler.sample(num, generators, latents=True)
        target = known[latent]
        if target.ndim > 1:  # symbols, by position
            target = one_hot(target[:, -1], 64)
        # What is known stands among what is not, and all of it is mixed.
        h = torch.randn(num, 100, generator=torch.Generator().manual_seed(len(constructed)))
        h = h.double()
        of_target = target.reshape(num, -1).double()
        h[:, : of_target.shape[1]] = of_target
        constructed.append((h @ mixed, target))
        u = hidden_states(model, drawn.x, drawn.y).queries[-1, :, -1].detach()
        untrained.append((u, target))
    assert probe(*constructed).r2.value == pytest.approx(1, abs=1e-6)
    assert abs(probe(*untrained).r2.value) < most


def test_a_linear_probe_is_ordinary_least_squares() -> None:
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(40, 5, generator=generator, dtype=torch.float64)
    t = torch.randn(40, 2, generator=generator, dtype=torch.float64)
    found = fit_probe(h, t, (0.0,))
    ones = torch.cat([h, torch.ones(40, 1, dtype=torch.float64)], dim=1)
    expected = ones @ torch.linalg.lstsq(ones, t).solution
    torch.testing.assert_close(found(h), expected)
    left = (t - expected).square().sum() / (t - t.mean(0)).square().sum()
    assert r_squared(found, h, t).value == pytest.approx(1 - left.item())


def test_targets_that_are_probed_together_have_the_probes_of_each() -> None:
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(80, 5, generator=generator, dtype=torch.float64)
    t = {"first": h[:, 0] + 0.1 * h[:, 1] ** 2, "second": h[:, 1:3] * h[:, :1]}
    found = probe_all(
        *((h[part], {k: v[part] for k, v in t.items()}) for part in (slice(40), slice(40, 80)))
    )
    for name, score in found.items():
        alone = probe((h[:40], t[name][:40]), (h[40:], t[name][40:]))
        assert score.r2 == pytest.approx(alone.r2)
        assert score.penalty == alone.penalty


def test_the_penalty_is_large_where_features_are_noise_and_zero_where_they_are_the_target() -> None:
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(60, 40, generator=generator, dtype=torch.float64)
    t = torch.randn(60, 1, generator=generator, dtype=torch.float64)
    assert fit_probe(h, t).penalty >= 0.1
    assert fit_probe(h, h[:, :1]).penalty < 1e-9


def test_of_penalties_that_are_as_good_the_largest_is_taken() -> None:
    """Of a target that is hardly there, what is chosen tells about nothing, never less."""
    generator, found = torch.Generator().manual_seed(0), []
    for _ in range(20):
        h = torch.randn(400, 60, generator=generator, dtype=torch.float64)
        t = torch.randn(400, 1, generator=generator, dtype=torch.float64)
        score = probe((h[:200], t[:200]), (h[200:], t[200:]))
        found.append(score.r2.value)
    assert sum(found) / 20 > -0.02
    # And where the target is there, it is found as with the best of all penalties.
    t = h[:, :1] + 0.1 * t
    best = max(
        r_squared(fit_probe(h[:200], t[:200], (q,)), h[200:], t[200:]).value for q in (0.0, 1e-3)
    )
    assert probe((h[:200], t[:200]), (h[200:], t[200:])).r2.value > best - 0.005


def test_features_that_are_always_the_same_tell_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    t = torch.randn(80, 2, generator=generator, dtype=torch.float64)
    for value in (0.0, 0.1):
        found = probe((torch.full((40, 3), value), t[:40]), (torch.full((40, 3), value), t[40:]))
        assert abs(found.r2.value) < 0.2
        assert torch.isfinite(torch.tensor(found.r2))[0]


def test_imaginary_parts_are_told_as_well() -> None:
    generator = torch.Generator().manual_seed(0)
    pairs = torch.randn(80, 3, 2, generator=generator, dtype=torch.float64)
    h, t = torch.view_as_complex(pairs), pairs[..., 1]
    found = probe((h[:40], t[:40]), (h[40:], t[40:]))
    assert found.r2.value == pytest.approx(1)
    assert found == probe((pairs[:40], t[:40]), (pairs[40:], t[40:]))
    assert probe((t[:40], h[:40]), (t[40:], h[40:])).r2.value < 0.9  # not the real parts
    conjugate = h.conj()  # which torch has not computed yet
    torch.testing.assert_close(rows(conjugate)[:, 1::2], -rows(h)[:, 1::2])
    assert probe((conjugate[:40], t[:40]), (conjugate[40:], t[40:])).r2.value == pytest.approx(1)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda h, t: (h, t[:, :1]), "reads 2 numbers from 3 features, got 1 and 3"),
        (lambda h, t: (h[:, :1], t), "reads 2 numbers from 3 features, got 2 and 1"),
        (lambda h, t: (h, t[:1]), "same episodes, at least 2 of them, got 20 and 1"),
        (lambda h, t: (h[:1], t[:1]), "same episodes, at least 2 of them, got 1 and 1"),
        (lambda h, t: (h[:0], t[:0]), "same episodes, at least 2 of them, got 0 and 0"),
        (lambda h, t: (h, t * torch.nan), "targets must be finite, got 40 of 40"),
        (lambda h, t: (h / 0, t), "features must be finite, got 60 of 60"),
    ],
)
def test_a_probe_is_scored_on_what_it_was_fitted_to(wrong: Any, said: str) -> None:
    generator = torch.Generator().manual_seed(0)
    h, t = torch.rand(20, 3, generator=generator), torch.rand(20, 2, generator=generator)
    with pytest.raises(ValueError, match=said):
        r_squared(fit_probe(h, t), *wrong(h, t))


def test_what_cannot_be_probed_is_refused() -> None:
    h = torch.zeros(10, 2)
    with pytest.raises(ValueError, match="same episodes, at least 8 of them, got 10 and 9"):
        fit_probe(h, torch.zeros(9, 1))
    with pytest.raises(ValueError, match="same episodes, at least 8 of them, got 7 and 7"):
        fit_probe(h[:7], torch.zeros(7))
    with pytest.raises(ValueError, match="penalties must be one or more numbers from 0 on"):
        fit_probe(h, torch.zeros(10), ())
    for penalties in (0.1, (-1.0,), (math.nan,), (0.0, math.nan), (0.0, math.inf)):
        with pytest.raises(ValueError, match="penalties must be one or more numbers from 0 on"):
            fit_probe(h, torch.zeros(10), penalties)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="features must be finite, got 20 of 20"):
        fit_probe(h / 0, torch.zeros(10))
    with pytest.raises(ValueError, match=r"the same names, got \['a'\] and \['b'\]"):
        probe_all((h, {"a": h}), (h, {"b": h}))
    with pytest.raises(ValueError, match="targets must be finite, got 10 of 10"):
        fit_probe(h, torch.zeros(10) / 0)
    with pytest.raises(ValueError, match="at least one feature and one target"):
        fit_probe(h[:, :0], torch.zeros(10))
    with pytest.raises(ValueError, match="targets do not vary"):
        probe((h, torch.zeros(10)), (h, torch.zeros(10)))
