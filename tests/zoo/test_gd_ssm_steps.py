"""The GD-SSM of several steps against its loop and against gradient descent."""

import copy
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

import zoo
from tests.conftest import MakePairs
from zoo.analysis.construction import cosines_with_construction, effective_step_sizes
from zoo.layers.advance import advance
from zoo.layers.gd_ssm_steps import GDSSMStepsLayer, StepsConfig
from zoo.layers.recurrence import CHUNK
from zoo.layers.tokens import windows_of_pairs
from zoo.models.gd_ssm import GDSSM, construct_gradient_descent_

VARIANTS: list[dict[str, Any]] = [
    {"num_steps": 2},
    {"num_steps": 3, "decay": "none"},
    {"num_steps": 1, "learn_start": True, "shape_E": "diagonal"},
    {"num_steps": 4, "learn_start": True, "shape_E": "scalar", "decay": "none"},
    {"num_steps": 1, "learn_start": True, "decay": "none"},
    {"num_steps": 1, "precondition": True},
    {"num_steps": 2, "precondition": True, "learn_start": True, "shape_E": "scalar"},
]
SIZES = [(4, 4, 7), (3, 5, 1), (5, 2, CHUNK + 5)]  # d_x, d_y, N


def large_random_model(d_x: int, d_y: int, **arguments: Any) -> GDSSM:
    """A float64 model in which every term matters and the decay is strong."""
    scales = {"scale_Q": 0.3, "scale_C": 1.0, "scale_D": 1.0, "scale_E": 0.3, "scale_W_0": 1.0}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = zoo.create_model("gd_ssm", d_x=d_x, d_y=d_y, **scales, **arguments).double()
        for name, parameter in model.named_parameters():
            if "Lambda_re" in name:
                torch.nn.init.uniform_(parameter, -20.0, 0.5)  # some are clamped
            if name.endswith(".P"):
                torch.nn.init.normal_(parameter)
    assert isinstance(model, GDSSM)
    return model


def descend(x: Tensor, y: Tensor, step_sizes: list[Any], W_0: Tensor) -> Tensor:
    """Predictions W_k x_i after k written-out steps on the examples before i, at every i."""
    eye = torch.eye(x.shape[2], dtype=x.dtype)
    rows = []
    for i in range(x.shape[1]):
        W = W_0.expand(len(x), -1, -1)
        for P in step_sizes:
            P = P if isinstance(P, Tensor) else P * eye
            gradient = torch.zeros_like(W)
            for j in range(i):
                error = torch.einsum("bqp,bp->bq", W, x[:, j]) - y[:, j]
                gradient = gradient + torch.einsum("bq,bp->bqp", error, x[:, j])
            W = W - gradient @ P
        rows.append(torch.einsum("bqp,bp->bq", W, x[:, i]))
    return torch.stack(rows, dim=1)


@pytest.mark.parametrize("arguments", VARIANTS, ids=str)
@pytest.mark.parametrize(("d_x", "d_y", "num_context"), SIZES)
def test_fast_paths_equal_the_loop_in_values_and_gradients(
    d_x: int, d_y: int, num_context: int, arguments: dict[str, Any], make_pairs: MakePairs
) -> None:
    layer = large_random_model(d_x, d_y, **arguments).layer
    pairs = [0.5 * part for part in make_pairs(d_x, d_y, num_context + 1)]
    inputs = [*(part.requires_grad_() for part in pairs), *layer.parameters()]
    S = windows_of_pairs(*pairs)
    loop, chunked, last = layer.all_windows(S, "loop"), layer.all_windows(S), layer.last_window(S)
    tolerance = 1e-10 * loop.detach().abs().max().item()
    torch.testing.assert_close(chunked, loop, rtol=1e-9, atol=tolerance)
    torch.testing.assert_close(last, loop[:, -1], rtol=1e-9, atol=tolerance)

    direction = torch.linspace(-1, 1, loop.numel(), dtype=loop.dtype).view_as(loop)
    for fast, slow, weight in [
        (chunked, loop, direction),
        (last, loop[:, -1], direction[:, -1]),
    ]:
        gradients = [
            torch.autograd.grad((output * weight).sum(), inputs, retain_graph=True)
            for output in (fast, slow)
        ]
        for fast_gradient, slow_gradient in zip(*gradients, strict=True):
            tolerance = 1e-9 * slow_gradient.abs().max().item() + 1e-10
            torch.testing.assert_close(fast_gradient, slow_gradient, rtol=1e-8, atol=tolerance)


