"""A checkpoint that a run goes on from holds all of its state, or is refused by name."""

import copy
import errno
import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

import zoo
from datamodules import EpisodeDataModule, EpisodeSpec, ReplicaDataModule
from datamodules.datamodule import EpisodeSets
from tests.zoo.test_replicas import SMALL
from zoo.files import writing
from zoo.registry import ModelSpec
from zoo.training.base import EpisodeModule
from zoo.training.callbacks import Resumable, TimeToSolution
from zoo.training.checkpointing import check_state
from zoo.training.module import LitPredictor
from zoo.training.options import OptimConfig
from zoo.training.replicas import LitReplicas

SPEC = EpisodeSpec(d_x=3, d_y=3, num_context=4)
STEPS = 4
Saved = dict[str, Any]


def new_trainer(directory: Path) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu",
        max_steps=STEPS,
        max_epochs=-1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        callbacks=[Resumable(directory, every_n_steps=STEPS), TimeToSolution()],
        default_root_dir=directory,
    )


def new_module(name: str = "gd_ssm", positions: Any = "last") -> LitPredictor:
    model = ModelSpec.of(name, d_x=3, d_y=3, **SMALL[name])
    return LitPredictor(model, OptimConfig(), positions=positions)


def saved_by(directory: Path, module: EpisodeModule) -> Path:
    """The checkpoint of a run."""
    data: EpisodeSets = EpisodeDataModule(SPEC, batch_size=4)
    if isinstance(module, LitReplicas):
        data = ReplicaDataModule(SPEC, module.seeds, batch_size=4)
    new_trainer(directory).fit(module, data)
    return directory / "last.ckpt"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    path = saved_by(tmp_path_factory.mktemp("saved"), new_module())
    checkpoint: Saved = torch.load(path, weights_only=True)
    return checkpoint


@pytest.mark.parametrize("positions", ["last", "all"])
@pytest.mark.parametrize("name", zoo.list_models())
def test_every_architecture_saves_what_is_needed_to_go_on(
    name: str, positions: str, tmp_path: Path
) -> None:
    path = saved_by(tmp_path, new_module(name, positions))
    check_state(path, new_trainer(tmp_path), new_module(name, positions))


def test_seeds_side_by_side_save_what_is_needed_to_go_on(tmp_path: Path) -> None:
    def module(*seeds: int) -> LitReplicas:
        return LitReplicas(ModelSpec.of("gd_ssm", d_x=3, d_y=3), OptimConfig(), list(seeds))

    path = saved_by(tmp_path, module(0, 1))
    check_state(path, new_trainer(tmp_path), module(0, 1))
    with pytest.raises(ValueError, match=r"last.ckpt is damaged.*has shape"):
        check_state(path, new_trainer(tmp_path), module(0, 1, 2))


def at(*place: Any, value: Any = None) -> Callable[[Saved], None]:
    """Damages a checkpoint: sets a value, or what a function makes of the one before."""

    def damage(checkpoint: Any) -> None:
        for name in place[:-1]:
            checkpoint = checkpoint[name]
        old = checkpoint[place[-1]]
        checkpoint[place[-1]] = value(old) if callable(value) else value

    return damage


def without(*place: Any) -> Callable[[Saved], None]:
    """Damages a checkpoint: takes something out."""

    def damage(checkpoint: Any) -> None:
        for name in place[:-1]:
            checkpoint = checkpoint[name]
        del checkpoint[place[-1]]

    return damage


