"""Several seeds in one process: each learns what it would learn alone."""

import contextlib
import csv
import io
import json
import math
import signal
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor

import zoo
from benchmarks.trainer import quiet_trainer
from datamodules import EpisodeDataModule, EpisodeSpec, ReplicaDataModule
from datamodules.datamodule import EpisodeSets
from datamodules.episodes import Episodes
from zoo.commands import train as script
from zoo.evaluation.seeds import first_step_over_seeds, seeds_table, summary_over_seeds
from zoo.hub.directory import read_card
from zoo.predictor import Predictor
from zoo.registry import ModelSpec, model_arguments
from zoo.terminal import StoppedBySignal
from zoo.training import measure, write
from zoo.training import run as assembly
from zoo.training.base import EpisodeModule, NonFiniteError
from zoo.training.callbacks import Convergence
from zoo.training.module import LitPredictor
from zoo.training.optim import parameter_groups
from zoo.training.options import OptimConfig
from zoo.training.replicas import LitReplicas
from zoo.training.run import Run

CONFIGS = Path(__file__).parents[2] / "configs"
SEEDS = [3, 4, 5]
SPEC = EpisodeSpec(d_x=3, d_y=3, num_context=4)
CLASSES = EpisodeSpec(
    d_x=3, d_y=3, num_context=4, function={"name": "gaussian_mixture"}, inputs={"name": "gaussian"}
)
# A start from which the gradient is clipped for some replicas at some steps.
LARGE = {"scale_Q": 0.3, "scale_C": 0.5, "scale_D": 0.5}
OPTIM = OptimConfig(lr=0.01, warmup_steps=5, weight_decay=0.1, clip_norm=0.1)
MODEL = ModelSpec.of("gd_ssm", d_x=3, d_y=3)
# Whatever an architecture has of these is small.
SIZES = {
    "d_model": 8,
    "num_layers": 1,
    "d_state": 4,
    "d_head": 4,
    "num_heads": 2,
    "num_features": 4,
    "num_hidden": 1,
    "d_hidden": 8,
}
SMALL: dict[str, dict[str, Any]] = {
    name: {size: value for size, value in SIZES.items() if size in model_arguments(name)}
    for name in zoo.list_models()
}
SMALL["gd_ssm"] = LARGE
SMALL["linear_transformer"] = {"num_layers": 2}


def small(name: str) -> ModelSpec:
    return ModelSpec.of(name, d_x=3, d_y=3, **SMALL[name])


def fit(
    module: EpisodeModule,
    datamodule: EpisodeSets,
    tmp_path: Path,
    max_steps: int = 50,
    callbacks: list[pl.Callback] | None = None,
    precision: str = "32-true",
) -> dict[int, dict[str, Tensor]]:
    """Trains without logs; returns the weights of every seed that did not diverge."""
    settings = {"precision": precision}
    trainer = quiet_trainer(max_steps, callbacks, directory=tmp_path, settings=settings)
    trainer.fit(module, datamodule)
    return {seed: model.state_dict() for seed, model in module.whole_models().items()}


def in_double(datamodule: EpisodeSets, batch: Episodes, dataloader_idx: int) -> Episodes:
    """The numbers of a batch in float64."""
    return batch._replace(x=batch.x.double(), y=batch.y.double(), target=batch.target.double())