@pytest.mark.parametrize("num_steps", range(1, 9))
@pytest.mark.parametrize("learn_start", [False, True])
@pytest.mark.parametrize("matrices", [False, True])
def test_construction_equals_gradient_descent_at_every_prefix(
    num_steps: int, learn_start: bool, matrices: bool, make_pairs: MakePairs
) -> None:
    for (d_x, d_y), decay, shape_E in [
        ((4, 4), "elementwise", "matrix"),
        ((3, 1), "none", "scalar"),
        ((2, 3), "elementwise", "diagonal"),
    ]:
        x, y = make_pairs(d_x, d_y, 7)
        generator = torch.Generator().manual_seed(num_steps)
        draw = torch.rand(num_steps, d_x, d_x, dtype=x.dtype, generator=generator)
        step_sizes: list[Any] = (
            [0.15 * P for P in draw] if matrices else (0.2 * draw[:, 0, 0]).tolist()
        )
        W_0 = make_pairs(d_x, d_y, 1, batch=d_x)[1].squeeze(1).mT if learn_start else None
        model = large_random_model(
            d_x,
            d_y,
            num_steps=num_steps,
            decay=decay,
            learn_start=learn_start,
            shape_E=shape_E,
            precondition=matrices,
        )
        construct_gradient_descent_(model, step_sizes, W_0)
        start = torch.zeros(d_y, d_x, dtype=x.dtype) if W_0 is None else W_0
        expected = descend(x, y, step_sizes, start)
        tolerance = 1e-10 * max(1.0, expected.abs().max().item())
        torch.testing.assert_close(model(x, y), expected, rtol=0, atol=tolerance)
        query = model.predict_query(x, y)
        torch.testing.assert_close(query, expected[:, -1], rtol=0, atol=tolerance)


def test_the_order_of_steps_matters_for_matrices(make_pairs: MakePairs) -> None:
    x, y = make_pairs(4, 4, 7)
    step_sizes = [*(0.1 * torch.rand(2, 4, 4, dtype=x.dtype))]
    models = [
        construct_gradient_descent_(
            large_random_model(4, 4, num_steps=2, precondition=True), sizes
        ).predict_query(x, y)
        for sizes in (step_sizes, step_sizes[::-1])
    ]
    assert (models[0] - models[1]).abs().max() > 1e-3


@pytest.mark.parametrize("arguments", VARIANTS, ids=str)
def test_streaming_equals_the_loop_when_every_term_matters(
    arguments: dict[str, Any], make_pairs: MakePairs
) -> None:
    model = large_random_model(5, 3, **arguments)
    x, y = (0.5 * part for part in make_pairs(5, 3, 40))
    expected = model.layer.all_windows(windows_of_pairs(x, y), "loop")[..., -3:]
    state = model.init_state(len(x))
    torch.testing.assert_close(model.predict(state, x[:, :1]), model(x, y)[:, :1])
    state = model.observe(state, x[:, :30], y[:, :30])
    assert model.state_size(40) == state.Z[0].numel() + 5 + 3
    for i in range(30, 40):
        prediction = model.predict(state, x[:, i : i + 1])[:, 0]
        torch.testing.assert_close(prediction, expected[:, i - 1], rtol=1e-8, atol=1e-8)
        state = model.observe(state, x[:, i : i + 1], y[:, i : i + 1])
    low = copy.deepcopy(model).bfloat16()
    pairs = x.bfloat16(), y.bfloat16()
    assert low.observe(low.init_state(len(x)), *pairs).Z.dtype == torch.float32


