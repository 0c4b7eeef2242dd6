"""Parts of training that need no process of their own."""

import errno
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.fabric.strategies.launchers.subprocess_script import _ChildProcessObserver
from matplotlib.figure import Figure
from omegaconf import OmegaConf
from pydantic import ValidationError
from torch import Tensor

import zoo
from datamodules import EpisodeDataModule, EpisodeSpec
from datamodules.episodes import Episodes
from zoo.files import (
    refuse_links,
    remove_half_written,
    write_directory,
    write_figure,
    write_json,
    write_text,
)
from zoo.registry import ModelSpec
from zoo.training.base import NonFiniteError
from zoo.training.callbacks import Resumable
from zoo.training.checkpointing import AtomicCheckpointIO
from zoo.training.directory import read_config, save_config
from zoo.training.module import LitPredictor
from zoo.training.optim import create_optimizer, parameter_groups, rate_factor
from zoo.training.options import OptimConfig
from zoo.training.overrides import check_plugins
from zoo.training.private import delay_forced_end

MODEL = ModelSpec.of("gd_ssm", d_x=3, d_y=3)


def test_parameter_groups_hold_every_parameter_once_at_its_rate() -> None:
    model = zoo.create_model("gd_ssm", d_x=3, d_y=3)
    config = OptimConfig(lr=0.1, ssm_lr=0.02, weight_decay=0.5)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = {
        group["name"]: ({names[id(p)] for p in group["params"]}, group["lr"], group["weight_decay"])
        for group in parameter_groups(model, config)
    }
    assert groups == {
        "decay": ({"layer.Q", "layer.C"}, 0.1, 0.5),
        "no_decay": ({"layer.D"}, 0.1, 0.0),
        "ssm": ({"layer.Lambda_re", "layer.log_step"}, 0.02, 0.0),
    }
    optimizer = create_optimizer(model, config)
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(list(model.parameters()))


@pytest.mark.parametrize("name", zoo.list_models())
def test_no_bias_no_norm_and_nothing_that_is_declared_has_weight_decay(name: str) -> None:
    model = zoo.create_model(name, d_x=3, d_y=3)
    groups = {group["name"]: group for group in parameter_groups(model, OptimConfig())}
    decayed = {id(p) for p in groups["decay"]["params"]}
    assert decayed
    for place, module in model.named_modules():
        declared = (
            *getattr(module, "ssm_parameters", ()),
            *getattr(module, "no_decay_parameters", ()),
        )
        for own, parameter in module.named_parameters(recurse=False):
            full = f"{place}.{own}"
            # The biases of the networks that test-time training trains are called b1 and b2.
            plain = "norm" in full or "bias" in full or re.fullmatch(r"b\d?", own)
            if plain or own in declared:
                assert id(parameter) not in decayed, full


def test_without_a_recurrence_there_is_no_empty_group() -> None:
    model = zoo.create_model("gd_ssm", d_x=3, d_y=3, decay="none")
    assert [group["name"] for group in parameter_groups(model, OptimConfig())] == [
        "decay",
        "no_decay",
    ]


def test_rate_rises_stays_and_falls_to_zero() -> None:
    config = OptimConfig(warmup_steps=10, decay_fraction=0.5)
    rates = [rate_factor(step, config, 100) for step in range(100)]
    assert rates[0] == pytest.approx(1 / 11)
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:51] == [1.0] * 41
    assert rates[50:] == sorted(rates[50:], reverse=True)
    assert rates[99] == pytest.approx(1 / 50)
    assert rate_factor(100, config, 100) == 0.0
    constant = OptimConfig(warmup_steps=0, decay_fraction=0.0)
    assert {rate_factor(step, constant, 100) for step in range(100)} == {1.0}


@pytest.mark.parametrize(
    "wrong", [{"lr": 0}, {"lr": float("inf")}, {"beta1": 1.0}, {"learning_rate": 1e-3}]
)
def test_wrong_optimizer_settings_are_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        OptimConfig(**wrong)


def test_the_model_starts_from_its_seed_and_leaves_the_global_state() -> None:
    before = torch.random.get_rng_state()
    modules = [LitPredictor(MODEL, OptimConfig(), seed=s) for s in (1, 1, 2)]
    for module in modules:
        module.configure_model()
    first, same, other = (module.model.layer.Q for module in modules)
    assert torch.equal(first, same)  # type: ignore[arg-type]
    assert not torch.equal(first, other)  # type: ignore[arg-type]
    assert torch.equal(torch.random.get_rng_state(), before)


