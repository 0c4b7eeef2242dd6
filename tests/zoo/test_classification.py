"""Logits: the construction, the loss, accuracy and calibration."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot

import zoo
from datamodules.episodes import Episodes
from tests.conftest import MakePairs
from zoo.analysis.construction import cosines_with_construction
from zoo.metrics.classification import correct, cross_entropy, expected_calibration_error
from zoo.models.gd_ssm import GDSSM, construct_gradient_descent_
from zoo.registry import ModelSpec
from zoo.training.module import LitPredictor
from zoo.training.options import OptimConfig


def classes(x: Tensor, num_classes: int) -> Tensor:
    """One-hot labels that depend on x and on the episode."""
    labels = (x.sum(2) * 3).long() + torch.arange(len(x))[:, None]
    return one_hot(labels % num_classes, num_classes).to(x.dtype)


@pytest.mark.parametrize("arguments", [{}, {"precondition": True}], ids=str)
@pytest.mark.parametrize(("d_x", "num_classes"), [(4, 4), (6, 3), (2, 5)])
def test_construction_equals_one_step_of_softmax_regression_at_every_prefix(
    d_x: int, num_classes: int, arguments: dict[str, Any], make_pairs: MakePairs
) -> None:
    x = make_pairs(d_x, 1, 7)[0]
    y = classes(x, num_classes)
    model = zoo.create_model("gd_ssm", d_x=d_x, d_y=num_classes, output="logits", **arguments)
    assert isinstance(model, GDSSM)
    logits = construct_gradient_descent_(model.double(), 0.3, loss="cross_entropy")(x, y)
    for i in range(7):
        W = x.new_zeros(len(x), num_classes, d_x, requires_grad=True)
        loss = cross_entropy(torch.einsum("bkp,bip->bik", W, x[:, :i]), y[:, :i]).sum()
        step = -0.3 * torch.autograd.grad(loss, W)[0]
        expected = torch.einsum("bkp,bp->bk", step, x[:, i])
        torch.testing.assert_close(logits[:, i], expected, rtol=0, atol=1e-10)
    assert cosines_with_construction(model, 0.1) == pytest.approx(
        dict.fromkeys(model.identifiable_weights().named(), 1.0)
    )
    with torch.no_grad():  # a number added to all logits
        model.layer.C.add_(torch.rand(max(d_x, num_classes), dtype=x.dtype))
    assert cosines_with_construction(model, 0.1) == pytest.approx(
        dict.fromkeys(model.identifiable_weights().named(), 1.0)
    )


def test_cross_entropy_is_that_of_torch(make_pairs: MakePairs) -> None:
    x = make_pairs(4, 1, 5)[0]
    y = classes(x, 4)
    expected = torch.nn.functional.cross_entropy(x.mT, y.argmax(-1), reduction="none")
    torch.testing.assert_close(cross_entropy(x, y), expected)


def test_the_largest_coordinate_is_the_class() -> None:
    target = torch.eye(3)
    assert correct(torch.tensor([[3.0, 1, 2], [3, 1, 2], [0, 0, 0.1]]), target).tolist() == [
        1,
        0,
        1,
    ]


def test_calibration_error_is_the_gap_between_confidence_and_accuracy() -> None:
    # 0.9 sure and right in 6 of 10, 0.6 sure and right in 5 of 5.
    p = torch.tensor([[0.9, 0.1]] * 10 + [[0.4, 0.6]] * 5)
    labels = torch.tensor([0] * 6 + [1] * 4 + [1] * 5)
    error = expected_calibration_error(p.log(), one_hot(labels, 2))
    assert error.item() == pytest.approx((10 * 0.3 + 5 * 0.4) / 15, abs=1e-6)


def fit(model_args: dict[str, Any], positions: Any, tmp_path: Any) -> dict[str, float]:
    """The validation metrics of a short run on separable classes."""
    import lightning.pytorch as pl
    from torch.utils.data import DataLoader

    generator = torch.Generator().manual_seed(0)
    W = torch.randn(2000, 3, 4, generator=generator)
    x = torch.randn(2000, 9, 4, generator=generator)
    y = one_hot(torch.einsum("bkp,bip->bik", W, x).argmax(-1), 3).float()
    scored = torch.ones(2000, 9, dtype=torch.bool)
    data = DataLoader([*map(Episodes, x, y, y, scored)], 50)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=3,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    model = ModelSpec.of("gd_ssm", d_x=4, d_y=3, **model_args)
    optim = OptimConfig(lr=0.01, warmup_steps=10)
    module = LitPredictor(model, optim, positions=positions, loss="cross_entropy")
    trainer.fit(module, data, data)
    return {name: value.item() for name, value in trainer.callback_metrics.items()}


def test_cross_entropy_trains_a_classifier_and_its_validation_says_how_good(tmp_path: Any) -> None:
    metrics = fit({"output": "logits"}, "all", tmp_path)
    assert metrics["val/cross_entropy_query"] < 0.9 * torch.log(torch.tensor(3.0)).item()
    assert metrics["val/accuracy"] > 0.55
    assert 0 <= metrics["val/calibration_error"] < 0.3
    assert {"val/cross_entropy_all"} < metrics.keys()
    assert not [name for name in metrics if "half_mse" in name]


def test_a_loss_and_a_prediction_that_do_not_fit_are_refused() -> None:
    optim = OptimConfig()
    values = ModelSpec.of("gd_ssm", d_x=2, d_y=2)
    logits = ModelSpec.of("gd_ssm", d_x=2, d_y=2, output="logits")
    with pytest.raises(ValueError, match="'cross_entropy' is made for output 'logits', the model"):
        LitPredictor(values, optim, loss="cross_entropy").configure_model()
    with pytest.raises(ValueError, match="'mse' is made for output 'value', the model .* 'logits'"):
        LitPredictor(logits, optim).configure_model()
    zero = zoo.create_solver("zero", d_x=2, d_y=2)
    with pytest.raises(ValueError, match="the reference predicts 'value'"):
        LitPredictor(logits, optim, loss="cross_entropy", reference=zero)
    with pytest.raises(ValueError, match="d_y of at least 2, got 1"):
        LitPredictor(ModelSpec.of("gd_ssm", d_x=2, d_y=1), optim, loss="cross_entropy")
    with pytest.raises(ValueError, match="'mse' or 'cross_entropy', got 'hinge'"):
        LitPredictor(values, optim, loss="hinge")  # type: ignore[arg-type]
