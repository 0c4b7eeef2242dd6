"""The rules of fast weights: as published, the same in chunks, causal, handing on their state."""

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from zoo.ops import fast_weights

PUBLISHED = Path(__file__).parents[1] / "data" / "fast_weights_rules.npz"
D_K, D_V, HEADS, HIDDEN = 4, 3, 2, 5


class Case(NamedTuple):
    """A rule with some of its arguments settled.

    Attributes:
        rule: The function.
        arguments: Names of the tensors that it takes after q, k and v, of those in `draw`.
        settled: Its other arguments.
        start: Draws an initial state.
    """

    rule: Callable[..., Any]
    arguments: tuple[str, ...] = ()
    settled: Mapping[str, Any] = MappingProxyType({})
    start: str = "matrix"


def mesa_without_decay(q: Tensor, k: Tensor, v: Tensor, *others: Tensor, **options: Any) -> Any:
    beta, ridge = others
    return fast_weights.mesa(q, k, v, beta, None, ridge, **options)


NORM = (torch.linspace(0.5, 1.5, 2 * 3).view(2, 3), torch.linspace(-1, 1, 2 * 3).view(2, 3))
SQUARE_NORM = (torch.linspace(0.5, 1.5, 8).view(2, 4), torch.linspace(-1, 1, 8).view(2, 4))
TTT = fast_weights.test_time_training
CASES = {
    "linear_attention": Case(fast_weights.linear_attention),
    "gated_linear_attention of heads": Case(fast_weights.gated_linear_attention, ("g_head",)),
    "gated_linear_attention of keys": Case(fast_weights.gated_linear_attention, ("g_key",)),
    "delta_rule": Case(fast_weights.delta_rule, ("beta",)),
    "gated_delta_rule of heads": Case(fast_weights.gated_delta_rule, ("beta", "g_head")),
    "gated_delta_rule of keys": Case(fast_weights.gated_delta_rule, ("beta", "g_key")),
    "delta_product": Case(fast_weights.delta_product, ("beta_product",)),
    "delta_product, decayed": Case(fast_weights.delta_product, ("beta_product", "g_head")),
    "longhorn": Case(fast_weights.longhorn, ("beta",)),
    "longhorn, diagonal": Case(fast_weights.longhorn, ("beta_value",), {"diagonal": True}),
    "mesa": Case(fast_weights.mesa, ("beta", "g_head", "ridge"), start="mesa"),
    "mesa without decay": Case(mesa_without_decay, ("beta", "ridge"), start="mesa"),
    "ttt": Case(TTT, ("beta",), {"mini_batch": 4}),
    "ttt, one token": Case(TTT, ("beta",), {"mini_batch": 1}),
    "ttt, bias and norm": Case(TTT, ("beta",), {"mini_batch": 4, "norm": NORM}, "affine"),
    "ttt, as published": Case(
        TTT,
        ("beta",),
        {
            "mini_batch": 4,
            "norm": SQUARE_NORM,
            "residual": True,
            "position_rates": torch.tensor([1.0, 0.5, 0.4, 0.3]),
        },
        "square",
    ),
    "ttt, mlp": Case(TTT, ("beta",), {"mini_batch": 4, "network": "mlp", "norm": NORM}, "mlp"),
}


