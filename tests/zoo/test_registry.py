"""Errors of the registry: what was given, what is near, what is allowed."""

import importlib
import pkgutil
from types import ModuleType

import pytest

import zoo
from zoo import registry


def test_unknown_names_come_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="unknown model 'gdssm'. Did you mean 'gd_ssm'"):
        zoo.create_model("gdssm", d_x=1, d_y=1)
    with pytest.raises(ValueError, match="unknown solver 'last_squares'.*'least_squares'.*Known:"):
        zoo.create_solver("last_squares", d_x=1, d_y=1)


def test_unknown_arguments_come_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="argument of gd_ssm 'decays'. Did you mean 'decay'"):
        zoo.create_model("gd_ssm", d_x=1, d_y=1, decays="none")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"d_x": 3}, "'d_y' is missing"),
        ({"d_x": 0, "d_y": 1}, "d_x: .*greater than 0, got 0"),
        ({"d_x": 3.5, "d_y": 1}, "d_x: .*got 3.5"),
        ({"d_x": 3, "d_y": 1, "decay": "exponential"}, "decay: .*'elementwise' or 'none'"),
        ({"d_x": 3, "d_y": 1, "scale_Q": float("nan")}, "scale_Q: .*finite"),
    ],
)
def test_wrong_values_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        zoo.create_model("gd_ssm", **arguments)


def test_a_name_is_registered_once() -> None:
    from zoo.models.gd_ssm import GDSSM, GDSSMConfig

    with pytest.raises(ValueError, match="'gd_ssm' is already registered by GDSSM"):
        registry.register_model("gd_ssm", GDSSMConfig)(GDSSM)


@pytest.mark.parametrize(
    ("package", "registry"), [(zoo.models, registry._models), (zoo.solvers, registry._solvers)]
)
def test_the_files_of_all_names_are_known(
    package: ModuleType, registry: registry._Registry
) -> None:
    modules = pkgutil.iter_modules(package.__path__, f"{package.__name__}.")
    for module in modules:
        importlib.import_module(module.name)
    registered = {name: cls.__module__ for name, (_, cls) in registry.entries.items()}
    own = {name: module for name, module in registered.items() if module.startswith("zoo.")}
    assert own == registry.own


def test_a_name_of_ours_is_taken_before_its_file_is_imported() -> None:
    own = registry._Registry("model", "zoo.models", {"s5": "s5"})
    with pytest.raises(ValueError, match=r"'s5' is already registered by zoo\.models\.s5"):
        own.register("s5", registry.PredictorConfig)(zoo.Predictor)


def test_lists_are_sorted_names() -> None:
    assert "gd_ssm" in zoo.list_models()
    assert {"zero", "gradient_descent", "least_squares", "ridge"} <= set(zoo.list_solvers())
    assert zoo.list_solvers() == sorted(zoo.list_solvers())


def test_a_file_that_is_not_registered_is_said() -> None:
    with pytest.raises(ValueError, match="There is zoo/models/sequence.py; a name needs a line in"):
        zoo.create_model("sequence", d_x=2, d_y=2)
    with pytest.raises(ValueError, match="unknown model 'no.such'") as found:
        zoo.create_model("no.such", d_x=2, d_y=2)
    assert "There is" not in str(found.value)