@pytest.mark.parametrize(
    ("name", "arguments", "positions", "in_turn"),
    [(name, {}, "last", False) for name in zoo.list_models()]
    + [("gd_ssm", {"num_steps": 2}, "last", False), ("gd_ssm", {"decay": "none"}, "all", False)]
    + [("gd_ssm", {}, "all", False), ("gd_ssm", {"output": "logits"}, "last", False)]
    + [("gd_ssm", {}, "last", True), ("transformer", {}, "all", True)],
)
def test_every_replica_learns_the_weights_of_its_own_run(
    name: str,
    arguments: dict[str, Any],
    positions: Any,
    in_turn: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(LitReplicas, "takes_turns_on", lambda self, device: in_turn)
    monkeypatch.setattr(EpisodeSets, "on_after_batch_transfer", in_double)
    logits = "output" in arguments
    common: dict[str, Any] = {
        "model": ModelSpec.of(name, d_x=3, d_y=3, **{**SMALL[name], **arguments}),
        "optim": OPTIM,
        "positions": positions,
        "loss": "cross_entropy" if logits else "mse",
    }
    spec = CLASSES if logits else SPEC
    # An inner training and AdamW enlarge rounding: in float64 it is still nothing.
    data = ReplicaDataModule(spec, SEEDS, 8)
    replicas = LitReplicas(seeds=SEEDS, **common)
    together = fit(replicas, data, tmp_path, precision="64-true")
    assert list(together) == SEEDS
    for seed in SEEDS[1:]:
        module = LitPredictor(seed=seed, **common)
        start = module.new_model(seed).state_dict()
        data = EpisodeDataModule(spec, seed, 8)
        alone = fit(module, data, tmp_path, precision="64-true")[seed]
        for parameter, expected in alone.items():
            assert expected.dtype == torch.float64
            found = together[seed][parameter].double()  # it was rounded to float32 at the end
            torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
        moved = max((alone[p] - start[p]).abs().max() for p in start)
        assert moved > 0.01


def test_each_gradient_is_clipped_to_its_own_norm(tmp_path: Path) -> None:
    found: list[list[float]] = []

    class Norms(pl.Callback):
        def on_train_batch_end(
            self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any
        ) -> None:
            grads = [p.grad.flatten(1) for p in pl_module.parameters() if p.grad is not None]
            if grads:
                found.append(torch.cat(grads, dim=1).norm(dim=1).tolist())

    def norms(clip_norm: float | None) -> list[float]:
        found.clear()
        model = ModelSpec.of("gd_ssm", d_x=3, d_y=3, **LARGE)
        module = LitReplicas(model, OPTIM.model_copy(update={"clip_norm": clip_norm}), SEEDS)
        fit(module, ReplicaDataModule(SPEC, SEEDS, 8), tmp_path, 2, [Norms()])
        return found[0]

    free = norms(None)
    middle = sorted(free)[1]
    clipped = norms(middle)
    assert clipped == pytest.approx([min(norm, middle) for norm in free], rel=1e-4)
    assert min(free) < middle < max(free)


@pytest.mark.parametrize("name", zoo.list_models())
def test_stacked_parameters_are_in_the_groups_of_single_ones(name: str) -> None:
    module = LitReplicas(small(name), OptimConfig(), SEEDS)
    module.configure_model()

    def groups(model: Predictor, stacked: bool) -> dict[str, list[str]]:
        names = {id(p): name for name, p in model.named_parameters()}
        found = parameter_groups(model, OptimConfig(), stacked)
        return {group["name"]: [names[id(p)] for p in group["params"]] for group in found}

    assert groups(module.model, True) == groups(module.new_model(0), False)


class Spoiled(ReplicaDataModule):
    """Episodes of which one replica's are infinite at some steps."""

    spoiled: tuple[int, ...] = ()

    def train_episodes(self, step: int, device: torch.device | str = "cpu") -> Episodes:
        episodes = super().train_episodes(step, device)
        if step in self.spoiled:
            episodes.x[1] = math.inf
        return episodes


@pytest.mark.parametrize("name", zoo.list_models())
def test_a_diverged_replica_stays_as_it_was_and_leaves_no_trace_in_the_others(
    name: str, tmp_path: Path
) -> None:
    course: dict[int, Tensor] = {}

    class Course(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, module: Any, *_: Any) -> None:
            rows = [p.detach()[1].flatten() for p in module.model.parameters()]
            course[trainer.global_step] = torch.cat(rows)

    def train(spoiled: tuple[int, ...]) -> tuple[LitReplicas, dict[int, dict[str, Tensor]]]:
        module = LitReplicas(small(name), OPTIM, SEEDS)
        datamodule = Spoiled(SPEC, SEEDS, 8)
        datamodule.spoiled = spoiled
        return module, fit(module, datamodule, tmp_path, 20, [Course()])

    _, undisturbed = train(())
    with pytest.warns(UserWarning, match="seed 4 has diverged.*2 of 3 go on. optimizer step 8: lo"):
        module, weights = train((7,))
    assert list(module.diverged) == [4]
    assert list(weights) == [3, 5]
    for seed in (3, 5):
        assert all(torch.equal(weights[seed][p], t) for p, t in undisturbed[seed].items())
    assert course[7].isfinite().all()
    assert not torch.equal(course[6], course[7])
    assert all(torch.equal(course[step], course[7]) for step in range(8, 21))


def test_weights_that_an_update_made_infinite_are_taken_back(tmp_path: Path) -> None:
    class Spoil(pl.Callback):
        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step == 4:
                for state in trainer.optimizers[0].state.values():
                    state["exp_avg"][0] = math.inf

    module = LitReplicas(MODEL, OptimConfig(), SEEDS)
    with pytest.warns(UserWarning, match="seed 3 has diverged.*optimizer step 5: weights"):
        fit(module, ReplicaDataModule(SPEC, SEEDS, 8), tmp_path, 10, [Spoil()])
    assert all(parameter.isfinite().all() for parameter in module.parameters())


def test_a_run_whose_seeds_all_diverge_stops(tmp_path: Path) -> None:
    class AllSpoiled(ReplicaDataModule):
        def train_episodes(self, step: int, device: torch.device | str = "cpu") -> Episodes:
            episodes = super().train_episodes(step, device)
            return episodes._replace(x=episodes.x * math.inf)

    module = LitReplicas(MODEL, OptimConfig(), SEEDS)
    with (
        pytest.warns(UserWarning, match="diverged"),
        pytest.raises(NonFiniteError, match="every seed has diverged, seed 5 at optimizer step 1"),
    ):
        fit(module, AllSpoiled(SPEC, SEEDS, 8), tmp_path)


@pytest.mark.parametrize("seeds", [[], [1, 1]])
def test_seeds_that_are_not_different_are_refused(seeds: list[int]) -> None:
    with pytest.raises(ValueError, match="seeds must be one or more different numbers"):
        LitReplicas(MODEL, OptimConfig(), seeds)


def test_a_model_with_buffers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    new_model = LitReplicas.new_model

    def with_buffer(self: LitReplicas, seed: int) -> Predictor:
        model = new_model(self, seed)
        model.register_buffer("drawn", torch.full((2,), seed))
        return model

    monkeypatch.setattr(LitReplicas, "new_model", with_buffer)
    module = LitReplicas(MODEL, OptimConfig(), SEEDS)
    with pytest.raises(ValueError, match="model with buffers, got gd_ssm with drawn"):
        module.configure_model()


def config_of(directory: Path, *overrides: str) -> DictConfig:
    short = [
        "trainer=cpu",
        "data.d_x=3",
        "data.num_context=4",
        "batch_size=8",
        "max_steps=60",
        "val_every=10",
        "checkpoint_every=20",
        "eval_episodes=40",
        "trainer.log_every_n_steps=10",
        "checkpoint_tag=test",
        "~callbacks.progress",
    ]
    with initialize_config_dir(version_base="1.3", config_dir=str(CONFIGS)):
        return compose("train", [*short, *overrides, f"run_dir={directory}"])


def run(directory: Path, *overrides: str) -> tuple[dict[str, Any], Run]:
    return script.train(
        config_of(directory, *overrides), directory, Console(quiet=True), ["train.py"]
    )


def saved_wall_time_s(directory: Path) -> float:
    callbacks = torch.load(directory / "checkpoints/last.ckpt", weights_only=True)["callbacks"]
    (found,) = (state["wall_time_s"] for state in callbacks.values() if "wall_time_s" in state)
    return float(found)


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("runs") / "whole"
    run(directory, "seeds=3", "seed=3")
    return directory


def test_a_run_of_several_seeds_leaves_a_directory_for_each(
    whole_run: Path, tmp_path: Path
) -> None:
    alone = tmp_path / "alone"
    run(alone, "seed=4")
    for seed in SEEDS:
        directory = whole_run / f"seed_{seed}"
        card = read_card(directory / "checkpoint")
        assert (card.training.seed, card.training.steps) == (seed, 60)
        assert card.training.wall_time_s == pytest.approx(
            saved_wall_time_s(whole_run) / 3, abs=1e-3
        )
        assert {p.name for p in (directory / "figures").iterdir()} == {
            p.name for p in (alone / "figures").iterdir()
        }
    one, other = (
        json.loads((d / "metrics.json").read_text()) for d in (whole_run / "seed_4", alone)
    )
    assert one.keys() == other.keys()
    assert one["steps"] == other["steps"] == 60
    for name, metric in other["model"].items():
        assert one["model"][name]["value"] == pytest.approx(metric["value"], rel=1e-3), name


def test_the_summary_is_that_of_the_seeds(whole_run: Path) -> None:
    summary = json.loads((whole_run / "metrics.json").read_text())
    assert (summary["seeds"], summary["diverged"]) == (SEEDS, [])
    found = summary["metrics"]["test/half_mse_query"]
    each = [
        json.loads((whole_run / f"seed_{s}" / "metrics.json").read_text())["model"][
            "test/half_mse_query"
        ]["value"]
        for s in SEEDS
    ]
    assert found["values"] == dict(zip(map(str, SEEDS), each, strict=True))
    spread = torch.tensor(each, dtype=torch.float64).std().item()
    assert found["mean"] == pytest.approx(sum(each) / 3)
    assert found["ci95"] == pytest.approx(4.303 * spread / 3**0.5)
    assert summary["first_step_within_1_percent"]["values"].keys() == {"3", "4", "5"}


def test_numbers_that_some_seeds_lack_are_averaged_over_the_others() -> None:
    summary = summary_over_seeds({0: {"a": 1.0, "b": None}, 1: {"a": 3.0, "b": None}, 2: {"b": 5}})
    assert summary["a"]["mean"] == 2.0
    assert summary["a"]["ci95"] == pytest.approx(12.706)
    assert (summary["b"]["mean"], summary["b"]["ci95"]) == (5, None)


def test_a_step_that_some_seeds_did_not_reach_is_counted_as_later_than_all() -> None:
    found = first_step_over_seeds({0: 30, 1: None, 2: 10})
    assert found == {"num_reached": 2, "median": 30, "values": {"0": 30, "1": None, "2": 10}}
    assert first_step_over_seeds({0: 30, 1: None})["median"] is None


def test_the_table_says_what_seeds_reached_and_which_diverged() -> None:
    first, name = "first_step_within_1_percent", 40 * "a"
    summary = {
        "metrics": summary_over_seeds({0: {name: 1.0}, 1: {name: 3.0}, 2: {name: None}}),
        first: first_step_over_seeds({0: 30, 1: None, 2: 10}),
    }
    table = seeds_table(summary, {7: "optimizer step 1"})
    assert table.caption == "diverged and left out: 7"
    assert ("2 ± 13 (2 of 3)", "1", "3") in [row[1:] for row in table.rows]
    assert (first, "median 30 (2 of 3)", "10", "-") in table.rows
    console = Console(width=80)
    with console.capture() as capture:
        console.print(table)
    assert f" {name} " in capture.get()
    assert max(map(len, capture.get().splitlines())) <= 80


@pytest.mark.parametrize(("lost", "expected"), [({}, 0.5), ({1: "step 1"}, math.inf)])
def test_a_search_is_told_of_a_seed_that_diverged(
    lost: dict[int, str], expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = LitReplicas(MODEL, OptimConfig(), SEEDS)
    module.lost = lost
    trainer = SimpleNamespace(callback_metrics={"val/half_mse_query": torch.tensor(0.5)})
    monkeypatch.setattr(LitReplicas, "trainer", trainer)
    assert module.objective() == expected


@pytest.mark.usefixtures("undrawn")
def test_a_run_of_several_rates_keeps_the_best_and_says_what_the_others_reached(
    tmp_path: Path,
) -> None:
    directory = tmp_path / "rates"
    metrics, found = run(directory, "seeds=2", "seed=3", "optim.lr=[0.00001,0.01]")
    assert metrics["best_rate"] == 0.01
    assert {rate: list(errors) for rate, errors in metrics["rates"].items()} == {
        "1e-05": ["3", "4"],
        "0.01": ["3", "4"],
    }
    assert {p.name for p in directory.glob("seed_*")} == {"seed_3", "seed_4"}
    card = read_card(directory / "seed_4" / "checkpoint")
    training = card.training
    assert (training.optimizer["lr"], training.optimizer["rates"]) == (0.01, metrics["rates"])
    assert (training.num_seeds, training.seed) == (2, 4)
    assert card.notes.startswith("One of 2 rates x 2 seeds trained side by side")
    alone = tmp_path / "alone"
    of_one, _ = run(alone, "seed=4", "optim.lr=0.01")
    name = "test/half_mse_query"
    assert metrics["metrics"][name]["values"]["4"] == pytest.approx(
        of_one["model"][name]["value"], rel=1e-3
    )
    boards = {p.parent.relative_to(directory / "tensorboard") for p in directory.rglob("events*")}
    rates = {Path(f"lr_{lr}/seed_{seed}") for lr in ("1e-05", "0.01") for seed in (3, 4)}
    boards = {path for path in boards if path.parts[:1] != ("algorithms",)}
    assert boards == rates | {Path(), Path("seed_3"), Path("seed_4")}
    text = io.StringIO()
    for table in script.tables_of(found, {}, metrics):
        Console(file=text, width=100).print(table)
    assert "0.01 *" in text.getvalue()
    assert "it is the edge of the list" in text.getvalue()


@pytest.mark.usefixtures("undrawn")
def test_a_run_says_whether_it_had_converged(tmp_path: Path) -> None:
    common = ("optim.schedule=constant_then_decay", "optim.warmup_steps=0", "val_every=2")
    directory = tmp_path / "run"
    metrics, found = run(directory, *common, "optim.lr=[0.000001,0.001]", "optim.ssm_lr=1e-6")
    steps = {
        c.metric: sorted(c.losses) for c in found.trainer.callbacks if isinstance(c, Convergence)
    }
    assert steps.keys() == {f"lr_{lr}/seed_0/val/half_mse_query" for lr in ("1e-06", "0.001")}
    assert all(each == list(range(2, 61, 2)) for each in steps.values())
    card = read_card(directory / "checkpoint")
    assert card.notes.startswith("One of 2 rates trained side by side")
    verdict = card.training.schedule["convergence"]
    assert verdict == metrics["convergence"]
    assert verdict["num_validations"] == 9  # at 32, 34, ..., 48: the rate falls after 48 of 60
    near = abs(verdict["fall"]) < 0.02
    assert verdict["verdict"] == ("converged" if near else "not converged")


@pytest.mark.parametrize(
    ("fall", "every", "expected"),
    [
        (0.019, 100, "converged"),
        (0.021, 100, "not converged"),
        (-0.019, 100, "converged"),
        (-0.4, 100, "not converged"),
        (0.5, 1000, "unknown"),
    ],
)
def test_converged_is_a_fall_or_a_rise_of_less_than_two_percent(
    fall: float, every: int, expected: str
) -> None:
    optim = OptimConfig(schedule="constant_then_decay", warmup_steps=200)
    found = Convergence("val/loss", optim, 10_000)
    assert found.phase == (5400, 8000)
    for step in range(every, 10_001, every):
        in_last_third = max(0.0, min(1.0, (step - 5400) / 2600))
        found.losses[step] = 0.1 * (1 - fall) ** in_last_third * (0.1 if step > 8000 else 1)
    assert found.verdict.verdict == expected
    if expected != "unknown":
        assert found.verdict.fall == pytest.approx(fall, rel=1e-6)
    same, longer = (Convergence("val/loss", optim, steps) for steps in (10_000, 12_000))
    for resumed in (same, longer):
        resumed.load_state_dict(found.state_dict())
    assert same.verdict == found.verdict
    assert longer.verdict.num_validations == 0  # what came before the first decay says nothing
    found.losses[6000] = math.nan
    assert found.verdict.verdict == "unknown"


def test_a_stopped_run_of_several_seeds_resumes_to_the_same_bits(
    whole_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write, "write_figures", lambda *_: None)
    directory = tmp_path / "stopped"
    step_of = LitReplicas.training_step

    def interrupted(self: LitReplicas, batch: Any, batch_idx: int) -> Tensor:
        if self.trainer.global_step == 32:
            signal.raise_signal(signal.SIGTERM)
        return step_of(self, batch, batch_idx)

    monkeypatch.setattr(LitReplicas, "training_step", interrupted)
    with pytest.raises(StoppedBySignal, match="after step 33"):
        run(directory, "seeds=3", "seed=3")
    monkeypatch.setattr(LitReplicas, "training_step", step_of)
    run(directory, "seeds=3", "seed=3")
    for seed in SEEDS:
        expected, found = (
            load_file(d / f"seed_{seed}/checkpoint/model.safetensors")
            for d in (whole_run, directory)
        )
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert (directory / "metrics.json").read_text() == (whole_run / "metrics.json").read_text()


def weights_of_replica(directory: Path, i: int) -> dict[str, Tensor]:
    checkpoint = torch.load(directory / "checkpoints/last.ckpt", weights_only=True)
    return {name: tensor[i] for name, tensor in checkpoint["state_dict"].items()}


def logged(directory: Path, prefix: str) -> list[tuple[str, str]]:
    """Steps and names of all values logged under a prefix."""
    with (directory / "csv/version_0/metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [
        (r["step"], n) for r in rows for n, value in r.items() if n.startswith(prefix) and value
    ]


def test_a_diverged_seed_stays_left_out_after_a_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write, "write_figures", lambda *_: None)
    monkeypatch.setattr(assembly, "ReplicaDataModule", Spoiled)
    monkeypatch.setattr(Spoiled, "spoiled", (14,))
    with pytest.warns(UserWarning, match="seed 4 has diverged"):
        run(tmp_path, "seeds=3", "seed=3", "max_steps=20")
    weights, others = (weights_of_replica(tmp_path, i) for i in (1, 0))
    values = logged(tmp_path, "seed_4/")
    monkeypatch.setattr(Spoiled, "spoiled", ())
    run(tmp_path, "seeds=3", "seed=3", "max_steps=40")
    assert all(torch.equal(weights_of_replica(tmp_path, 1)[n], t) for n, t in weights.items())
    assert not all(torch.equal(weights_of_replica(tmp_path, 0)[n], t) for n, t in others.items())
    assert values
    assert logged(tmp_path, "seed_4/") == values
    assert len(logged(tmp_path, "seed_3/")) > len(values)
    summary = json.loads((tmp_path / "metrics.json").read_text())
    assert (summary["seeds"], summary["diverged"]) == (SEEDS, [4])
    assert summary["diverged_causes"]["4"].startswith("optimizer step 15: loss ")
    assert list(summary["metrics"]["test/half_mse_query"]["values"]) == ["3", "5"]
    assert not (tmp_path / "seed_4").exists()


def test_what_an_earlier_end_has_left_of_a_seed_that_diverged_since_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write, "write_figures", lambda *_: None)
    monkeypatch.setattr(assembly, "ReplicaDataModule", Spoiled)
    run(tmp_path, "seeds=3", "seed=3", "max_steps=20")
    assert len(list(tmp_path.glob("seed_*/checkpoint"))) == 3
    monkeypatch.setattr(Spoiled, "spoiled", (27,))
    with pytest.warns(UserWarning, match="seed 4 has diverged"):
        run(tmp_path, "seeds=3", "seed=3", "max_steps=40")
    cards = {path.parent.name: read_card(path) for path in tmp_path.glob("seed_*/checkpoint")}
    assert {name: card.training.steps for name, card in cards.items()} == {
        "seed_3": 40,
        "seed_5": 40,
    }


