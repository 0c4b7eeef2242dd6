"""Optimizer steps that do not wait for the device: as eager ones, with a recorder that is none."""

import math
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor

import zoo
from benchmarks.trainer import quiet_trainer
from datamodules import EpisodeDataModule, EpisodeSpec, ReplicaDataModule
from datamodules.curriculum import Curriculum, Ramp
from datamodules.datamodule import EpisodeSets
from datamodules.episodes import Episodes
from tests.zoo.test_replicas import MODEL, OPTIM, SPEC, small
from zoo.registry import ModelSpec
from zoo.training import base
from zoo.training.base import EpisodeModule, NonFiniteError, StepKind
from zoo.training.module import LitPredictor
from zoo.training.options import OptimConfig
from zoo.training.recorded import LOOK_EVERY, WARM_UP, RecordedStep, Watch
from zoo.training.replicas import LitReplicas

T = TypeVar("T")
RATES = (0.003, 0.01)
WAYS = ("graph", "eager")


@pytest.fixture(autouse=True)
def nothing_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """`step="compile"` takes the way of a graph on the CPU too; here it is all that is asked of."""

    def as_it_is(self: EpisodeModule, function: Callable[..., T]) -> Callable[..., T]:
        return function

    def record(step: Callable[[], None]) -> Callable[[], object]:
        for _ in range(WARM_UP + 1):  # as a graph is recorded: what this leaves behind is an error
            step()
        return step

    monkeypatch.setattr(EpisodeModule, "compiled", as_it_is)
    monkeypatch.setattr(base, "as_it_is", record)


class Losses(pl.Callback):
    """The training loss of every step, as logged."""

    def __init__(self, name: str = "train/half_mse_query") -> None:
        self.name = name
        self.found: list[float] = []

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if self.name in trainer.callback_metrics:
            self.found.append(trainer.callback_metrics[self.name].item())


def fit(
    module: EpisodeModule, data: EpisodeSets, directory: Path, max_steps: int = 50, **options: Any
) -> list[float]:
    """Trains; returns the losses of all steps."""
    losses = Losses()
    settings: dict[str, Any] = {"log_every_n_steps": 1, **options}
    trainer = quiet_trainer(max_steps, [losses], directory=directory, settings=settings)
    trainer.fit(module, data)
    return losses.found


def weights(module: EpisodeModule) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in module.model.named_parameters()}


@pytest.mark.parametrize("name", zoo.list_models())
def test_a_recorded_step_is_the_eager_one(name: str, tmp_path: Path) -> None:
    found = {}
    steps: tuple[StepKind, ...] = ("eager", "compile")
    for step in steps:
        module = LitPredictor(small(name), OPTIM, seed=3, step=step)
        losses = fit(module, EpisodeDataModule(SPEC, 3, 8), tmp_path)
        found[step] = losses, weights(module)
    assert len(found["eager"][0]) == 50
    torch.testing.assert_close(found["compile"][0], found["eager"][0], rtol=1e-4, atol=1e-6)
    for parameter, expected in found["eager"][1].items():
        compiled = without_biases_of_keys(parameter, found["compile"][1][parameter])
        expected = without_biases_of_keys(parameter, expected)
        torch.testing.assert_close(compiled, expected, rtol=1e-3, atol=1e-4)


def without_biases_of_keys(parameter: str, value: Tensor) -> Tensor:
    """Softmax does not depend on the biases of keys: their gradient is rounding."""
    if not parameter.endswith("qkv.bias"):
        return value
    query, _, of_value = value.chunk(3)
    return torch.cat([query, of_value])


