"""How many threads compute, and that results do not depend on it."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest
import torch
from torch import Tensor

import zoo
from benchmarks.trainer import quiet_trainer
from datamodules import EpisodeDataModule, EpisodeSpec
from tests.zoo.test_predictors import arguments_of
from tests.zoo.test_settings import settings_of
from zoo import threads as module
from zoo.layers.layer_norm import LayerNorm
from zoo.ops.softmax import softmax
from zoo.registry import ModelSpec
from zoo.threads import begin_to_look, describe, free_cores, settle_arithmetic, threads_of
from zoo.training.callbacks import Threads
from zoo.training.callbacks import threads as callback
from zoo.training.module import LitPredictor
from zoo.training.optim import SHARED_SUM, create_optimizer, total_norm
from zoo.training.options import OptimConfig
from zoo.training.profiler import NoProfiler
from zoo.training.run import trainer_of


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    """What a test chooses ends with it."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@contextmanager
def busy_cores() -> Iterator[None]:
    """Each core of this process has another process that computes."""
    cores = module.usable_cores()
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in cores]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def others_use(percent: float, monkeypatch: pytest.MonkeyPatch, own: float = 15.0) -> None:
    """This process has four cores, and the others use so much of one of them."""
    monkeypatch.setattr(module, "usable_cores", lambda: {0, 1, 2, 3})
    percents = [own + percent, 0.0, 0.0, 0.0, 100.0]  # the last one is not for this process
    monkeypatch.setattr(psutil, "cpu_percent", lambda percpu: percents)
    monkeypatch.setattr(module._PROCESS, "cpu_percent", lambda: own)


@pytest.mark.parametrize(
    ("operations", "expected"),
    [(3.5e6, 1), (9e6, 1), (1.1e7, 2), (3.4e8, 2), (3.9e8, 4), (1e12, 8192)],
)
def test_a_step_has_as_many_threads_as_it_can_keep_busy(operations: float, expected: int) -> None:
    assert threads_of(operations, 64) == expected
    assert threads_of(operations, 50) == 1