SHORT = ["max_steps=10", "~callbacks.figures", "~callbacks.alignment"]


def interrupted(*_: Any) -> None:
    raise StoppedBySignal(signal.SIGTERM)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (measure, "create_report"),
        (script, "report_tables"),
        (script, "seeds_table"),
        (write, "save_checkpoint"),
    ],
)
@pytest.mark.parametrize("seeds", [1, 2])
def test_measuring_a_finished_run_again_never_loses_its_metrics(
    seeds: int, module: ModuleType, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write, "write_figures", lambda *_: None)
    run(tmp_path, f"seeds={seeds}", *SHORT)
    before = {path: path.read_bytes() for path in tmp_path.rglob("metrics.json")}
    assert len(before) == (1 if seeds == 1 else 3)
    monkeypatch.setattr(module, name, interrupted)
    with contextlib.suppress(StoppedBySignal):  # several seeds have another table
        run(tmp_path, f"seeds={seeds}", *SHORT)
    assert {path: path.read_bytes() for path in tmp_path.rglob("metrics.json")} == before
    assert not list(tmp_path.rglob("*.writing"))


@pytest.mark.parametrize("seeds", [1, 2])
def test_metrics_json_says_that_a_run_is_over_and_stays_beside_one_that_goes_on(
    seeds: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write, "write_figures", lambda *_: None)
    run(tmp_path, f"seeds={seeds}", *SHORT)
    before = {path.parent: path.read_bytes() for path in tmp_path.rglob("metrics.json")}
    monkeypatch.setattr(measure, "create_report", interrupted)
    with pytest.raises(StoppedBySignal):
        run(tmp_path, f"seeds={seeds}", *SHORT, "max_steps=12")
    assert not list(tmp_path.rglob("metrics.json"))
    aside = {path.parent: path.read_bytes() for path in tmp_path.rglob("metrics_before.json")}
    assert aside == before
    monkeypatch.undo()
    monkeypatch.setattr(write, "write_figures", lambda *_: None)
    run(tmp_path, f"seeds={seeds}", *SHORT, "max_steps=12")
    for directory in before:
        assert json.loads((directory / "metrics.json").read_text())["steps"] == 12


@pytest.mark.parametrize("place", ["report_tables", "seeds_table"])
def test_what_is_printed_is_written_before(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write, "write_figures", lambda *_: None)
    monkeypatch.setattr(script, place, interrupted)
    with pytest.raises(StoppedBySignal):
        run(tmp_path, f"seeds={1 if place == 'report_tables' else 2}", *SHORT)
    assert json.loads((tmp_path / "metrics.json").read_text())["steps"] == 10


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer=ddp_cpu", "2 seeds or rates in one process need one device .*got DDP"),
        ("on_nonfinite=skip", "on_nonfinite must be stop .*got skip with 2 of them"),
    ],
)
def test_what_several_seeds_cannot_have_is_refused(
    override: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        run(tmp_path / "run", "seeds=2", override)
    assert not (tmp_path / "run").exists()
