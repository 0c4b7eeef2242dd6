"""Errors of the registry: what was given, what is near, what is allowed."""

import pytest

import zoo


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
    from zoo.registry import register_model

    with pytest.raises(ValueError, match="'gd_ssm' is already registered by GDSSM"):
        register_model("gd_ssm", GDSSMConfig)(GDSSM)


def test_lists_are_sorted_names() -> None:
    assert "gd_ssm" in zoo.list_models()
    assert {"zero", "gradient_descent", "least_squares", "ridge"} <= set(zoo.list_solvers())
    assert zoo.list_solvers() == sorted(zoo.list_solvers())