def draw(case: Case, length: int, batch: int = 2, seed: int = 0) -> list[Tensor]:
    """q, k, v and the other tensors of a case, float64."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    updates = (3,) if case.rule is fast_weights.delta_product else ()
    d_v = D_K if case.start == "square" else D_V
    tensors = [
        normal(batch, length, HEADS, D_K),
        0.7 * normal(batch, length, *updates, HEADS, D_K),
        normal(batch, length, *updates, HEADS, d_v),
    ]
    others = {
        "beta": lambda: uniform(batch, length, HEADS),
        "beta_product": lambda: uniform(batch, length, 3, HEADS),
        "beta_value": lambda: uniform(batch, length, HEADS, D_V),
        "g_head": lambda: -uniform(batch, length, HEADS),
        "g_key": lambda: -uniform(batch, length, HEADS, D_K),
        "ridge": lambda: 0.1 + uniform(HEADS, D_K),
    }
    return tensors + [others[name]() for name in case.arguments]


def start_of(case: Case, batch: int = 2) -> Any:
    """An initial state, float64."""
    generator = torch.Generator().manual_seed(7)

    def normal(*shape: int) -> Tensor:
        return torch.randn(batch, HEADS, *shape, generator=generator, dtype=torch.float64)

    if case.start == "mesa":
        root = normal(D_K, D_K)
        return root @ root.mT, normal(D_K, D_V)
    if case.start == "affine":
        return normal(D_K, D_V), normal(D_V)
    if case.start == "mlp":
        return normal(D_K, HIDDEN), normal(HIDDEN), normal(HIDDEN, D_V), normal(D_V)
    return normal(D_K, D_K if case.start == "square" else D_V)


@pytest.fixture(params=["as it is", 3])
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens in a chunk: what they are, and a few, so that short sequences have several."""
    if request.param == "as it is":
        return
    for name in ("gated_linear_attention", "mesa"):
        module = import_module(f"zoo.ops.fast_weights.{name}")  # hidden by its function
        monkeypatch.setattr(module, "CHUNK", request.param)
        if name == "mesa":
            monkeypatch.setattr(module, "AT_ONCE", 0)  # one chunk after the other
        else:
            monkeypatch.setattr(module, "CHUNK_OF_COORDINATES", request.param)
    monkeypatch.setattr("zoo.ops.outer_scan.MAX_CHUNK", request.param)


chunks = pytest.mark.usefixtures("chunk")


def parts(state: Any) -> tuple[Tensor, ...]:
    return (state,) if isinstance(state, Tensor) else tuple(state)


@chunks
@pytest.mark.parametrize("inclusive", [True, False])
@pytest.mark.parametrize("length", [1, 2, 7, 53])
@pytest.mark.parametrize("name", CASES)
def test_the_chunked_form_has_the_values_of_the_loop(
    name: str, length: int, inclusive: bool
) -> None:
    case = CASES[name]
    for initial_state in (start_of(case), None):
        if initial_state is None and case.start == "mlp":
            continue
        found = {
            method: case.rule(
                *draw(case, length),
                **case.settled,
                initial_state=initial_state,
                inclusive=inclusive,
                method=method,
            )
            for method in ("loop", "chunked")
        }
        torch.testing.assert_close(found["chunked"][0], found["loop"][0], rtol=1e-9, atol=1e-10)
        for chunked, loop in zip(*(parts(found[m][1]) for m in ("chunked", "loop")), strict=True):
            torch.testing.assert_close(chunked, loop, rtol=1e-9, atol=1e-10)