@pytest.mark.parametrize(
    ("name", "step"),
    [("gd_ssm", "eager"), *((name, "compile") for name in zoo.list_models())],
)
def test_every_rate_and_seed_learns_the_weights_of_its_own_run(
    name: str, step: StepKind, tmp_path: Path
) -> None:
    optim = OPTIM.model_copy(update={"lr": RATES, "ssm_lr": (0.002, 0.004)})
    module = LitReplicas(small(name), optim, [3, 4], step=step)
    fit(module, ReplicaDataModule(SPEC, [3, 4, 3, 4], 8), tmp_path, 20)
    atol = 5e-5 if name == "ttt_mlp" else 1e-5  # an inner training enlarges rounding
    assert module.replicas == [(0.003, 3), (0.003, 4), (0.01, 3), (0.01, 4)]
    assert module.names[2] == "lr_0.01/seed_3"
    for i, (lr, ssm_lr, seed) in enumerate(
        [(0.003, 0.002, 3), (0.003, 0.002, 4), (0.01, 0.004, 3), (0.01, 0.004, 4)]
    ):
        of_one = OPTIM.model_copy(update={"lr": lr, "ssm_lr": ssm_lr})
        alone = LitPredictor(small(name), of_one, seed)
        fit(alone, EpisodeDataModule(SPEC, seed, 8), tmp_path, 20)
        for parameter, expected in weights(alone).items():
            found = without_biases_of_keys(parameter, weights(module)[parameter][i])
            expected = without_biases_of_keys(parameter, expected)
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=atol)


@pytest.mark.parametrize(
    ("options", "spec", "tolerance"),
    [
        ({"accumulate_grad_batches": 4}, SPEC, 1e-5),
        ({"precision": "bf16-mixed"}, SPEC, 1e-5),
        (
            {},
            EpisodeSpec(
                d_x=3,
                d_y=3,
                num_context=4,
                curriculum=Curriculum(points=Ramp(start=3, end=5, increment=1, every=10)),
            ),
            1e-5,
        ),
    ],
)
def test_replicas_learn_as_alone_with(
    options: dict[str, Any], spec: EpisodeSpec, tolerance: float, tmp_path: Path
) -> None:
    module = LitReplicas(MODEL, OPTIM, [3, 4])
    fit(module, ReplicaDataModule(spec, [3, 4], 8), tmp_path, **options)
    alone = LitPredictor(MODEL, OPTIM, 4)
    fit(alone, EpisodeDataModule(spec, 4, 8), tmp_path, **options)
    for name, expected in weights(alone).items():
        torch.testing.assert_close(
            weights(module)[name][1], expected, rtol=tolerance, atol=tolerance
        )


class Spoiled(EpisodeDataModule):
    """From optimizer step `first` on, counted from 0, `num` batches are infinite."""

    def __init__(self, first: int, num: int) -> None:
        super().__init__(SPEC, 3, 8)
        self.spoiled = range(first, first + num)

    def train_episodes(self, step: int, device: torch.device | str = "cpu") -> Episodes:
        episodes = super().train_episodes(step, device)
        return episodes._replace(x=episodes.x * (math.inf if step in self.spoiled else 1))


def test_a_recorded_run_stops_with_the_weights_before_the_bad_step(tmp_path: Path) -> None:
    module = LitPredictor(MODEL, OPTIM, 3, step="compile")
    with pytest.raises(NonFiniteError, match="optimizer step 31: loss"):
        fit(module, Spoiled(30, 1), tmp_path, 100, log_every_n_steps=1000)
    # Somebody looked after fifty steps; the nineteen after the bad one have changed nothing.
    fresh = LitPredictor(MODEL, OPTIM, 3, step="compile")
    with pytest.raises(NonFiniteError):
        fit(fresh, Spoiled(30, 1000), tmp_path, 100, log_every_n_steps=1000)
    for name, expected in weights(fresh).items():
        assert torch.equal(weights(module)[name], expected)
        assert expected.isfinite().all()


@pytest.mark.parametrize(("num", "ends"), [(10, True), (11, False)])
def test_a_recorded_run_passes_over_ten_bad_steps_in_a_row(
    num: int, ends: bool, tmp_path: Path
) -> None:
    found = {}
    steps: tuple[StepKind, ...] = ("eager", "compile")
    for step in steps:
        module = LitPredictor(MODEL, OPTIM, 3, on_nonfinite="skip", step=step)
        expected_end = nullcontext() if ends else pytest.raises(NonFiniteError, match="step 31")
        with pytest.warns(UserWarning, match="optimizer step 21: .*skipped"), expected_end:
            fit(module, Spoiled(20, num), tmp_path, 60, log_every_n_steps=1000)
        found[step] = weights(module)
    for name, expected in found["eager"].items():
        torch.testing.assert_close(found["compile"][name], expected, rtol=1e-4, atol=1e-6)


