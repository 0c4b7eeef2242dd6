"""What needs a CUDA GPU: `make gpu-test`."""

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import zoo
from benchmarks.trainer import quiet_trainer
from datamodules import EpisodeDataModule, EpisodeSpec, ReplicaDataModule
from tests.datamodules.test_sequences import SPECS
from tests.test_train import ROOT, SMALL, run, start, stop_at, weights
from tests.zoo.test_recorded import Losses, Spoiled
from tests.zoo.test_replicas import MODEL, OPTIM, SPEC, small
from zoo.training.base import EpisodeModule, NonFiniteError, StepKind
from zoo.training.module import LitPredictor
from zoo.training.replicas import LitReplicas

pytestmark = pytest.mark.gpu
ON_GPU = [*SMALL[1:], "max_steps=50", "val_every=25", "optim.warmup_steps=10"]


@pytest.mark.parametrize("spec", [EpisodeSpec(d_x=4, d_y=4, noise=0.1), *SPECS])
def test_training_episodes_are_drawn_the_same_on_every_visible_device(spec: EpisodeSpec) -> None:
    data = EpisodeDataModule(spec, seed=3)
    expected = data.train_episodes(7, "cuda:0")
    for index in range(torch.cuda.device_count()):
        again = data.train_episodes(7, f"cuda:{index}")
        for one, other in zip(expected, again, strict=True):
            assert torch.equal(one.cpu(), other.cpu())


def test_two_runs_on_a_gpu_end_with_the_same_bits(tmp_path: Path) -> None:
    for name in ("one", "two"):
        run(*ON_GPU, "trainer=gpu", f"hydra.run.dir={tmp_path / name}")
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_algorithms_with_tables_of_their_own_are_asked_on_the_gpu(tmp_path: Path) -> None:
    settings = ["data=sine", "max_steps=4", "val_every=2", "batch_size=8", "eval_episodes=20"]
    run(*settings, "trainer=gpu", f"hydra.run.dir={tmp_path}")
    assert (
        "random_features_ridge" in json.loads((tmp_path / "metrics.json").read_text())["references"]
    )


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_mixed_precision_learns(precision: str, tmp_path: Path) -> None:
    longer = [*ON_GPU, "max_steps=400", f"trainer.precision={precision}"]
    run(*longer, "trainer=gpu", f"hydra.run.dir={tmp_path}")
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    untrained = metrics["references"]["zero"]["test/half_mse_query"]["value"]
    assert metrics["model"]["test/half_mse_query"]["value"] < 0.9 * untrained
    assert all(p.dtype == torch.float32 for p in zoo.load(tmp_path / "checkpoint").parameters())


def trained(
    name: str, step: StepKind, directory: Path, max_steps: int, rates: tuple[float, ...] = ()
) -> tuple[list[float], dict[str, Tensor]]:
    """The losses of all steps on the GPU, and the weights: of the last rate of several."""
    optim = OPTIM.model_copy(update={"lr": rates}) if rates else OPTIM
    common: dict[str, Any] = {"positions": "all", "step": step}
    module: EpisodeModule
    if rates:
        module = LitReplicas(small(name), optim, [3], **common)
        data: Any = ReplicaDataModule(SPEC, [3] * len(rates), 64)
    else:
        module = LitPredictor(small(name), optim, 3, **common)
        data = EpisodeDataModule(SPEC, 3, 64)
    losses = Losses("train/half_mse_all")
    trainer = quiet_trainer(
        max_steps,
        [losses],
        "cuda",
        directory,
        {"log_every_n_steps": 1 if max_steps <= 50 else 50},
    )
    trainer.fit(module, data)
    named = {name: p.detach().cpu() for name, p in module.model.named_parameters()}
    return losses.found, {name: p[-1] for name, p in named.items()} if rates else named


def difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The largest of all weights but those of key biases, whose gradient is rounding."""
    names = [name for name in one if not name.endswith("qkv.bias")]
    return max((one[name] - other[name]).abs().max().item() for name in names)


@pytest.mark.parametrize("name", zoo.list_models())
def test_a_graph_learns_what_eager_steps_learn(name: str, tmp_path: Path) -> None:
    eager, again, graph = (
        trained(name, step, tmp_path, 50)[0] for step in ("eager", "eager", "graph")
    )
    assert len(graph) == 50
    spread = max(abs(one - other) for one, other in zip(eager, again, strict=True))
    found = max(abs(one - other) for one, other in zip(eager, graph, strict=True))
    print(f"{name}: losses of 50 steps: graph - eager {found:.1e}, eager - eager {spread:.1e}")
    assert found <= 1e-6 + spread


@pytest.mark.parametrize("name", ["gd_ssm", "transformer"])
def test_a_graph_ends_with_the_weights_of_eager_steps(name: str, tmp_path: Path) -> None:
    ends = [trained(name, step, tmp_path, 500)[1] for step in ("eager", "eager", "graph")]
    spread, found = difference(ends[0], ends[1]), difference(ends[0], ends[2])
    print(f"{name}: weights after 500: graph - eager {found:.1e}, eager - eager {spread:.1e}")
    assert found <= 1e-4 + spread


@pytest.mark.parametrize("name", zoo.list_models())
def test_rates_in_a_graph_learn_what_each_learns_alone(name: str, tmp_path: Path) -> None:
    rates = (0.001, OPTIM.rates[0][0])
    _, expected = trained(name, "eager", tmp_path, 50)
    _, found = trained(name, "graph", tmp_path, 50, rates)
    print(f"{name}: weights after 50, stacked - alone {difference(found, expected):.1e}")
    assert difference(found, expected) < 1e-4


@pytest.mark.parametrize("name", zoo.list_models())
def test_a_predictor_is_the_same_function_on_the_gpu(name: str) -> None:
    torch.manual_seed(0)
    model = zoo.create_model(name, **small(name).arguments).double()
    x, y = torch.randn(2, 8, 6, 3, dtype=torch.float64)
    expected = model(x, y)
    found = model.cuda()(x.cuda(), y.cuda()).cpu()
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)


def test_a_graph_passes_over_bad_steps_and_stops_at_too_many(tmp_path: Path) -> None:
    def fit(data: Spoiled) -> LitPredictor:
        module = LitPredictor(MODEL, OPTIM, 3, on_nonfinite="skip", step="graph")
        trainer = quiet_trainer(100, [], "cuda", tmp_path)
        trainer.fit(module, data)
        return module

    with pytest.warns(UserWarning, match="optimizer step 21: .*skipped"):
        module = fit(Spoiled(20, 10))
    assert all(parameter.isfinite().all() for parameter in module.parameters())
    with pytest.raises(NonFiniteError, match="optimizer step 31"):
        fit(Spoiled(20, 11))


def test_a_graph_is_resumed_to_the_same_bits(tmp_path: Path) -> None:
    settings = [*ON_GPU, "trainer=gpu", "trainer.step=graph", "checkpoint_every=25"]
    process = start(*settings, "max_steps=2000", f"hydra.run.dir={tmp_path / 'parts'}")
    stop_at(process, 100, signal.SIGINT)
    run(f"resume={tmp_path / 'parts'}")
    run(*settings, "max_steps=2000", f"hydra.run.dir={tmp_path / 'long'}")
    one, two = weights(tmp_path / "parts"), weights(tmp_path / "long")
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_two_processes_on_one_card_learn_the_weights_of_one(tmp_path: Path) -> None:
    settings = [*ON_GPU, "batch_size=32"]
    run(*settings, "trainer=gpu", "trainer.step=eager", f"hydra.run.dir={tmp_path / 'one'}")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # Two machines of one card each, both of which are this one; NCCL takes one rank a card.
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
    torchrun += ["--master-addr=127.0.0.1", f"--master-port={port}"]
    of_both = ["trainer=ddp", "trainer.num_nodes=2", f"hydra.run.dir={tmp_path / 'two'}"]
    of_both += ["+trainer.strategy.process_group_backend=gloo"]
    ranks = [
        subprocess.Popen(
            [*torchrun, f"--node-rank={rank}", "train.py", *settings, *of_both],
            cwd=ROOT,
        )
        for rank in range(2)
    ]
    assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]
    expected = weights(tmp_path / "one")
    for name, tensor in weights(tmp_path / "two").items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("trainer", ["ddp", "fsdp"])
def test_all_visible_gpus_learn_the_weights_of_one(trainer: str, tmp_path: Path) -> None:
    batch = f"batch_size={16 * torch.cuda.device_count()}"
    run(*ON_GPU, batch, "trainer=gpu", f"hydra.run.dir={tmp_path / 'one'}")
    run(*ON_GPU, batch, f"trainer={trainer}", f"hydra.run.dir={tmp_path / 'all'}")
    expected = weights(tmp_path / "one")
    for name, tensor in weights(tmp_path / "all").items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=1e-6)
