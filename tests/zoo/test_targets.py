"""What a run's own configuration may build."""

import datetime
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import yaml  # type: ignore[import-untyped]
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from zoo.commands.resolvers import register_resolvers
from zoo.training.callbacks import FigureMonitor
from zoo.training.settings import RunSettings
from zoo.training.targets import build, check_targets, shipped_targets, targets_of

CONFIGS = Path(__file__).parents[2] / "configs"
register_resolvers()
SHIPPED = shipped_targets(CONFIGS)


def settings_with(key: str, text: str) -> RunSettings:
    """Those of a run whose `config.yaml` also has a part."""
    with initialize_config_dir(version_base="1.3", config_dir=str(CONFIGS)):
        config = compose("train", ["checkpoint_tag=tag", "run_dir=run"])
    OmegaConf.set_struct(config, False)
    OmegaConf.update(config, key, yaml.safe_load(text), force_add=True)
    plain: Any = OmegaConf.to_container(config, resolve=True)
    return RunSettings.of(plain)


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("callbacks.x", "_target_: os.mkdir\npath: PLACE"),
        ("logger.x", "_target_: os.mkdir\npath: PLACE"),
        ("trainer", "_target_: os.mkdir\npath: PLACE"),
        ("trainer.plugins", "- _target_: os.mkdir\n  path: PLACE"),
        ("trainer.strategy", "_target_: os.mkdir\npath: PLACE"),
        ("trainer.strategy.cluster_environment", "_target_: os.mkdir\npath: PLACE"),
        ("callbacks.figures.every_n_steps", "_target_: os.mkdir\npath: PLACE"),
        ("callbacks.figures.x", "- [{y: {_target_: os.mkdir, path: PLACE}}]"),
        ("optim.lr", "_target_: os.mkdir\npath: PLACE"),
        ("data.x", "_target_: os.mkdir\npath: PLACE"),
        ("callbacks.x", "_target_: ${.name}\nname: os.mkdir\npath: PLACE"),
        ("callbacks.x", "_target_: ${oc.env:EVIL}\npath: PLACE"),
        ("callbacks.x", "_target_: \\${oc.env:EVIL}\npath: PLACE"),
        ("callbacks.x", "_target_: hydra.utils.get_method\npath: os.system"),
        ("callbacks.x", "_target_: lightning.pytorch.trainer.trainer.Trainer"),
        ("callbacks.x", "_target_: [os.mkdir]\npath: PLACE"),
        ("trainer.profiler", '"${oc.create:{_target_: os.mkdir, path: PLACE}}"'),
    ],
)
def test_a_run_builds_nothing_that_no_shipped_configuration_does(
    key: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVIL", "os.mkdir")
    place = tmp_path / "made"
    with pytest.raises(
        ValueError,
        match=r"os\.mkdir|oc\.env|get_method|trainer\.Trainer|'_target_'|'data.x' is unknown",
    ):
        check_targets(settings_with(key, text.replace("PLACE", str(place))).model_dump(), SHIPPED)
    assert not place.exists()


def test_shipped_targets_are_those_of_the_shipped_configurations() -> None:
    assert {"lightning.pytorch.Trainer", "datetime.timedelta"} < SHIPPED
    assert "zoo.training.sharding.FullyShardedStrategy" in SHIPPED
    assert all(not target.startswith("os") for target in SHIPPED)
    check_targets(settings_with("seed", "1").model_dump(), SHIPPED)


def test_allowed_targets_are_allowed() -> None:
    settings = settings_with("callbacks.x", "_target_: my.Callback")
    with pytest.raises(ValueError, match=r"'allow_targets=\[my.Callback\]'"):
        check_targets(settings.model_dump(), SHIPPED)
    check_targets(settings.model_dump(), SHIPPED | {"my.Callback"})
    assert targets_of({"a": [{"_target_": "b", "c": {"_target_": "d"}}]}) == {"b", "d"}


def test_data_are_built_as_they_were_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVIL", "datetime.timezone")
    wait = {"_target_": "datetime.timedelta", "seconds": 5}
    assert build("wait", wait, datetime.timedelta) == datetime.timedelta(seconds=5)
    text = build("text", {"_target_": "builtins.dict", "a": "${oc.env:EVIL}"}, dict)
    assert text == {"a": "${oc.env:EVIL}"}
    with pytest.raises(ValueError, match="wait._target_: "):
        build("wait", {"_target_": "${oc.env:EVIL}"}, datetime.timedelta)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"_target_": "zoo.training.callbacks.FigureMonitor", "every_n_steps": 0}, "at least 1"),
        ({"_target_": "zoo.training.callbacks.FigureMonitor", "every": 1}, "'every'"),
        ({"_target_": "zoo.training.callbacks.FigureMonitor", "_partial_": True}, "_partial_ is"),
        ({"_target_": "datetime.timedelta", "_args_": [1]}, "_args_ is not an argument"),
        ({"_target_": "nothing.here"}, "No module named 'nothing'"),
        ({"_target_": "zoo.nothing"}, "nothing"),
        ({"_target_": 3}, "_target_"),
        ({"_target_": "datetime.timedelta"}, "must be a Callback, got a timedelta"),
        ({"every_n_steps": 1}, "must be a Callback, got a dict"),
        ({"_target_": "math.pi"}, "math.pi is not a class"),
    ],
)
def test_what_cannot_be_built_is_said_on_one_line(part: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as refused:
        build("callbacks.x", part, pl.Callback)
    assert str(refused.value).startswith("callbacks.x")
    assert "Error in call to target" not in str(refused.value)
    assert "\n" not in str(refused.value)
    good = {"_target_": "zoo.training.callbacks.FigureMonitor"}
    assert isinstance(build("callbacks.x", good, pl.Callback), FigureMonitor)
