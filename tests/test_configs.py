"""Every shipped configuration composes, builds and trains."""

import copy
import hashlib
import inspect
import re
import shlex
import shutil
import signal
import subprocess
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf
from pydantic import BaseModel
from rich.console import Console

import zoo
from datamodules import EpisodeSpec
from datamodules.functions import Mixture, Sequence, SingleFunction
from datamodules.inputs import Inputs
from studies.study import load_study
from zoo import registry
from zoo.commands.train import train
from zoo.hub.card import split_seed
from zoo.hub.directory import read_card
from zoo.hub.find import CHECKPOINTS
from zoo.hub.index import read_index
from zoo.models.sequence import SequenceModel
from zoo.training.base import NonFiniteError
from zoo.training.options import OptimConfig, TrainerSettings
from zoo.training.overrides import as_override
from zoo.training.settings import RunSettings

CONFIGS = Path(__file__).parents[1] / "configs"
GROUPS = {
    "model": "model",
    "data": "data",
    "data/inputs": "data/inputs",
    "optim": "optim",
    "trainer": "trainer",
    "recipe": "recipe",
    "experiment": "experiment",
}
CHOICES = [
    f"{group}={path.stem}"
    for group, folder in GROUPS.items()
    for path in sorted((CONFIGS / folder).glob("*.yaml"))
]
SHORT = ["max_steps=2", "val_every=1", "batch_size=4", "eval_episodes=20", "checkpoint_tag=test"]


def config_of(*overrides: str) -> DictConfig:
    with initialize_config_dir(version_base="1.3", config_dir=str(CONFIGS)):
        return compose("train", list(overrides))


def settings_of(*overrides: str) -> dict[str, Any]:
    """What `python train.py` trains with these overrides, resolved."""
    return copy.deepcopy(resolved(overrides))


@cache
def resolved(overrides: tuple[str, ...]) -> dict[str, Any]:
    with initialize_config_dir(version_base="1.3", config_dir=str(CONFIGS)):
        config = compose("train", [*overrides, "run_dir=run"], return_hydra_config=True)
    HydraConfig.instance().set_config(config)  # names of checkpoints come from the choices
    try:
        plain: dict[str, Any] = {
            name: OmegaConf.to_container(part, resolve=True) if OmegaConf.is_config(part) else part
            for name, part in config.items()
            if name != "hydra"
        }
    finally:
        HydraConfig.instance().cfg = None
    return plain


@pytest.fixture(autouse=True)
def few_episodes_to_fit_algorithms_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoo.references.TUNE_EPISODES", 20)


@pytest.fixture(scope="module")
def keys() -> set[str]:
    """The settings of the main job."""
    return set(config_of())


