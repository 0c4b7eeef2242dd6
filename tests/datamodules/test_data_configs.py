"""Every shipped data config is a spec that episodes can be drawn from."""

from pathlib import Path
from typing import Any, get_args

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from pydantic import BaseModel

from datamodules import EpisodeDataModule, EpisodeSpec, create_sampler
from datamodules.functions import Mixture, Sequence, SingleFunction
from datamodules.inputs import Inputs
from datamodules.stream import Generators
from zoo.commands.resolvers import register_resolvers
from zoo.registry import list_models, model_arguments
from zoo.training.options import OptimConfig
from zoo.training.settings import RunSettings

register_resolvers()
CONFIGS = Path(__file__).parents[2] / "configs"
DATA = sorted(path.stem for path in (CONFIGS / "data").glob("*.yaml"))
INPUTS = sorted(path.stem for path in (CONFIGS / "data/inputs").glob("*.yaml"))


def spec_of(*overrides: str) -> EpisodeSpec:
    with initialize_config_dir(version_base="1.3", config_dir=str(CONFIGS)):
        data = OmegaConf.to_container(compose("train", list(overrides)).data, resolve=True)
    return EpisodeSpec(**data)


@pytest.mark.parametrize(
    "choice", [f"data={name}" for name in DATA] + [f"data/inputs={name}" for name in INPUTS]
)
def test_every_data_config_draws_finite_episodes_and_makes_itself_again(choice: str) -> None:
    spec = spec_of(choice)
    module = EpisodeDataModule(spec, batch_size=4, eval_episodes=4)
    for episodes in (module.train_episodes(0), module.val_episodes()):
        assert all(part.isfinite().all() for part in episodes[:3])
        assert episodes.scored[:, -1].all()
    assert EpisodeSpec(**spec.model_dump()) == spec


@pytest.mark.parametrize(
    "choice", [f"data={name}" for name in DATA] + [f"data/inputs={name}" for name in INPUTS]
)
def test_variances_of_a_spec_are_those_of_its_episodes(choice: str) -> None:
    spec = spec_of(choice)
    num_episodes = 4000 if spec.d_x < 100 else 100
    episodes = create_sampler(spec).sample(num_episodes, Generators(1, "test", 0, "cpu"))
    mean = 0 if spec.output == "value" else 1 / spec.d_y
    variance = (episodes.y - mean).square().mean().item()
    assert spec.labels_hidden or variance == pytest.approx(spec.label_variance, rel=0.1)
    assert episodes.x.square().mean().item() == pytest.approx(spec.input_variance, rel=0.05)


def test_label_variance_of_a_family_without_a_closed_form_is_measured() -> None:
    data = {"d_x": 4, "d_y": 2, "function": {"name": "quadratic"}, "inputs": {"name": "gaussian"}}
    spec = EpisodeSpec(**data)  # type: ignore[arg-type]
    assert spec.function.label_variance(4, 2, 1.0) is None
    assert spec.label_variance == pytest.approx(4, rel=0.1)
    assert spec.label_variance == EpisodeSpec(**data).label_variance  # type: ignore[arg-type]


def test_every_family_and_every_input_distribution_has_a_config() -> None:
    families = [*get_args(SingleFunction), Mixture, *get_args(Sequence)]
    names = {family.model_fields["name"].default for family in families}
    assert {spec_of(f"data={name}").function.name for name in DATA} == names
    distributions = get_args(get_args(Inputs)[0])
    assert {inputs.model_fields["name"].default for inputs in distributions} == set(INPUTS)


def without_value(given: object, model: BaseModel, name: str) -> list[str]:
    """Dotted names of the fields of a model that a configuration lacks."""
    found = []
    for field in type(model).model_fields:
        if not isinstance(given, dict) or field not in given:
            found.append(f"{name}.{field}")
        elif isinstance(part := getattr(model, field), BaseModel):
            found += without_value(given[field], part, f"{name}.{field}")
    return found


@pytest.mark.parametrize("name", DATA)
def test_every_setting_of_episodes_can_be_typed_without_a_plus(name: str) -> None:
    with initialize_config_dir(version_base="1.3", config_dir=str(CONFIGS)):
        config = compose("train", [f"data={name}", "checkpoint_tag=tag", "run_dir=run"])
    plain: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    assert without_value(plain["data"], EpisodeSpec(**plain["data"]), "data") == []
    assert without_value(plain["optim"], OptimConfig(**plain["optim"]), "optim") == []
    assert RunSettings.model_fields.keys() == plain.keys()


@pytest.mark.parametrize(
    "typed",
    [
        "data.outliers.probability=0.1",
        "data.outliers.kind=orthogonal",
        "data.distractors.scale=2",
        "data.input_scale=2",
        "data.curriculum={points: {start: 2, end: 11, increment: 1, every: 10}}",
    ],
)
def test_what_the_docs_list_is_taken_as_typed(typed: str) -> None:
    assert spec_of(typed) != spec_of()
    assert spec_of("data=classification", "data.label_flip=0.1").label_flip == 0.1


@pytest.mark.parametrize("name", list_models())
def test_every_argument_of_a_model_can_be_typed_without_a_plus(name: str) -> None:
    with initialize_config_dir(version_base="1.3", config_dir=str(CONFIGS)):
        config = compose("train", [f"model={name}"])
    of_the_data = {"d_x", "d_y", "output"}
    assert config.model.keys() >= set(model_arguments(name)) - of_the_data