Q = ("state_dict", "model.layer.Q")
OPTIMIZER = ("optimizer_states", 0)
MOMENT = (*OPTIMIZER, "state", 1, "exp_avg")
GROUP = (*OPTIMIZER, "param_groups", 0)
SCHEDULE = ("lr_schedulers", 0)
LOOP = ("loops", "fit_loop")
DAMAGES = {
    "no weights": (without("state_dict"), "state_dict is missing"),
    "a weight missing": (without(*Q), "state_dict.model.layer.Q is missing"),
    "another weight": (at("state_dict", value=lambda s: {**s, "a": 1}), r"has \['a'\] as well"),
    "a weight of another shape": (at(*Q, value=lambda t: t[1:]), "Q has shape"),
    "a weight of another type": (at(*Q, value=lambda t: t.double()), "Q has shape .*float64"),
    "a weight of NaN": (at(*Q, value=lambda t: t * math.nan), "Q is not finite"),
    "an infinite weight": (at(*Q, value=lambda t: t * math.inf), "Q is not finite"),
    "no optimizer": (without("optimizer_states"), "optimizer_states is missing"),
    "an empty list of optimizers": (at("optimizer_states", value=[]), "expected a list of 1"),
    "no moments": (at(*OPTIMIZER, "state", value={}), "state.0 is missing"),
    "a moment missing": (without(*MOMENT), "exp_avg is missing"),
    "a moment of another shape": (at(*MOMENT, value=lambda t: t[:1]), "exp_avg has shape"),
    "a moment of another type": (at(*MOMENT, value=lambda t: t.half()), "exp_avg has .*float16"),
    "a moment of NaN": (at(*MOMENT, value=lambda t: t * math.nan), "exp_avg is not finite"),
    "a negative moment": (
        at(*OPTIMIZER, "state", 0, "exp_avg_sq", value=lambda t: -t - 1),
        "exp_avg_sq is negative",
    ),
    "a count of another step": (
        at(*OPTIMIZER, "state", 0, "step", value=torch.tensor(1.0)),
        "step is 1, global_step is 4",
    ),
    "no groups": (at(*OPTIMIZER, "param_groups", value=[]), "expected a list of 3"),
    "parameters in another order": (at(*GROUP, "params", value=[1, 0]), r"params is \[1, 0\]"),
    "other betas": (at(*GROUP, "betas", value=(0.5, 0.5)), "betas is"),
    "no betas": (without(*GROUP, "betas"), "betas is None"),
    "a rate of NaN": (at(*GROUP, "lr", value=math.nan), "lr is nan"),
    "a rate beyond its peak": (at(*GROUP, "lr", value=1.0), "lr is 1.0, its peak is 0.003"),
    "no schedule": (at("lr_schedulers", value=[]), "expected a list of 1"),
    "another schedule": (at(*SCHEDULE, value={"gamma": 0.1}), "lr_schedulers.0.* is missing"),
    "a schedule at another step": (at(*SCHEDULE, "last_epoch", value=1), "last_epoch is 1"),
    "a schedule with a method": (
        at(*SCHEDULE, value=lambda s: {**s, "step": 1}),
        r"has \['step'\] as well",
    ),
    "no loops": (at("loops", value={}), "loops.fit_loop is missing"),
    "no progress": (without(*LOOP, "epoch_loop.batch_progress"), "batch_progress is missing"),
    "another number of batches": (
        at(*LOOP, "epoch_loop.batch_progress", "current", "ready", value=1),
        "the number of batches begun is 1, the run has 4",
    ),
    "no callbacks": (at("callbacks", value={}), "callbacks.TimeToSolution.* is missing"),
    "a time of NaN": (at("callbacks", "Resumable", "wall_time_s", value=math.nan), "is nan"),
    "a negative step": (at("global_step", value=-1), "global_step is -1"),
    "a step beyond the run": (at("global_step", value=9), "global_step is 9, the run has 1 to 4"),
    "another step": (at("global_step", value=2), "number of optimizer steps begun is 4"),
    "a step that is a text": (at("global_step", value="4"), "global_step is str, expected int"),
    "an old version": (at("pytorch-lightning_version", value="0.1"), "version of Lightning is '0'"),
    "another architecture": (at("hyper_parameters", "model", value="s5"), "model is 's5'"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_state_is_refused_and_says_what_is_wrong(
    name: str, saved: Saved, tmp_path: Path
) -> None:
    damage, message = DAMAGES[name]
    checkpoint = copy.deepcopy(saved)
    damage(checkpoint)
    path = tmp_path / "last.ckpt"
    torch.save(checkpoint, path)
    with pytest.raises(ValueError, match=rf"last\.ckpt is damaged .*{message}") as refused:
        check_state(path, new_trainer(tmp_path), new_module())
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("tenths", range(10))
def test_a_state_cut_off_anywhere_is_refused(saved: Saved, tmp_path: Path, tenths: int) -> None:
    path = tmp_path / "last.ckpt"
    torch.save(saved, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * tenths // 10])
    with pytest.raises(ValueError, match=r"last\.ckpt is damaged"):
        check_state(path, new_trainer(tmp_path), new_module())


@pytest.mark.parametrize("content", [[1], torch.zeros(2), "text", {}])
def test_what_is_no_state_at_all_is_refused(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match="is damaged"):
        check_state(tmp_path / "last.ckpt", new_trainer(tmp_path), new_module())


def test_a_bit_that_flipped_is_found(saved: Saved, tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    torch.save(saved, path)
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        part = next(info for info in archive.infolist() if info.filename.endswith("data/0"))
    name_and_extra = content[part.header_offset + 26 : part.header_offset + 30]
    start = part.header_offset + 30 + sum(memoryview(name_and_extra).cast("H"))
    content[start] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is damaged .*data/0 is not what its checksum says"):
        check_state(path, new_trainer(tmp_path), new_module())


def test_a_full_disk_is_said_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    full = pytest.raises(OSError, match="No space left on device.*metrics.json")
    with full, writing(path):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert not list(tmp_path.iterdir())