@pytest.mark.parametrize("choice", CHOICES)
def test_every_shipped_choice_trains(
    choice: str,
    keys: set[str],
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    if not choice.startswith(("model=", "data=")):  # of which figures depend
        request.getfixturevalue("undrawn")
    # Thumbnails, which are the same figures with less beside them, are put together and not drawn.
    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter.add_figure", lambda *_, **__: None)
    if choice == "trainer=gpu" and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    if choice in ("trainer=ddp", "trainer=ddp_cpu", "trainer=fsdp"):
        pytest.skip("starts processes: tests/test_train.py")
    model = []
    if choice.startswith("data=") and EpisodeSpec(**settings_of(choice)["data"]).labels_hidden:
        model = ["model=delta_net", "model.d_model=8", "model.num_layers=1"]
    config = config_of(choice, *model, *SHORT, "val_every=2", f"run_dir={tmp_path}")
    assert config.keys() == keys  # a recipe that is not global adds a key
    metrics, run = train(config, tmp_path, Console(quiet=True), [])
    assert metrics["steps"] == 2
    assert run.trainer.global_step == 2
    zoo.load(tmp_path / "checkpoint")


@pytest.mark.usefixtures("undrawn")
def test_training_without_a_logger(tmp_path: Path) -> None:
    without = ("logger.tensorboard=null", "logger.csv=null")
    train(config_of(*SHORT, *without, f"run_dir={tmp_path}"), tmp_path, Console(quiet=True), [])
    assert {path.name for path in tmp_path.iterdir()}.isdisjoint({"tensorboard", "csv"})
    zoo.load(tmp_path / "checkpoint")


@pytest.mark.usefixtures("undrawn")
def test_training_touches_no_global_random_state(tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    train(config_of(*SHORT, f"run_dir={tmp_path}"), tmp_path, Console(quiet=True), [])
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.usefixtures("undrawn")
def test_training_leaves_the_signal_handlers_as_they_were(tmp_path: Path) -> None:
    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(signum) for signum in signals]
    train(config_of(*SHORT, f"run_dir={tmp_path}"), tmp_path, Console(quiet=True), [])
    assert [signal.getsignal(signum) for signum in signals] == before
    with pytest.raises(NonFiniteError):
        train(
            config_of(*SHORT, "data.inputs.r=1e30", f"run_dir={tmp_path / 'b'}"),
            tmp_path / "b",
            Console(quiet=True),
            [],
        )
    assert [signal.getsignal(signum) for signum in signals] == before


@pytest.mark.usefixtures("undrawn")
def test_the_seed_alone_decides_the_start(tmp_path: Path) -> None:
    starts = []
    for number, seed in enumerate((0, 0, 1)):
        overrides = [*SHORT, "optim.lr=1e-12", "optim.ssm_lr=1e-12", f"seed={seed}"]
        directory = tmp_path / str(number)
        train(config_of(*overrides, f"run_dir={directory}"), directory, Console(quiet=True), [])
        starts.append(next(zoo.load(directory / "checkpoint").parameters()))
    assert torch.equal(starts[0], starts[1])
    assert (starts[0] - starts[2]).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("typed", "x_scale", "y_scale"),
    [
        ("data=linear", 3.4641, 1.0954),  # x has variance 1/12, y 10/12
        ("data=linear_noisy", 1.0, 0.3482),  # y has variance 8 + 1/4
        ("data=linear_noisy data.noise=1", 1.0, 0.3333),
        ("data=classification", 1.0, 2.3094),  # a coordinate of a one-hot label has 3/16
        ("data=linear data.input_scale=1e4", 3.464e-4, 1.095e-4),
        ("data=linear model.x_scale=2", 2.0, 1.0954),
    ],
)
def test_recipes_of_deep_models_bring_tokens_to_unit_variance(
    typed: str, x_scale: float, y_scale: float
) -> None:
    model = settings_of("recipe=mamba", *typed.split())["model"]
    assert (model["x_scale"], model["y_scale"]) == (x_scale, y_scale)


def test_recipes_of_deep_models_have_the_sizes_that_they_name() -> None:
    for path in (CONFIGS / "recipe").glob("*.yaml"):
        settings = settings_of(f"recipe={path.stem}", "data=linear_noisy")
        model = zoo.create_model(**settings["model"] | {"d_x": 10, "d_y": 10})
        if not isinstance(model, SequenceModel):
            continue
        number, text = sum(parameter.numel() for parameter in model.parameters()), path.read_text()
        assert 50_000 <= number <= 100_000, path.stem  # as transformer.yaml says of all of them
        named = re.search(r": (\d+) thousand parameters for d_x = d_y = 10\.", text)
        assert named is None or round(number / 1000) == int(named[1]), path.stem
        if "weights do not decay" in text:
            assert settings["optim"]["weight_decay"] == 0, path.stem


def test_a_recipe_selects_its_model_and_composes_with_any_episodes_and_model() -> None:
    for path in (CONFIGS / "recipe").glob("*.yaml"):
        settings = settings_of(f"recipe={path.stem}", "data=linear_noisy")
        name = settings["model"]["name"]
        assert path.stem.removeprefix(name) in {"", "_one_layer"} or name == "gd_ssm"
        rule = f"_{settings['model']['rule']}" if name == "online_learner" else ""
        assert settings["checkpoint_tag"] == "linear_noisy" + path.stem.removeprefix(name) + rule
        assert settings["data"] == settings_of("data=linear_noisy")["data"]
    other = settings_of("recipe=mamba", "model=s5")
    assert (other["model"]["name"], other["optim"]["lr"]) == ("s5", 0.002)


@pytest.mark.parametrize("experiment", ["parity", "s3", "automaton", "text"])
def test_an_experiment_on_sequences_takes_the_recipe_of_any_deep_model(experiment: str) -> None:
    for path in (CONFIGS / "recipe").glob("*.yaml"):
        if "positions: all" not in path.read_text():
            continue  # those of deep models have a loss at every position
        if path.stem == "hybrid" and experiment in {"parity", "s3"}:
            continue  # one block is not a hybrid
        settings = RunSettings.of(settings_of(f"recipe={path.stem}", f"experiment={experiment}"))
        assert path.stem.startswith(settings.model.name)
        assert settings.data.labels_hidden
        model = settings.model.create()
        assert isinstance(model, SequenceModel)
        model.check_length(settings.data.num_context + 1)


