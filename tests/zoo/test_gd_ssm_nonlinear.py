"""The GD-SSM for functions that are not linear: learned features, embedded tokens."""

import pytest
import torch
from torch.nn.functional import glu

import zoo
from tests.conftest import MakePairs
from zoo.layers.tokens import interleave
from zoo.models.gd_ssm import GDSSM, GDSSMEmbedded, GDSSMFeatures, construct_gradient_descent_


@pytest.mark.parametrize("learn_start", [False, True])
@pytest.mark.parametrize("num_steps", [1, 3])
def test_constructed_layer_descends_on_the_last_layer_of_the_features(
    num_steps: int, learn_start: bool, make_pairs: MakePairs
) -> None:
    x, y = make_pairs(3, 2, 6)
    arguments = {"d_y": 2, "num_steps": num_steps, "learn_start": learn_start}
    model = zoo.create_model("gd_ssm_features", d_x=3, num_features=7, **arguments).double()
    linear = zoo.create_model("gd_ssm", d_x=7, **arguments).double()
    assert isinstance(model, GDSSMFeatures)
    assert isinstance(linear, GDSSM)
    W = torch.randn(2, 7, generator=torch.Generator().manual_seed(0), dtype=x.dtype)
    construct_gradient_descent_(linear, 0.4, W if learn_start else None)
    model.layer.load_state_dict(linear.layer.state_dict())
    features = model.phi(x)
    torch.testing.assert_close(model(x, y), linear(features, y))
    # One step written out, at the query.
    W_0 = W if learn_start else torch.zeros_like(W)
    W_k = W_0.expand(3, -1, -1)
    for _ in range(num_steps):
        errors = torch.einsum("bqp,bip->biq", W_k, features[:, :-1]) - y[:, :-1]
        W_k = W_k - 0.4 * torch.einsum("biq,bip->bqp", errors, features[:, :-1])
    expected = torch.einsum("bqp,bp->bq", W_k, features[:, -1])
    torch.testing.assert_close(model.predict_query(x, y), expected)


def test_features_have_the_widths_that_were_asked_for() -> None:
    arguments = {"d_x": 3, "d_y": 1, "num_features": 7, "d_hidden": 5}
    for num_hidden, widths in [(0, [(7, 3)]), (2, [(5, 3), (5, 5), (7, 5)])]:
        model = zoo.create_model("gd_ssm_features", num_hidden=num_hidden, **arguments)
        shapes = [tuple(p.shape) for n, p in model.named_parameters() if n.endswith("weight")]
        assert shapes == widths


def test_embedded_model_is_its_layer_between_two_maps(make_pairs: MakePairs) -> None:
    x, y = make_pairs(3, 2, 6)
    model = zoo.create_model("gd_ssm_embedded", d_x=3, d_y=2, d_model=8).double()
    assert isinstance(model, GDSSMEmbedded)
    o = model.layer(model.embed(interleave(x, y)), method="loop")  # type: ignore[operator]
    o = torch.cat([torch.zeros_like(o[:, :1]), o], dim=1)
    torch.testing.assert_close(model(x, y), model.readout(glu(model.gate(o))))


def test_a_last_label_that_is_nan_reaches_no_gradient(make_pairs: MakePairs) -> None:
    x, y = make_pairs(3, 2, 6)
    y[:, -1] = torch.nan
    for name in ("gd_ssm_embedded", "gd_ssm_features", "gd_ssm_deep"):
        model = zoo.create_model(name, d_x=3, d_y=2).double()
        model(x, y).sum().backward()
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
