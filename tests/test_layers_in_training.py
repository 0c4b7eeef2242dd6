"""The callback that says at every validation what layers and states know."""

import math
from pathlib import Path

import pytest
import torch
from rich.console import Console

import zoo
from datamodules import EpisodeSpec
from studies.history import history
from tests.test_configs import config_of
from zoo.commands.train import train
from zoo.evaluation.episodes import evaluation_episodes
from zoo.models.gd_ssm import GDSSM, construct_gradient_descent_
from zoo.references import create_reference
from zoo.training.callbacks import layers

SMALL = (
    *("trainer=cpu", "data.d_x=4", "data.num_context=6", "batch_size=16", "eval_episodes=200"),
    *("max_steps=20", "val_every=10", "checkpoint_tag=test", "~callbacks.figures"),
)
INSIDE = ("callbacks=inside", "callbacks.layers.num_to_fit=150", "callbacks.layers.num_to_score=50")


def test_of_a_layer_that_is_one_step_it_says_so() -> None:
    spec = EpisodeSpec(d_x=4, d_y=4, num_context=6)
    episodes = evaluation_episodes(spec, 300)
    fit, test = episodes.rows(0, 200), episodes.rows(200, 300)
    model = zoo.create_model("gd_ssm", d_x=4, d_y=4)
    assert isinstance(model, GDSSM)
    construct_gradient_descent_(model, 0.7)
    exact = zoo.create_solver("gradient_descent", d_x=4, d_y=4, step_size=0.7)
    with torch.no_grad():
        wrong = (exact.predict_query(test.x, test.y) - test.target[:, -1]).square().mean()
    share = (wrong / test.target[:, -1].square().mean()).item()
    ridge = create_reference("ridge", spec, {})
    told = layers._of_lens(model, ridge, test)
    assert told.keys() == {"error_1", "cosine_ridge_1", "cosine_one_step_1"}
    assert told["error_1"] == pytest.approx(share, rel=1e-4)
    assert told["cosine_one_step_1"] == pytest.approx(1, abs=1e-5)
    assert told["cosine_ridge_1"] < 0.95
    found = layers._scores(model, ridge, fit, test)
    assert found.keys() == {"ridge_state_1", "B_state_1"}
    assert found["B_state_1"] == pytest.approx(1, abs=1e-6)
    assert found["ridge_state_1"] < 0.9


@pytest.mark.usefixtures("undrawn")
def test_a_run_logs_every_layer_at_every_validation(tmp_path: Path) -> None:
    sizes = ("recipe=delta_net", "model.num_layers=2", "model.d_model=8", "model.num_heads=2")
    config = config_of(*sizes, *SMALL, *INSIDE, f"run_dir={tmp_path}")
    train(config, tmp_path, Console(quiet=True), [])
    names = [f"{w}_{i}" for w in ("error", "cosine_ridge", "cosine_one_step") for i in range(3)]
    names += [f"{w}_{k}_{i}" for w in ("ridge", "B") for k in ("stream", "state") for i in (1, 2)]
    for name in names:
        assert list(history(tmp_path, f"layers/{name}")) == [10, 20]


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("recipe", ["online_learner", "linear_transformer"])
def test_a_run_without_streams_logs_what_there_is(recipe: str, tmp_path: Path) -> None:
    config = config_of(f"recipe={recipe}", *SMALL, *INSIDE, f"run_dir={tmp_path}")
    train(config, tmp_path, Console(quiet=True), [])
    assert list(history(tmp_path, "layers/error_1")) == [10, 20]
    of_state = history(tmp_path, "layers/ridge_state_1")
    assert list(of_state) == ([10, 20] if recipe == "online_learner" else [])


@pytest.mark.usefixtures("undrawn")
def test_episodes_of_several_batches_are_looked_at_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of large episodes a batch has few: those of recall come 400 at a time."""
    found = []
    for size in (200, 60):
        monkeypatch.setattr(EpisodeSpec, "set_batch", size)
        directory = tmp_path / str(size)
        config = config_of("recipe=online_learner", *SMALL, *INSIDE, f"run_dir={directory}")
        train(config, directory, Console(quiet=True), [])
        found.append({n: history(directory, f"layers/{n}") for n in ("error_1", "ridge_state_1")})
    assert list(found[0]["error_1"]) == [10, 20]
    for name, values in found[0].items():
        assert found[1][name] == pytest.approx(values, rel=1e-5)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("data=classification",), "where labels are values, got"),
        (("seeds=2",), "looks into one model, got several seeds"),
        (
            ("callbacks.layers.num_to_fit=151",),
            r"= 151 \+ 50 validation episodes on every device, got eval_episodes = 200 on 1",
        ),
        (("callbacks.layers.num_to_fit=7",), "num_to_fit must be at least 8, got 7"),
        (("callbacks.layers.num_to_score=1",), "num_to_score must be at least 2, got 1"),
        (("val_every=21",), "val_every must be at most max_steps = 20, got 21"),
    ],
)
def test_what_cannot_be_looked_into_is_refused(
    overrides: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    config = config_of(*SMALL, *INSIDE, *overrides, f"run_dir={tmp_path}")
    with pytest.raises(ValueError, match=said):
        train(config, tmp_path, Console(quiet=True), [])
    assert not list(tmp_path.glob("**/metrics.csv"))  # before a step was trained


def test_numbers_that_are_not_defined_are_nan_and_the_training_goes_on() -> None:
    spec = EpisodeSpec(d_x=4, d_y=4, num_context=6)
    episodes = evaluation_episodes(spec, 60)
    fit, test = episodes.rows(0, 40), episodes.rows(40, 60)
    ridge = create_reference("ridge", spec, {})
    model = zoo.create_model("delta_net", d_x=4, d_y=4, d_model=8, num_layers=2, num_heads=2)
    told = layers._of_lens(model, ridge, test), layers._scores(model, ridge, fit, test)
    with torch.no_grad():
        for parameter in model.get_submodule("blocks.1").parameters():
            parameter.fill_(torch.nan)
    of_lens = layers._of_lens(model, ridge, test)
    scores = layers._scores(model, ridge, fit, test)
    assert (of_lens.keys(), scores.keys()) == tuple(found.keys() for found in told)
    assert {name for name, value in of_lens.items() if math.isnan(value)} == {
        *("error_2", "cosine_ridge_2", "cosine_one_step_2")
    }
    assert all(map(math.isnan, scores.values()))


def test_a_target_that_does_not_vary_costs_no_other_one() -> None:
    h = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    same, varied = torch.ones(60, 1), h[:, :1]
    parts = ((h[s], {"ridge": same[s], "B": varied[s]}) for s in (slice(40), slice(40, 60)))
    found = layers._told(*parts)
    assert math.isnan(found["ridge"])
    assert found["B"] == pytest.approx(1)