@chunks
@pytest.mark.parametrize("inclusive", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_the_chunked_form_has_the_gradients_of_the_loop(name: str, inclusive: bool) -> None:
    case = CASES[name]
    found = {}
    for method in ("loop", "chunked"):
        tensors = [tensor.requires_grad_() for tensor in draw(case, 7)]
        start = tuple(part.requires_grad_() for part in parts(start_of(case)))
        o, state = case.rule(
            *tensors,
            **case.settled,
            initial_state=start[0] if len(start) == 1 else start,
            inclusive=inclusive,
            method=method,
        )
        loss = o.sin().sum() + sum(part.cos().sum() for part in parts(state))
        found[method] = list(torch.autograd.grad(loss, [*tensors, *start]))
    if case.start == "mesa":  # a factorisation knows that H is symmetric
        for gradients in found.values():
            gradients[-2] = gradients[-2] + gradients[-2].mT
    for chunked, loop in zip(found["chunked"], found["loop"], strict=True):
        assert loop.abs().max() > 0
        torch.testing.assert_close(chunked, loop, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("method", ["chunked", "loop"])
def test_the_rules_are_those_of_the_published_references(method: str) -> None:
    # The references are float32; float64 here leaves their rounding alone.
    data = {name: torch.from_numpy(array).double() for name, array in np.load(PUBLISHED).items()}
    q, k, v, beta, g_head, g_key, start = (
        data[f"in/{name}"] for name in ("q", "k", "v", "beta", "g_head", "g_key", "initial_state")
    )
    product = [data[f"in/{name}_product"].unflatten(1, (13, 2)) for name in ("k", "v", "beta")]
    given = {"initial_state": start, "method": method}
    found = {
        "delta_rule": fast_weights.delta_rule(q, k, v, beta, **given),
        "gated_delta_rule_head": fast_weights.gated_delta_rule(q, k, v, beta, g_head, **given),
        "gated_delta_rule_key": fast_weights.gated_delta_rule(q, k, v, beta, g_key, **given),
        "gated_linear_attention": fast_weights.gated_linear_attention(q, k, v, g_key, **given),
        "delta_product": fast_weights.delta_product(q, *product, g_head, **given),
    }
    for name, (o, state) in found.items():
        torch.testing.assert_close(o, data[f"{name}/o"], rtol=0, atol=2e-6, msg=name)
        torch.testing.assert_close(state, data[f"{name}/state"], rtol=0, atol=2e-6, msg=name)
    o, (H, G) = fast_weights.mesa(
        q, k, data["in/v_mesa"], data["in/beta_mesa"], g_head, data["in/ridge"], method=method
    )
    torch.testing.assert_close(o, data["mesa/o"], rtol=0, atol=2e-6)
    torch.testing.assert_close(H, data["mesa/state_kk"], rtol=0, atol=2e-6)
    torch.testing.assert_close(G, data["mesa/state_kv"], rtol=0, atol=2e-6)


@pytest.mark.parametrize("method", ["chunked", "loop"])
@pytest.mark.parametrize("inclusive", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_a_state_that_is_handed_on_continues_the_sequence(
    name: str, inclusive: bool, method: str
) -> None:
    case = CASES[name]
    tensors = draw(case, 13)
    given = {**case.settled, "inclusive": inclusive, "method": method}
    whole, last = case.rule(*tensors, **given, initial_state=start_of(case))
    state, rows = start_of(case), []
    for part in (
        (slice(0, 8), slice(8, 9), slice(9, 13))
        if "ttt" not in name
        else (
            slice(0, 8),
            slice(8, 13),
        )
    ):
        cut = [tensor if tensor.ndim == 2 else tensor[:, part] for tensor in tensors]
        o, state = case.rule(*cut, **given, initial_state=state)
        rows.append(o)
    torch.testing.assert_close(torch.cat(rows, 1), whole, rtol=1e-9, atol=1e-10)
    for found, expected in zip(parts(state), parts(last), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)


@chunks
@pytest.mark.parametrize("value", [torch.nan, torch.inf, 1e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("inclusive", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_no_later_token_changes_an_output_whatever_it_holds(
    name: str, inclusive: bool, dtype: torch.dtype, value: float
) -> None:
    case = CASES[name]
    position = 6
    tensors = [tensor.to(dtype) for tensor in draw(case, 9)]
    before, _ = case.rule(*tensors, **case.settled, inclusive=inclusive, **_start(case, dtype))
    for i, tensor in enumerate(tensors):
        if tensor.ndim == 2:  # ridge, of all tokens
            continue
        changed = [part.clone() for part in tensors]
        sign = -1 if case.arguments[i - 3 : i - 2] in (("g_head",), ("g_key",)) and i > 2 else 1
        changed[i][0, position] = sign * value if value == value else value
        if sign == -1 and value == torch.inf:
            continue  # a decay to zero at once is finite in its logarithm
        after, _ = case.rule(*changed, **case.settled, inclusive=inclusive, **_start(case, dtype))
        # A query counts at its own token, and what is written after it where reads come first.
        end = position + (not inclusive and i > 0 and "longhorn" not in name) * 1
        assert torch.equal(after[1], before[1]), (i, "another episode")
        torch.testing.assert_close(after[0, :position], before[0, :position], rtol=0, atol=0)
        if i in (1, 2):
            torch.testing.assert_close(after[0, :end], before[0, :end], rtol=0, atol=0)


def _start(case: Case, dtype: torch.dtype) -> dict[str, Any]:
    state = tuple(part.to(dtype) for part in parts(start_of(case)))
    return {"initial_state": state[0] if len(state) == 1 else state}


@chunks
@pytest.mark.parametrize("name", CASES)
def test_replicas_under_vmap_are_those_one_by_one(name: str) -> None:
    case = CASES[name]
    runs = [draw(case, 7, seed=seed) for seed in (0, 1, 2)]
    start = start_of(case)

    def run(*tensors: Tensor) -> Any:
        return case.rule(*tensors, **case.settled, initial_state=start)[0]

    def gradients(*tensors: Tensor) -> Any:
        argnums = tuple(range(len(tensors)))
        return torch.func.grad(lambda *t: run(*t).sin().sum(), argnums)(*tensors)

    stacked = [torch.stack(part).requires_grad_() for part in zip(*runs, strict=True)]
    outputs = torch.vmap(run)(*stacked)
    found = torch.autograd.grad(outputs.sin().sum(), stacked)
    for i, tensors in enumerate(runs):
        torch.testing.assert_close(outputs[i], run(*tensors), rtol=1e-10, atol=1e-11)
        expected = gradients(*tensors)
        for ways in (found, torch.vmap(gradients)(*stacked)):
            for gradient, part in zip(ways, expected, strict=True):
                torch.testing.assert_close(gradient[i], part, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", CASES)
def test_mixed_precision_computes_in_float32(name: str) -> None:
    case = CASES[name]
    tensors = [tensor.float() for tensor in draw(case, 7)]
    start = _start(case, torch.float32)
    expected, _ = case.rule(*tensors, **case.settled, **start)
    with torch.autocast("cpu", torch.bfloat16):
        found, state = case.rule(*tensors, **case.settled, **start)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    half = [tensor.bfloat16() for tensor in tensors]
    o, state = case.rule(*half, **case.settled, **start)
    assert o.dtype == torch.bfloat16
    assert all(part.dtype == torch.float32 for part in parts(state))


@pytest.mark.parametrize("rule", ["gated_linear_attention", "gated_delta_rule"])
@pytest.mark.parametrize("of", ["g_head", "g_key"])
def test_a_strong_decay_overflows_nowhere(rule: str, of: str) -> None:
    case = next(c for n, c in CASES.items() if n.startswith(rule) and of in c.arguments)
    tensors = [tensor.float() for tensor in draw(case, 60)]
    tensors[-1] = 14 * tensors[-1]  # factors down to 1e-6
    found = {}
    for method in ("chunked", "loop"):
        given = [tensor.clone().requires_grad_() for tensor in tensors]
        o, _ = case.rule(*given, method=method)
        found[method] = o, *torch.autograd.grad(o.sin().sum(), given)
    for i, (chunked, loop) in enumerate(zip(found["chunked"], found["loop"], strict=True)):
        assert chunked.isfinite().all()
        rounding = 10 if i else 1  # gradients are sums of more terms
        torch.testing.assert_close(chunked, loop, rtol=1e-4 * rounding, atol=1e-5 * rounding)


@pytest.mark.parametrize("of", ["g_head", "g_key"])
def test_what_grows_grows_as_in_the_loop(of: str) -> None:
    case = next(c for n, c in CASES.items() if n.startswith("gated_l") and of in c.arguments)
    tensors = [tensor.float() for tensor in draw(case, 60)]
    tensors[-1] = -tensors[-1]  # factors from 1 to e
    chunked, _ = case.rule(*tensors)
    loop, _ = case.rule(*tensors, method="loop")
    assert loop.abs().max() > 1e8
    torch.testing.assert_close(chunked, loop, rtol=1e-3, atol=1e-3)


@chunks
@pytest.mark.parametrize("name", [name for name in CASES if name != "longhorn, diagonal"])
def test_the_chunked_form_can_be_differentiated_twice(name: str) -> None:
    case = CASES[name]
    start = start_of(case, batch=1)

    def outputs(*tensors: Tensor) -> Tensor:
        o: Tensor = case.rule(*tensors, **case.settled, initial_state=start)[0]
        return o

    tensors = tuple(tensor.requires_grad_() for tensor in draw(case, 4, batch=1))
    assert torch.autograd.gradgradcheck(outputs, tensors, fast_mode=True)


def test_mesa_is_nan_where_no_ridge_regression_is() -> None:
    tensors = draw(CASES["mesa"], 5)
    tensors[-1] = -tensors[-1]
    o, _ = fast_weights.mesa(*tensors)
    assert o[:, 0].isnan().all()


def test_steps_of_online_learners_are_what_they_say() -> None:
    """Each rule of one token against the loss that it descends, by automatic differentiation."""
    case = CASES["delta_rule"]
    q, k, v, beta = draw(case, 1)
    S = start_of(case).requires_grad_()
    residual = torch.einsum("bhpc,bhp->bhc", S, k[:, 0]) - v[:, 0]
    (gradient,) = torch.autograd.grad(0.5 * residual.square().sum(), S)
    step = S - beta[:, 0, :, None, None] * gradient
    _, state = fast_weights.delta_rule(q, k, v, beta, initial_state=S)
    torch.testing.assert_close(state, step)
    # Longhorn's state is where the gradient of its own objective is zero.
    _, state = fast_weights.longhorn(q, k, v, beta, initial_state=S)
    state = state.detach().requires_grad_()
    residual = torch.einsum("bhpc,bhp->bhc", state, k[:, 0]) - v[:, 0]
    loss = (beta[:, 0] * residual.square().sum(-1)).sum() + (state - S).square().sum()
    (gradient,) = torch.autograd.grad(loss, state)
    assert gradient.abs().max() < 1e-12


def test_wrong_arguments_say_what_is_allowed() -> None:
    q, k, v, beta = draw(CASES["delta_rule"], 5)
    for arguments, message in [
        ((q, k, v, beta[:, :4]), "beta must be .batch = 2, length = 5, heads = 2"),
        ((q, k[..., :2], v, beta), "k must be .*d_k = 4"),
        ((q[:, :0], k[:, :0], v[:, :0], beta[:, :0]), "length of at least 1"),
        ((q[0], k[0], v[0], beta[0]), "q must be .batch, length, heads, d_k"),
    ]:
        with pytest.raises(ValueError, match=message):
            fast_weights.delta_rule(*arguments)
    with pytest.raises(ValueError, match="initial_state must be .*d_v = 3"):
        fast_weights.delta_rule(q, k, v, beta, initial_state=torch.zeros(2, 2, 4, 4))
    with pytest.raises(ValueError, match="method must be 'chunked' or 'loop', got 'fast'"):
        fast_weights.delta_rule(q, k, v, beta, method="fast")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="H must be"):
        fast_weights.mesa(
            q,
            k,
            v,
            beta,
            None,
            k[0, 0],
            initial_state=(torch.zeros(2, 2, 3, 3), start_of(CASES["ttt"])),
        )
    for settled, message in [
        ({"mini_batch": 0}, "mini_batch must be at least 1"),
        ({"mini_batch": 2, "residual": True}, "residual needs d_k = d_v, got 4 and 3"),
        ({"mini_batch": 2, "network": "cnn"}, "network must be 'linear' or 'mlp', got 'cnn'"),
        ({"mini_batch": 2, "network": "mlp"}, "must have 4 tensors, got 0"),
        ({"mini_batch": 2, "position_rates": torch.ones(3)}, "position_rates must be"),
    ]:
        with pytest.raises(ValueError, match=message):
            TTT(q, k, v, beta, **settled)