@pytest.mark.parametrize("arguments", VARIANTS, ids=str)
def test_no_variant_has_a_dead_parameter(arguments: dict[str, Any], make_pairs: MakePairs) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = zoo.create_model("gd_ssm", d_x=4, d_y=4, **arguments).double()
    assert isinstance(model, GDSSM)
    x, y = make_pairs(4, 4, 5)
    model.predict_query(x, y).square().mean().backward()
    for name, parameter in model.named_parameters():
        # At d_x = d_y every entry of every parameter is identifiable.
        assert parameter.grad is not None, name
        assert (parameter.grad != 0).all(), name


def test_parameters_exist_where_they_have_something_to_do() -> None:
    def shapes(**arguments: Any) -> dict[str, tuple[int, ...]]:
        model = zoo.create_model("gd_ssm", d_x=4, d_y=3, **arguments)
        return {n.removeprefix("layer."): tuple(p.shape) for n, p in model.named_parameters()}

    one = {"Q": (3, 3), "C": (4, 4), "D": (3,), "Lambda_re": (4, 4), "log_step": (4, 1)}
    assert shapes() == shapes(num_steps=1, shape_E="scalar") == one
    B = {"Q_B": (3, 3), "D": (3,), "Lambda_re_B": (4, 4), "log_step_B": (4, 1)}
    A = {"Q_A": (3, 3), "Lambda_re_A": (4, 4), "log_step_A": (4, 1)}
    assert shapes(precondition=True) == B | {"C": (1, 4, 4), "P": (1, 4, 4)}
    assert shapes(learn_start=True) == A | B | {"C": (1, 4, 4), "E": (1, 4, 4), "W_0": (3, 4)}
    assert shapes(num_steps=3) == A | B | {"C": (3, 4, 4), "E": (2, 4, 4)}
    assert shapes(num_steps=3, shape_E="diagonal")["E"] == (2, 4)
    assert shapes(num_steps=3, shape_E="scalar", learn_start=True)["E"] == (3,)
    none = {"Q_A": (3, 3), "Q_B": (3, 3), "D": (3,), "C": (2, 4, 4), "E": (1, 4, 4)}
    assert shapes(num_steps=2, decay="none") == none


def test_the_start_is_small_and_at_the_scales_that_were_asked_for() -> None:
    def drawn(name: str, shape_E: Any = "matrix") -> Tensor:
        scales = {"scale_Q": 0.3, "scale_C": 2.0, "scale_D": 0.7, "scale_E": 0.5, "scale_W_0": 3.0}
        with torch.random.fork_rng():
            torch.manual_seed(0)
            layers = [
                GDSSMStepsLayer(
                    25, 25, StepsConfig(num_steps=4, learn_start=True, shape_E=shape_E, **scales)
                )
                for _ in range(40)
            ]
        return torch.stack([getattr(layer, name) for layer in layers])

    for name, std in [
        ("Q_A", 0.3), ("Q_B", 0.3), ("C", 0.4), ("D", 0.7), ("E", 0.1), ("W_0", 0.6)
    ]:  # fmt: skip
        assert drawn(name).std().item() == pytest.approx(std, rel=0.15)
    assert drawn("E", "scalar").std().item() == pytest.approx(0.5, rel=0.15)
    assert drawn("E", "diagonal").std().item() == pytest.approx(0.5, rel=0.15)