@pytest.mark.parametrize("experiment", ["tabular", "tabular_classification"])
def test_an_experiment_on_tables_takes_the_recipe_of_any_deep_model(experiment: str) -> None:
    for path in (CONFIGS / "recipe").glob("*.yaml"):
        if "tokens of unit variance" not in path.read_text():
            continue
        settings = RunSettings.of(settings_of(f"recipe={path.stem}", f"experiment={experiment}"))
        assert path.stem.startswith(settings.model.name)
        assert settings.model.arguments["tokens"] == "shifted"
        settings.model.create().check_length(201)


@pytest.mark.parametrize(
    ("data", "reach"), [("linear_noisy", 64), ("text", 255), ("recall", 64), ("list_ops", 511)]
)
def test_a_transformer_has_places_for_the_whole_episode(data: str, reach: int) -> None:
    settings = RunSettings.of(settings_of("recipe=transformer", f"data={data}"))
    assert settings.model.arguments["max_context"] == reach
    settings.model.create().check_length(settings.data.num_context + 1)


def test_what_is_wrong_with_episodes_is_said_by_their_name(tmp_path: Path) -> None:
    config = config_of("recipe=mamba", "data.noise=-1", *SHORT, f"run_dir={tmp_path}")
    with pytest.raises(ValueError, match="noise"):
        train(config, tmp_path, Console(quiet=True), [])


def test_a_text_of_ones_own_is_described_by_what_the_file_holds(tmp_path: Path) -> None:
    path = tmp_path / "own.txt"
    path.write_bytes(b"To be or not to be. " * 500)
    data = settings_of("data=text", as_override("text", str(path)))["data"]
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    described = {"file": "own.txt", "sha256": sha256, "num_bytes": 10_000}
    assert data["function"] == {"name": "text", **described}
    assert str(tmp_path) not in str(data)