class FullDisk:
    """A file that takes a few bytes and then none."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("wb")

    def __enter__(self) -> "FullDisk":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, data: bytes) -> int:
        self.file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    def flush(self) -> None:
        self.file.flush()


def test_a_full_disk_keeps_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, io = tmp_path / "last.ckpt", AtomicCheckpointIO()
    io.save_checkpoint({"step": torch.tensor(1)}, path)
    monkeypatch.setattr(Path, "open", lambda self, mode: FullDisk(self))
    with pytest.raises(OSError, match=r"could not save .*last.ckpt.*before it.*unharmed"):
        io.save_checkpoint({"step": torch.tensor(2)}, path)
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]
    assert io.load_checkpoint(path)["step"] == 1


def plant_links(directory: Path, *names: str) -> Path:
    """Makes links of these names that lead to a file, which is returned."""
    victim = directory / "victim"
    victim.write_text("precious")
    for name in names:
        (directory / name).symlink_to(victim)
    return victim


def test_files_are_never_written_through_a_link(tmp_path: Path) -> None:
    writers: dict[str, Callable[[Path], None]] = {
        "a.json": lambda path: write_json(path, {"a": 1}),
        "a.txt": lambda path: write_text(path, "±"),
        "a.png": lambda path: write_figure(path, Figure()),
        "a.svg": lambda path: write_figure(path, Figure(), metadata={"Date": None}),
        "last.ckpt": lambda path: AtomicCheckpointIO().save_checkpoint({"a": 1}, path),
        "config.yaml": lambda path: save_config(
            OmegaConf.create({"checkpoint_tag": "a", "resume": None, "run_dir": None}), path.parent
        ),
    }
    names = [
        f"{name}{end}" for name in writers for end in ("", ".writing", f".{os.getpid()}.writing")
    ]
    victim = plant_links(tmp_path, *names)
    for name, write in writers.items():
        write(tmp_path / name)
        assert not (tmp_path / name).is_symlink()
    assert victim.read_text() == "precious"


def test_a_directory_is_never_written_through_a_link(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("run", "run.writing", "run.replaced"):
        (tmp_path / name).symlink_to(elsewhere)
    for _ in range(2):
        write_directory(tmp_path / "run", {"a": b"1"})
        assert (tmp_path / "run" / "a").read_bytes() == b"1"
        assert not (tmp_path / "run").is_symlink()
    assert not list(elsewhere.iterdir())
    assert {path.name for path in tmp_path.iterdir()} == {"run", "elsewhere"}


@pytest.mark.parametrize(
    "place", [".lock", "log.txt", "figures", "checkpoints/last.ckpt", "csv/version_0", "seed_0/a/b"]
)
def test_a_link_inside_the_directory_of_a_run_is_refused(place: str, tmp_path: Path) -> None:
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    refuse_links(*tmp_path.glob("*"))
    (tmp_path / place).symlink_to("nowhere")
    with pytest.raises(ValueError, match=f"{place} is a symbolic link to nowhere"):
        refuse_links(*tmp_path.glob("*"))


def test_what_a_killed_process_was_writing_is_removed(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    for name in ("metrics.json", "metrics.json.0a1b.writing", "checkpoints/last.ckpt.2c.writing"):
        (tmp_path / name).touch()
    remove_half_written(tmp_path)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["metrics.json"]


BOMBS = {
    "aliases": "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n",
    "merged aliases": "a: &a {x: 1}\nb: {<<: *a}\n",
    "itself": "a: &a [*a]\n",
    "levels": "a: " + "[" * 5_000 + "]" * 5_000,
    "values": "a: [" + "1, " * 9_000 + "1]",
    "bytes": "a: " + "x" * 1_000_000,
    "interpolations": "\n".join(f"a{i}: ${{a{i + 1}}}${{a{i + 1}}}" for i in range(40)),
    "objects": "a: !!python/object/apply:os.getcwd []",
    "bytes that are no text": "a: \0",
    "digits": "a: " + "9" * 5_000,
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_configuration_that_would_blow_up_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(BOMBS[name])
    with pytest.raises(ValueError, match="config.yaml cannot be read: "):
        read_config(path)


def test_a_checkpoint_that_would_run_code_is_not_loaded(tmp_path: Path) -> None:
    class Malicious:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "executed",))

    torch.save({"state_dict": Malicious()}, tmp_path / "last.ckpt")
    with pytest.raises(Exception, match="(?i)weights.only"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "last.ckpt")
    assert not (tmp_path / "executed").exists()


def test_the_gradient_is_clipped_to_its_norm(tmp_path: Path) -> None:
    norms = []

    class Norms(pl.Callback):
        def on_before_zero_grad(
            self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any
        ) -> None:
            grads = [p.grad for p in pl_module.parameters() if p.grad is not None]
            if grads:
                norms.append(torch.nn.utils.get_total_norm(grads).item())

    def train(clip_norm: float | None) -> list[float]:
        norms.clear()
        scales = {"scale_Q": 0.5, "scale_C": 1.0, "scale_D": 1.0}
        pl.Trainer(
            accelerator="cpu",
            max_steps=10,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            limit_val_batches=0,
            callbacks=[Norms()],
            default_root_dir=tmp_path,
        ).fit(
            LitPredictor(
                ModelSpec.of("gd_ssm", d_x=3, d_y=3, **scales), OptimConfig(clip_norm=clip_norm)
            ),
            EpisodeDataModule(EpisodeSpec(d_x=3, d_y=3, inputs={"name": "gaussian"})),
        )
        return list(norms)

    free, clipped = train(None), train(0.25)
    assert min(free) > 0.25
    assert clipped == pytest.approx([0.25] * len(clipped), rel=1e-4)


class Spoiled(EpisodeDataModule):
    """Episodes that are infinite at some steps."""

    spoiled: tuple[int, ...] = ()

    def train_episodes(self, step: int, device: torch.device | str = "cpu") -> Episodes:
        episodes = super().train_episodes(step, device)
        if step in self.spoiled:
            return episodes._replace(x=torch.full_like(episodes.x, float("inf")))
        return episodes


@pytest.fixture
def train_spoiled(tmp_path: Path) -> Callable[..., dict[int, dict[str, Tensor]]]:
    """Trains on `Spoiled` episodes; returns the weights after each step."""

    def train(spoiled: tuple[int, ...], **arguments: Any) -> dict[int, dict[str, Tensor]]:
        weights = {}

        class Weights(pl.Callback):
            def on_train_batch_end(self, trainer: pl.Trainer, module: Any, *_: Any) -> None:
                state = module.model.state_dict()
                weights[trainer.global_step] = {k: t.clone() for k, t in state.items()}

        datamodule = Spoiled(EpisodeSpec(d_x=3, d_y=3))
        datamodule.spoiled = spoiled
        pl.Trainer(
            accelerator="cpu",
            max_steps=20,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            limit_val_batches=0,
            callbacks=[Weights()],
            default_root_dir=tmp_path,
        ).fit(LitPredictor(MODEL, OptimConfig(), **arguments), datamodule)
        return weights

    return train


def test_a_skipped_step_leaves_the_weights_and_the_next_one_moves_them(
    train_spoiled: Callable[..., dict[int, dict[str, Tensor]]],
) -> None:
    with pytest.warns(UserWarning, match="optimizer step 8: loss .*: skipped"):
        weights = train_spoiled((7,), on_nonfinite="skip")
    assert len(weights) == 20
    for name in weights[1]:
        assert torch.equal(weights[8][name], weights[7][name])
    assert not torch.equal(weights[9]["layer.C"], weights[8]["layer.C"])
    assert all(tensor.isfinite().all() for tensor in weights[20].values())


def test_a_run_that_would_skip_its_rest_stops(
    train_spoiled: Callable[..., dict[int, dict[str, Tensor]]],
) -> None:
    with (
        pytest.warns(UserWarning, match="skipped"),
        pytest.raises(NonFiniteError, match="optimizer step 14"),
    ):
        train_spoiled(tuple(range(3, 20)), on_nonfinite="skip")
    with pytest.raises(NonFiniteError, match="optimizer step 4"):
        train_spoiled((3,))
    with pytest.raises(ValueError, match="'stop' or 'skip', got 'go'"):
        LitPredictor(MODEL, OptimConfig(), on_nonfinite="go")  # type: ignore[arg-type]


@pytest.mark.parametrize("choice", ["launcher=joblib", "launcher=submitit"])
def test_a_launcher_that_is_not_installed_is_named_with_its_extra(
    choice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("zoo.training.overrides.version", missing)
    with pytest.raises(ValueError, match=rf"{choice} needs hydra-.*-launcher: .*sweep"):
        check_plugins(["-m", choice])
    check_plugins(["-m", "seed=0,1"])


def test_a_second_ctrl_c_exits_at_once_and_a_sigterm_beside_it_does_not(tmp_path: Path) -> None:
    resumable = Resumable(tmp_path)
    resumable._request_stop(signal.SIGTERM, None)
    resumable._request_stop(signal.SIGINT, None)  # a launcher may send both
    with pytest.raises(SystemExit) as caught:
        resumable._request_stop(signal.SIGINT, None)
    assert caught.value.code == 130


def test_a_rank_that_lost_another_is_killed_only_after_its_last_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    killed = []
    monkeypatch.setattr(os, "kill", lambda pid, _: killed.append((pid, time.monotonic())))
    dead = subprocess.Popen([sys.executable, "-c", "raise SystemExit(9)"])
    dead.wait()
    observer = _ChildProcessObserver(main_pid=7, child_processes=[dead], sleep_period=1)
    start = time.monotonic()
    observer.start()
    delay_forced_end(2.0)
    observer.join(timeout=60)
    ((pid, end),) = killed
    assert pid == 7  # a rank that hangs is not spared
    assert end - start >= 3.0