def test_steps_that_nobody_looked_at_are_judged_at_the_end(tmp_path: Path) -> None:
    module = LitPredictor(MODEL, OPTIM, 3, step="compile")
    with pytest.raises(NonFiniteError, match="optimizer step 31"):
        fit(module, Spoiled(30, 1), tmp_path, 40, log_every_n_steps=1000)


class AfterBackward(pl.Callback):
    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        raise AssertionError("nobody should come here")


@pytest.mark.parametrize(
    "callback", [AfterBackward(), pl.callbacks.LambdaCallback(on_after_backward=print)]
)
@pytest.mark.parametrize("step", ["graph", "compile", "auto"])
def test_what_a_recorded_step_would_pass_over_is_refused(
    step: StepKind, callback: pl.Callback
) -> None:
    trainer = pl.Trainer(accelerator="cpu", callbacks=[callback], logger=False)
    module = LitPredictor(MODEL, OPTIM, 3, step=step)
    if step == "auto":
        module.check_trainer(trainer)
        assert module.step_kind == "eager"
    else:
        with pytest.raises(ValueError, match="does not go with on_after_backward of "):
            module.check_trainer(trainer)
    with pytest.raises(ValueError, match="do not call on_after_backward of "):
        LitReplicas(MODEL, OPTIM, [3, 4]).check_trainer(trainer)


@pytest.mark.parametrize("times", [(1.0, 2.0), (2.0, 1.0)])
def test_auto_takes_the_faster_way_and_keeps_to_it(
    times: tuple[float, float], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = LitPredictor(MODEL, OPTIM, 3, step="auto")
    monkeypatch.setattr(LitPredictor, "print", lambda self, text: print(text))
    monkeypatch.setattr(base, "times_of_ways", lambda step: dict(zip(WAYS, times, strict=True)))
    module._record(lambda: None)
    chosen = WAYS[times.index(min(times))]
    assert f"graph {times[0]:.2f} ms, eager {times[1]:.2f} ms: trainer.step={chosen}" in (
        capsys.readouterr().out
    )
    module.watch = Watch(1, torch.device("cpu"))
    monkeypatch.setattr(LitPredictor, "trainer", SimpleNamespace(global_step=0))
    saved: dict[str, Any] = {}
    module.on_save_checkpoint(saved)
    resumed = LitPredictor(MODEL, OPTIM, 3, step="auto")
    resumed.on_load_checkpoint(saved)
    assert resumed.chosen_way == chosen


def test_a_choice_needs_a_finite_error_and_is_told_to_a_search(tmp_path: Path) -> None:
    module = LitReplicas(MODEL, OptimConfig(lr=(1e-5, 0.01), warmup_steps=0), [3, 4])
    fit(module, ReplicaDataModule(SPEC, [3, 4, 3, 4], 8, 100), tmp_path, 10)
    module._last_validation = 10, [9.0, 9.0, 0.1, math.nan]
    assert module.choice.rate[0] == 1e-5
    assert module.objective() == 9.0
    del module.choice
    module._last_validation = 10, [9.0, math.nan, math.nan, math.nan]
    assert module.choice.rate[0] == 1e-5
    assert module.objective() == math.inf
    del module.choice
    module._last_validation = 10, [math.nan] * 4
    with pytest.raises(NonFiniteError, match="no rate has a finite validation error"):
        module.whole_models()


def test_a_resumed_run_knows_which_rate_led(tmp_path: Path) -> None:
    module = LitReplicas(MODEL, OptimConfig(lr=(1e-5, 0.01)), [3])
    module.watch = Watch(2, torch.device("cpu"))
    module._last_validation = 10, [0.2, 0.1]
    checkpoint: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LitReplicas, "trainer", SimpleNamespace(global_step=10))
        module.on_save_checkpoint(checkpoint)
    resumed = LitReplicas(MODEL, OptimConfig(lr=(1e-5, 0.01)), [3])
    resumed.on_load_checkpoint(checkpoint)
    assert (resumed._leading, resumed._last_validation) == (0.01, (10, [0.2, 0.1]))