@pytest.mark.parametrize(
    ("arguments", "call", "message"),
    [
        ({"num_steps": 2}, {"step_size": [0.1]}, "takes 2 step sizes, got 1"),
        ({"num_steps": 2}, {"step_size": torch.ones(2)}, r"got a tensor of shape \(2,\)"),
        ({"num_steps": 2}, {"step_size": [0.1, "x"]}, "a number or a matrix, got 'x'"),
        ({}, {"step_size": [torch.eye(3)]}, "precondition=True"),
        ({"precondition": True}, {"step_size": [torch.eye(2)]}, r"\(3, 3\), got \(2, 2\)"),
        ({"num_steps": 2}, {"step_size": 0.1, "W_0": torch.eye(3)}, "learn_start=True"),
        (
            {"learn_start": True},
            {"step_size": 0.1, "W_0": torch.zeros(3, 2)},
            r"W_0 must be \(3, 3\), got \(3, 2\)",
        ),
        ({}, {"step_size": 0.1, "loss": "hinge"}, "'cross_entropy', got 'hinge'"),
        (
            {"num_steps": 2},
            {"step_size": 0.1, "loss": "cross_entropy"},
            "one step from zero alone, got num_steps = 2",
        ),
    ],
)
def test_constructions_that_do_not_fit_are_refused(
    arguments: dict[str, Any], call: dict[str, Any], message: str
) -> None:
    model = zoo.create_model("gd_ssm", d_x=3, d_y=3, **arguments)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=message):
        construct_gradient_descent_(model, **call)  # type: ignore[arg-type]
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("shape_E", ["matrix", "diagonal", "scalar"])
def test_rescaling_symmetries_leave_predictions_and_cosines(
    shape_E: str, make_pairs: MakePairs
) -> None:
    arguments = {"num_steps": 3, "learn_start": True, "precondition": True, "shape_E": shape_E}
    model = large_random_model(4, 4, **arguments)
    other = copy.deepcopy(model)
    layer = other.layer
    with torch.no_grad():
        for parameter, factor in [(layer.Q_B, -3), (layer.Q_A, 0.5), (layer.D, -2)]:
            parameter.mul_(factor)  # type: ignore[operator]
        layer.C.div_(6)
        layer.E.div_(0.5)  # type: ignore[operator]
        layer.W_0.div_(-2)  # type: ignore[operator]
        for part, factor in [(layer.P, -4), (layer.C, -0.25), (layer.E, -0.25)]:
            part[1] *= factor  # type: ignore[index]
    x, y = make_pairs(4, 4, 6)
    torch.testing.assert_close(model(x, y), other(x, y))
    ours, theirs = (cosines_with_construction(m, 0.1) for m in (model, other))
    assert len(ours) == 5 + (2 if shape_E == "scalar" else 3) * 3
    assert ours == pytest.approx(theirs)
    ours, theirs = (effective_step_sizes(m) for m in (model, other))
    assert all(ours[name] == pytest.approx(theirs[name]) for name in ("C", "E"))


@pytest.mark.parametrize("shape_E", ["matrix", "diagonal", "scalar"])
def test_a_construction_is_recognised_and_its_step_sizes_read_off(shape_E: str) -> None:
    model = large_random_model(5, 2, num_steps=3, shape_E=shape_E)
    construct_gradient_descent_(model, [0.3, 0.1, 0.2])
    names = [name for name, w in model.identifiable_weights().named().items() if w.numel() > 1]
    assert ("E_2" in names) == (shape_E != "scalar")
    assert cosines_with_construction(model, 0.7) == pytest.approx(dict.fromkeys(names, 1.0))
    sizes = effective_step_sizes(model)
    assert sizes["C"] == pytest.approx([0.1, 0.2, 0.3])
    assert sizes["E"] == pytest.approx([0.1, 0.2])  # the step that comes first has no E


