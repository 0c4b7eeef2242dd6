"""What needs a CUDA GPU: `make gpu-test`."""

import json
from pathlib import Path

import pytest
import torch

import zoo
from datamodules import EpisodeDataModule, EpisodeSpec
from tests.test_train import SMALL, run, weights

pytestmark = pytest.mark.gpu
ON_GPU = [*SMALL[1:], "max_steps=50", "val_every=25", "optim.warmup_steps=10"]


def test_training_episodes_are_drawn_the_same_on_every_visible_device() -> None:
    data = EpisodeDataModule(EpisodeSpec(d_x=4, d_y=4, noise=0.1), seed=3)
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


@pytest.mark.parametrize("trainer", ["ddp", "fsdp"])
def test_all_visible_gpus_learn_the_weights_of_one(trainer: str, tmp_path: Path) -> None:
    batch = f"batch_size={16 * torch.cuda.device_count()}"
    run(*ON_GPU, batch, "trainer=gpu", f"hydra.run.dir={tmp_path / 'one'}")
    run(*ON_GPU, batch, f"trainer={trainer}", f"hydra.run.dir={tmp_path / 'all'}")
    expected = weights(tmp_path / "one")
    for name, tensor in weights(tmp_path / "all").items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=1e-6)