def differences(given: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """What a configuration gives and what the class has, where the two are not the same."""
    same = {name: value for name, value in given.items() if name in defaults}
    return {name: value for name, value in same.items() if value != defaults[name]}


def defaults_of(cls: type[BaseModel]) -> dict[str, Any]:
    """The defaults of a class of settings, as plain data."""
    fields = {name: f.default for name, f in cls.model_fields.items() if not f.is_required()}
    return {n: v.model_dump() if isinstance(v, BaseModel) else v for n, v in fields.items()}


@pytest.mark.parametrize("name", registry.list_models())
def test_the_file_of_a_model_has_the_defaults_of_its_config(name: str) -> None:
    given = settings_of(f"model={name}")["model"]
    assert differences(given, defaults_of(registry._models.find(name)[0])) == {}


@pytest.mark.parametrize("path", sorted((CONFIGS / "data/inputs").glob("*.yaml")))
def test_the_file_of_an_input_distribution_has_the_defaults_of_its_class(path: Path) -> None:
    kinds = {defaults_of(cls)["name"]: cls for cls in get_args(get_args(Inputs)[0])}
    given = settings_of(f"data/inputs={path.stem}")["data"]["inputs"]
    assert given == defaults_of(kinds[given["name"]])


# What a kind of episodes is for stands in its own file: widths, context, inputs and these.
MEANT = {
    "parity": {"function.group"},
    "linear_curriculum": {"curriculum"},
    "linear_noisy": {"noise"},
    "linear_pool": {"noise"},
    "relu_network": {"function.hidden"},
}


@pytest.mark.parametrize("path", sorted((CONFIGS / "data").glob("*.yaml")))
def test_the_file_of_a_kind_of_episodes_has_defaults_but_for_what_it_is_for(path: Path) -> None:
    families = (*get_args(SingleFunction), Mixture, *get_args(Sequence))
    kinds = {defaults_of(cls)["name"]: cls for cls in families}
    data = settings_of(f"data={path.stem}")["data"]
    function = differences(data["function"], defaults_of(kinds[data["function"]["name"]]))
    others = differences(data, defaults_of(EpisodeSpec)).keys()
    sizes = {"d_x", "d_y", "num_context", "function", "inputs"}
    differing = (others - sizes) | {f"function.{part}" for part in function}
    assert differing == MEANT.get(path.stem, set())


def test_the_main_job_has_the_defaults_of_every_class_of_settings() -> None:
    settings = settings_of()
    assert EpisodeSpec(**settings["data"]) == EpisodeSpec()
    assert settings["optim"] == defaults_of(OptimConfig)
    assert differences(settings["trainer"], defaults_of(TrainerSettings)) == {}
    defaults = defaults_of(RunSettings)
    listed = {"callbacks", "logger"}  # none in a run that does not name them
    assert differences(settings, defaults).keys() == listed
    for name, given in settings["callbacks"].items():
        parameters = inspect.signature(get_class(given["_target_"])).parameters
        defaults = {part: parameter.default for part, parameter in parameters.items()}
        assert differences(given, defaults) == {}, name


@pytest.fixture(scope="module")
def commands_of_zoo() -> list[list[str]]:
    """The words `make zoo` types to train each shipped checkpoint, but for the directory."""
    make = shutil.which("make")
    if make is None:
        pytest.skip("make is not installed")
    run = subprocess.run(
        [make, "-s", "--no-print-directory", "-f", "Makefile", "-f", "-", "commands"],
        cwd=CONFIGS.parent,
        input="commands: ; @:$(foreach one,$(ZOO),$(info python train.py $(call typed,$(one))))\n",
        capture_output=True,
        text=True,
        check=True,
    )
    return [shlex.split(line) for line in run.stdout.splitlines()]


def test_shipped_checkpoints_are_what_the_makefile_and_studies_train(
    commands_of_zoo: list[list[str]],
) -> None:
    cards = [read_card(CHECKPOINTS / name) for name in read_index(CHECKPOINTS).checkpoints]
    of_makefile = [shlex.split(card.command) for card in cards if not card.training.study]
    assert sorted(of_makefile) == sorted(commands_of_zoo)
    for card in cards:
        if card.training.study:
            study, training = card.training.study.split("/")
            shipped, (first, seed) = load_study(study).ships[training], split_seed(card.name)
            assert first == shipped.name
            assert seed is None or shipped.num_seeds > 1


@pytest.mark.parametrize("name", read_index(CHECKPOINTS).checkpoints)
def test_the_command_of_a_card_still_trains_its_model(name: str) -> None:
    card = read_card(CHECKPOINTS / name)
    python, script, *overrides = shlex.split(card.command)
    assert (python, script) == ("python", "train.py")
    settings = settings_of(*overrides)
    architecture = settings["model"].pop("name")
    first, _ = split_seed(name)
    if not card.training.study:  # which gives names of its own
        assert f"{architecture}.{settings['checkpoint_tag']}" == first
    assert architecture == card.architecture
    # Arguments that are newer than the card are at the values that its model has.
    config = registry._models.find(architecture)[0]
    spec = EpisodeSpec(**settings["data"])
    widths = {"d_x": spec.d_x, "d_y": spec.d_y}
    if spec.output != "value":
        widths["output"] = spec.output
    assert config(**settings["model"], **widths) == config(**card.model_args)
    assert spec == EpisodeSpec(**card.data)
    optim, training = settings["optim"], card.training
    decay_share = OptimConfig(**optim).decay_share
    schedule = {part: optim.pop(part) for part in ("schedule", "warmup_steps", "decay_fraction")}
    optimizer = dict(training.optimizer)
    rates, beforehand = optimizer.pop("rates", None), optimizer.pop("rates_steps", None)
    for gone in ("rates_given_up", "rates_fell_short"):
        assert f"{optimizer['lr']:g}" not in optimizer.pop(gone, {})
    if rates and beforehand is None:  # of which the card has the one that was kept
        assert {f"{lr:g}" for lr in optim["lr"]} == rates.keys()
        assert optimizer["lr"] in optim["lr"]
        optim["lr"] = optimizer["lr"]
    elif rates:
        assert f"{optimizer['lr']:g}" in rates
    assert {"name": "AdamW", **optim} == optimizer
    # Cards of before there was a choice do not name it.
    stated = {"schedule": "decay", **training.schedule}
    stated.pop("convergence", None)
    schedule["decay_fraction"] = decay_share
    assert {"name": "linear warm-up and decay", **schedule} == stated
    numbers = {field: settings[field] for field in ("max_steps", "batch_size", "seeds")}
    assert numbers == {
        "max_steps": training.steps,
        "batch_size": training.batch_size,
        "seeds": training.num_seeds,
    }
    assert training.seed - settings["seed"] in range(training.num_seeds)
    assert (training.seed == settings["seed"]) == (first == name)
    assert settings["batch_size"] * settings["max_steps"] == training.episodes