def test_two_learned_steps_find_the_construction_and_beat_the_best_shared_step_size() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = zoo.create_model("gd_ssm", d_x=4, d_y=4, num_steps=2)
    generator = torch.Generator().manual_seed(0)

    def episodes(batch: int) -> tuple[Tensor, Tensor]:
        x = torch.rand(batch, 7, 4, generator=generator) - 0.5
        W = torch.randn(batch, 4, 4, generator=generator)
        return x, torch.einsum("bqp,bip->biq", W, x)

    def error(predictor: zoo.Predictor, x: Tensor, y: Tensor) -> Tensor:
        return (predictor.predict_query(x, y) - y[:, -1]).square().mean() / 2

    num_steps = 500
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, 2 * (num_steps - step) / num_steps)
    )
    for _ in range(num_steps):
        optimizer.zero_grad()
        error(model, *episodes(64)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    x, y = episodes(4000)
    with torch.no_grad():
        shared = min(
            error(
                zoo.create_solver(
                    "gradient_descent", d_x=4, d_y=4, num_steps=2, step_size=step_size
                ),
                x,
                y,
            )
            for step_size in torch.linspace(0.4, 1.6, 13).tolist()
        )
        assert error(model, x, y) < 0.93 * shared
    assert isinstance(model, GDSSM)
    cosines = cosines_with_construction(model, 1.0)
    assert cosines.pop("Q_A") > 0.9
    assert min(cosines.values()) > 0.99


@pytest.mark.parametrize("piece", [1, 40])  # windows one by one, and two or three together
@pytest.mark.parametrize("shared", [True, False])
def test_a_state_in_pieces_is_the_plain_sum_in_values_and_all_derivatives(
    piece: int, shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zoo.layers.advance.PIECE", piece)
    generator = torch.Generator().manual_seed(0)
    shapes = (2, 2, 2, 2), (3, 5, 2, 1 if shared else 2, 2), (2, 3, 3), (2, 2, 2)
    stacked = [torch.randn(3, *s, dtype=torch.float64, generator=generator) for s in shapes]
    stacked[3] = -stacked[3].abs()
    inputs = [part[0].requires_grad_() for part in stacked]
    fast, slow = advance(*inputs), advance(*inputs, "plain")
    torch.testing.assert_close(fast, slow, rtol=1e-12, atol=1e-12)
    single = [part.detach().float() for part in inputs]
    torch.testing.assert_close(advance(*single), slow.float())
    assert torch.autograd.gradcheck(advance, inputs, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(advance, inputs)
    mapped = torch.vmap(advance)(*stacked)
    alone = torch.stack([advance(*parts) for parts in zip(*stacked, strict=True)])
    torch.testing.assert_close(mapped, alone)

    def loss(method: Any, *parts: Tensor) -> Tensor:
        return advance(*parts, method).sin().sum()

    ours, theirs = (
        torch.vmap(torch.func.grad(partial(loss, method), (0, 1, 2, 3)))(*stacked)
        for method in ("pieces", "plain")
    )
    torch.testing.assert_close(ours, theirs)


def test_gradients_of_a_state_in_pieces_are_not_rounded_by_an_autocast_around_backward(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("zoo.layers.advance.PIECE", 1)
    generator = torch.Generator().manual_seed(0)
    shapes = (2, 2, 4, 4), (3, 50, 2, 1, 4), (2, 3, 3), (2, 4, 4)
    inputs = [torch.randn(*shape, generator=generator) for shape in shapes]
    inputs[3] = -inputs[3].abs()
    for part in inputs:
        part.requires_grad_()
    loss = advance(*inputs).square().sum()
    expected = torch.autograd.grad(loss, inputs, retain_graph=True)
    for create_graph in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = torch.autograd.grad(loss, inputs, retain_graph=True, create_graph=create_graph)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_no_windows_leave_a_state_as_it_is() -> None:
    Z, S = torch.rand(2, 1, 3, 3), torch.rand(3, 0, 2, 1, 3)
    assert torch.equal(advance(Z, S, torch.rand(1, 3, 3), -torch.rand(1, 3, 3)), Z)


def test_a_state_has_two_methods() -> None:
    with pytest.raises(ValueError, match="'pieces' or 'plain', got 'loop'"):
        advance(
            torch.rand(2, 1, 3, 3),
            torch.rand(3, 4, 2, 1, 3),
            torch.rand(1, 3, 3),
            -torch.rand(1, 3, 3),
            "loop",  # type: ignore[arg-type]
        )