def test_operations_that_vmap_has_no_rule_for_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loss_of(*_: Any) -> Tensor:
        raise RuntimeError("Batching rule not implemented for aten::gru.input. We could not")

    monkeypatch.setattr(LitReplicas, "loss_of", loss_of)
    module = LitReplicas(MODEL, OPTIM, [3, 4])
    with pytest.raises(ValueError, match="aten::gru.input. Either .* replicas_in_turn_on = ..cpu"):
        fit(module, ReplicaDataModule(SPEC, [3, 4], 8), tmp_path)


def test_checkpoints_that_named_the_seeds_that_diverged_are_read() -> None:
    module = LitReplicas(MODEL, OPTIM, [3, 4, 5])
    module.on_load_checkpoint({"diverged": {4: "step 1"}})
    assert module.lost == {1: "step 1"}


def test_a_step_is_recorded_once_for_each_size_and_recording_changes_nothing() -> None:
    watch = Watch(2, torch.device("cpu"))
    total = torch.zeros(2)
    recorded: list[torch.Size] = []

    def step(episodes: Episodes) -> None:
        losses = episodes.x.sum((1, 2, 3))
        good = watch.allowed(losses, losses)
        total.add_(torch.where(good, losses, 0))
        watch.note(losses, losses, good)

    def record(again: Callable[[], None]) -> Callable[[], object]:
        recorded.append(total.shape)
        for _ in range(4):
            again()
        return again

    repeat = RecordedStep(step, watch, record)
    for length in (2, 3, 2, 3):
        x = torch.ones(2, 1, length, 1)
        repeat(Episodes(x, x, x, torch.ones(2, 1, length, dtype=torch.bool)))
        watch.count()
    assert len(recorded) == 2
    assert total.tolist() == [10, 10]
    assert [found.loss for found in watch.look()] == [[2, 2], [3, 3], [2, 2], [3, 3]]
    assert watch.alive.all()


def test_one_that_was_left_out_stays_out_and_the_others_go_on() -> None:
    watch = Watch(2, torch.device("cpu"))
    for step in range(LOOK_EVERY):
        losses = torch.tensor([1.0, math.inf if step == 3 else 2.0])
        watch.note(losses, losses, watch.allowed(losses, losses))
        full = watch.count()
    assert full
    updated = [found.updated for found in watch.look()]
    assert updated == [[1, 1]] * 3 + [[1, 0]] * (LOOK_EVERY - 3)


def test_a_rate_is_chosen_among_those_with_most_seeds_left(tmp_path: Path) -> None:
    optim = OptimConfig(lr=(1e-5, 0.01), warmup_steps=0)
    module = LitReplicas(MODEL, optim, [3, 4])
    fit(module, ReplicaDataModule(SPEC, [3, 4, 3, 4], 8, 100), tmp_path)
    assert module.choice.rate == (0.01, 1e-3)
    assert list(module.whole_models()) == [3, 4]
    errors = module.choice.errors
    assert errors.keys() == {"1e-05", "0.01"}
    assert errors["0.01"]["3"] < errors["1e-05"]["3"]
    for lost, values in ({2: "step 1"}, [9.0, 9.0, 0.1, 0.1]), ({}, [9.0, 9.0, math.nan, 0.1]):
        module.lost = lost
        del module.choice
        module._last_validation = module.trainer.global_step, values
        assert module.choice.rate[0] == 1e-5


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"lr": ()}, "lr must be a rate, or at least one in a list"),
        ({"lr": (0.1, 0.10000001)}, "lr must be rates that differ in six digits"),
        ({"lr": (0.1, 0.2), "ssm_lr": (0.1,)}, "one for each of the 2 in lr, got 1"),
        ({"lr": (0.1, -0.2)}, "greater than 0"),
    ],
)
def test_rates_that_do_not_fit_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OptimConfig(**given)


def test_one_model_takes_one_rate() -> None:
    with pytest.raises(ValueError, match="one model trains at one rate"):
        LitPredictor(ModelSpec.of("gd_ssm", d_x=3, d_y=3), OptimConfig(lr=RATES))