@pytest.mark.parametrize(
    ("others", "most", "expected"),
    [
        (0.0, 4, 4),
        (30.0, 4, 4),
        (80.0, 4, 2),
        (200.0, 4, 2),
        (390.0, 4, 1),
        (900.0, 4, 1),
        (80.0, 2, 2),
        (390.0, 2, 1),
    ],
)
def test_threads_are_as_many_as_find_a_free_core(
    others: float, most: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    others_use(others, monkeypatch)
    assert free_cores(most) == expected


def test_other_ranks_are_no_company(monkeypatch: pytest.MonkeyPatch) -> None:
    others_use(390.0, monkeypatch)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert free_cores(4) == 4


def test_processes_that_compute_are_noticed() -> None:
    cores = len(module.usable_cores())
    with busy_cores():
        begin_to_look()
        time.sleep(0.5)
        assert free_cores(cores) <= max(1, cores // 2)


def test_the_users_choice_of_arithmetic_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    settle_arithmetic()
    assert os.environ["MKL_CBWR"] == "COMPATIBLE"


def test_what_was_chosen_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_most", 4)
    assert describe(4) == "4 of 4 threads"
    assert describe(2, worth=2) == "2 of 4 threads, all that a step shares"
    assert describe(2, worth=8) == "2 of 4 threads, since other processes compute"
    assert describe(1) == "1 of 4 threads, since other processes compute"
    monkeypatch.setattr(module, "_most", 6)
    assert describe(4) == "4 of 6 threads, a power of two"
    assert describe(2) == "2 of 6 threads, since other processes compute"


def test_training_looks_again_and_gives_the_threads_back(monkeypatch: pytest.MonkeyPatch) -> None:
    free = iter([2, 1, 2, 2])
    seen: list[int] = []
    said: list[str] = []
    monkeypatch.setattr(callback, "LOOK_EVERY", 0.0)
    monkeypatch.setattr(callback, "free_cores", lambda most: next(free))
    monkeypatch.setattr(callback, "take_free_cores", lambda: seen.append(-1))
    spec = EpisodeSpec(d_x=2, d_y=1, num_context=3)
    lit = LitPredictor(ModelSpec.of("gd_ssm", d_x=2, d_y=1), OptimConfig())
    lit.on_train_batch_end = lambda *_: seen.append(torch.get_num_threads())  # type: ignore[method-assign]
    trainer = quiet_trainer(3, [Threads(2, said.append)])
    trainer.fit(lit, EpisodeDataModule(spec, 0, 4))
    assert seen == [1, 2, 2, -1]
    assert said[0].startswith("training with 2 of ")


def test_lightning_has_what_makes_its_hooks_cheap(tmp_path: Path) -> None:
    lit = LitPredictor(ModelSpec.of("gd_ssm", d_x=2, d_y=1), OptimConfig())
    names: list[str | None] = []
    lit.on_train_batch_start = lambda *_: names.append(lit._current_fx_name)  # type: ignore[assignment,method-assign]
    quiet_trainer(1).fit(lit, EpisodeDataModule(EpisodeSpec(d_x=2, d_y=1, num_context=3), 0, 4))
    assert names == ["on_train_batch_start"]
    assert lit.__dict__["_current_fx_name"] is None
    settings = settings_of("max_steps=1", "~logger.tensorboard")
    assert isinstance(trainer_of(settings, tmp_path, []).profiler, NoProfiler)


def trained(name: str, num_threads: int, batch: int, num_context: int) -> dict[str, Tensor]:
    """Weights after two steps as train.py takes them."""
    torch.set_num_threads(num_threads)
    spec = EpisodeSpec(d_x=6, d_y=3, num_context=num_context)
    data = EpisodeDataModule(spec, 0, batch)
    model = ModelSpec.of(name, **arguments_of("model", name, 6, 3))
    lit = LitPredictor(model, OptimConfig(), positions="all")
    lit.configure_model()
    optimizer = create_optimizer(lit.model, OptimConfig())
    for step in range(2):
        lit.loss_of(lit.model, data.train_episodes(step)).backward()
        gradients = [p.grad for p in lit.model.parameters() if p.grad is not None]
        torch.nn.utils.clip_grads_with_norm_(lit.model.parameters(), 0.1, total_norm(gradients))
        optimizer.step()
    return {key: value.detach() for key, value in lit.model.named_parameters()}


@pytest.mark.parametrize("name", zoo.list_models())
@pytest.mark.parametrize(("batch", "num_context"), [(64, 10), (16, 40)])
def test_weights_do_not_depend_on_the_number_of_threads(
    name: str, batch: int, num_context: int
) -> None:
    one = trained(name, 1, batch, num_context)
    for count in (2, 4):
        several = trained(name, count, batch, num_context)
        assert [key for key in one if not one[key].equal(several[key])] == [], count


def test_the_norm_of_a_large_gradient_does_not_depend_on_the_number_of_threads() -> None:
    large = torch.randn(300, SHARED_SUM // 100, generator=torch.Generator().manual_seed(0))
    norms = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        norms.append(total_norm([large, torch.ones(3)]))
    assert norms[0] == norms[1] == norms[2]
    expected = (large.double().square().sum() + 3).sqrt().float()
    torch.testing.assert_close(norms[0], expected)


def test_layer_norm_is_that_of_torch() -> None:
    ours, theirs = LayerNorm(5).double(), torch.nn.LayerNorm(5).double()
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.normal_()
    theirs.load_state_dict(ours.state_dict())
    u = torch.randn(4, 3, 5, dtype=torch.float64, requires_grad=True)
    for layer in (ours, theirs):
        layer.zero_grad()
    found, expected = ours(u), theirs(u)
    torch.testing.assert_close(found, expected)
    weights = torch.randn_like(found)
    for a, b in zip(
        torch.autograd.grad((found * weights).sum(), [u, *ours.parameters()]),
        torch.autograd.grad((expected * weights).sum(), [u, *theirs.parameters()]),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_softmax_is_that_of_torch_with_all_its_derivatives() -> None:
    scores = torch.randn(3, 4, 5, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(softmax(scores), scores.softmax(-1))
    assert torch.autograd.gradcheck(softmax, scores, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(softmax, scores)
    torch.testing.assert_close(torch.func.vmap(softmax)(scores), scores.softmax(-1))
    hidden = scores.detach().masked_fill(torch.ones(4, 5, dtype=torch.bool).triu(1), -torch.inf)
    hidden.requires_grad_()
    torch.testing.assert_close(softmax(hidden), hidden.softmax(-1))
    (gradient,) = torch.autograd.grad(softmax(hidden).square().sum(), hidden)
    assert gradient.isfinite().all()
