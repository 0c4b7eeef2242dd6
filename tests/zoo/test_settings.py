"""What is given to a run is read once; what is wrong is named by what a user would type."""

from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from datamodules import EpisodeSpec
from tests.zoo.test_targets import CONFIGS
from zoo.models.gd_ssm import GDSSMConfig
from zoo.training.callbacks.board import hyperparameters_of
from zoo.training.options import OptimConfig
from zoo.training.settings import RunSettings


def settings_of(*overrides: str) -> RunSettings:
    with initialize_config_dir(version_base="1.3", config_dir=str(CONFIGS)):
        config = compose("train", ["checkpoint_tag=tag", "run_dir=run", *overrides])
    plain: Any = OmegaConf.to_container(config, resolve=True)
    return RunSettings.of(plain)


def test_settings_are_objects_with_the_widths_of_the_episodes() -> None:
    settings = settings_of("data.d_x=4", "model.num_steps=2", "data.noise=0.5", "optim.lr=1")
    assert isinstance(settings.data, EpisodeSpec)
    assert isinstance(settings.optim, OptimConfig)
    assert isinstance(settings.model.config, GDSSMConfig)
    assert (settings.model.name, settings.model.config.num_steps) == ("gd_ssm", 2)
    assert (settings.model.config.d_x, settings.model.config.d_y) == (4, 4)
    assert settings.model.config.output == "value"
    assert settings_of("data=classification").model.arguments["output"] == "logits"
    described = hyperparameters_of(settings)
    assert (described["d_x"], described["num_steps"], described["lr"]) == (4, 2, 1)


def test_seeds_are_plural() -> None:
    assert settings_of("seed=3").all_seeds == [3]
    assert settings_of("seed=3", "seeds=2").all_seeds == [3, 4]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.inputs.r=-1"], r"data\.inputs\.r: .*greater than 0, got -1"),
        (["data.function.scale=-1"], r"data\.function\.scale: .*greater than 0, got -1"),
        (["data.d_x=2.5"], r"data\.d_x: .*got 2\.5"),
        (["+data.nois=1"], r"'data\.nois' is unknown"),
        (["+data.inputs.q=1"], r"'data\.inputs\.q' is unknown"),
        (["data.distractors.count=11"], r"data: distractors\.count must be at most num_context"),
        (["model=s5", "model.num_layers=0"], r"model\.num_layers: .*greater than 0, got 0"),
        (["model=mamba", "model.dt_rank=few"], r"model\.dt_rank: .*got 'few'"),
        (["+model.depth=2"], r"model: unknown argument of gd_ssm 'depth'"),
        (["model.name=gdssm"], r"model: unknown model 'gdssm'\. Did you mean 'gd_ssm'"),
        (["model.name=3"], r"model: must have the name of an architecture, got \{'name': 3"),
        (["~model.name"], r"'model\.name' is missing"),
        (["+model.d_x=3"], r"model: d_x cannot be set, it follows from data"),
        (["model=gd_ssm_embedded", "data=classification"], r"model: .*does not predict classes"),
        (["optim.lr=-1"], r"optim\.lr: .*greater than 0, got -1"),
        (["~optim.lr", "~optim.beta1"], r"'optim\.lr' is missing; 'optim\.beta1' is missing"),
        (["+optim.warmup=1"], r"'optim\.warmup' is unknown"),
        (["trainer.log_every_n_steps=0"], r"trainer\.log_every_n_steps: .*greater than 0, got 0"),
        (["seed=-1", "max_steps=0"], r"seed: .*got -1; max_steps: .*got 0"),
        (["seed=9223372036854775807", "seeds=2"], r"seed \+ seeds must be at most 2\^63"),
        (["seeds=2", "on_nonfinite=skip"], r"on_nonfinite must be stop .*got skip with 2 of them"),
    ],
)
def test_a_wrong_setting_is_named_as_it_is_typed(overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=rf"^{message}") as refused:
        settings_of(*overrides)
    assert "\n" not in str(refused.value)
    assert "Value error" not in str(refused.value)


@pytest.mark.parametrize("precision", ["64-true", "bf16-true", "16-true", "64", "bf16"])
def test_weights_of_another_type_than_episodes_are_refused(precision: str) -> None:
    with pytest.raises(ValueError, match=rf"^trainer\.precision: .*'32-true'.*got '?{precision}"):
        settings_of(f"trainer.precision={precision}")
