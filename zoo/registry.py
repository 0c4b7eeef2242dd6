"""Architectures and solvers by name: one name, one frozen config, one class.

A file is imported once one of its names is asked for, so that the names are known without torch.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ConfigDict, PositiveInt, ValidationError

from zoo.errors import explain, problems, unknown

if TYPE_CHECKING:
    from zoo.predictor import Predictor

# The file of each name, in zoo/models.
MODELS = {
    "delta_net": "delta_net",
    "delta_product": "delta_product",
    "gated_delta_net": "gated_delta_net",
    "gd_ssm": "gd_ssm",
    "gd_ssm_deep": "gd_ssm_deep",
    "gd_ssm_embedded": "gd_ssm",
    "gd_ssm_features": "gd_ssm",
    "gla": "gla",
    "hybrid": "hybrid",
    "linear_transformer": "linear_transformer",
    "longhorn": "longhorn",
    "mamba": "mamba",
    "mamba2": "mamba2",
    "mesa_net": "mesa_net",
    "online_learner": "online_learner",
    "s5": "s5",
    "transformer": "transformer",
    "ttt_linear": "ttt",
    "ttt_mlp": "ttt",
}
# The same, in zoo/solvers.
SOLVERS = {
    "averaging": "moment",
    "boosted_trees": "trees",
    "conjugate_gradient": "least_squares",
    "context_ngrams": "ngrams",
    "decision_tree": "trees",
    "dictionary": "lookup",
    "dmmse": "filters",
    "fitted_ngrams": "ngrams",
    "fixed_features": "kernel",
    "gradient_descent": "moment",
    "gradient_descent_plus_plus": "descent",
    "group_table": "symbols",
    "kalman_filter": "filters",
    "knn": "memory",
    "lasso": "lasso",
    "least_squares": "least_squares",
    "list_ops_parser": "list_ops",
    "logistic_regression": "classification",
    "longhorn": "online",
    "mean": "online",
    "minibatch_gradient_descent": "online",
    "newton": "least_squares",
    "normalized_lms": "online",
    "online_gradient_descent": "online",
    "preconditioned_gradient_descent": "descent",
    "random_features_ridge": "kernel",
    "recursive_least_squares": "filters",
    "ridge": "least_squares",
    "ridge_evidence": "least_squares",
    "scheduled_gradient_descent": "moment",
    "softmax_gradient_descent": "classification",
    "symbol_copy": "lookup",
    "symbol_lookup": "lookup",
    "two_layer_network": "memory",
    "uniform": "symbols",
    "weighted_gradient_descent": "online",
    "zero": "moment",
}


class PredictorConfig(BaseModel):
    """What every predictor is built from: plain numbers and names, checked and then frozen."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    d_x: PositiveInt
    d_y: PositiveInt


T = TypeVar("T", bound="type[Predictor]")


class _Registry:
    """Names of one kind, those of our own files and those that others register.

    Args:
        kind: What errors call it.
        package: Of our own files.
        files: The file of each of our names.
    """

    def __init__(self, kind: str, package: str, files: dict[str, str]) -> None:
        self.kind = kind
        self.package = package
        self.own = {name: f"{package}.{file}" for name, file in files.items()}
        self.entries: dict[str, tuple[type[PredictorConfig], type[Predictor]]] = {}

    def names(self) -> list[str]:
        return sorted({*self.own, *self.entries})

    def register(self, name: str, config: type[PredictorConfig]) -> Callable[[T], T]:
        def decorate(cls: T) -> T:
            if name in self.entries:
                taken = self.entries[name][1].__name__
                raise ValueError(f"{name!r} is already registered by {taken}")
            if name in self.own and cls.__module__ != self.own[name]:
                raise ValueError(f"{name!r} is already registered by {self.own[name]}")
            self.entries[name] = (config, cls)
            return cls

        return decorate

    def find(self, name: str) -> "tuple[type[PredictorConfig], type[Predictor]]":
        if name in self.own and name not in self.entries:
            import_module(self.own[name])  # registers it
        if name not in self.entries:
            text = unknown(self.kind, name, self.names())
            if (
                name.isidentifier()
                and name[0] != "_"
                and find_spec(f"{self.package}.{name}") is not None
            ):
                file = f"{self.package.replace('.', '/')}/{name}.py"
                text += f". There is {file}; a name needs a line in zoo/registry.py"
            raise ValueError(text)
        return self.entries[name]

    def config(self, name: str, arguments: Mapping[str, Any]) -> PredictorConfig:
        config_class = self.find(name)[0]
        for argument in arguments:
            if argument not in config_class.model_fields:
                what = f"argument of {name}"
                raise ValueError(unknown(what, argument, config_class.model_fields))
        return config_class(**arguments)

    def build(self, name: str, config: PredictorConfig) -> "Predictor":
        build: Any = self.find(name)[1]  # registered classes take their own config
        predictor: Predictor = build(config)
        return predictor

    def create(self, name: str, arguments: Mapping[str, Any]) -> "Predictor":
        try:
            config = self.config(name, arguments)
        except ValidationError as error:
            raise ValueError(f"{self.kind} {name}: {explain(error)}") from None
        return self.build(name, config)


_models = _Registry("model", "zoo.models", MODELS)
_solvers = _Registry("solver", "zoo.solvers", SOLVERS)


def register_model(name: str, config: type[PredictorConfig]) -> Callable[[T], T]:
    """Class decorator that registers an architecture; its constructor takes one `config`."""
    return _models.register(name, config)


def register_solver(name: str, config: type[PredictorConfig]) -> Callable[[T], T]:
    """Class decorator that registers an exact algorithm; its constructor takes one `config`."""
    return _solvers.register(name, config)


@dataclass(frozen=True)
class ModelSpec:
    """A kind of model, as data: a registered architecture and its checked arguments.

    Attributes:
        name: Registered name of the architecture.
        config: Its arguments.
    """

    name: str
    config: PredictorConfig

    @classmethod
    def of(cls, name: str, **arguments: Any) -> "ModelSpec":
        """Checks plain data.

        Raises:
            ValueError: If the name or an argument is unknown; pydantic's ValidationError, which
                says of which argument, if one has a wrong value.
        """
        return cls(name, _models.config(name, arguments))

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments that were given, as plain data."""
        return self.config.model_dump(exclude_unset=True)

    def create(self) -> "Predictor":
        """An untrained model."""
        return _models.build(self.name, self.config)


def create_model(name: str, **arguments: Any) -> "Predictor":
    """Builds a model from its registered name, e.g. `create_model("gd_ssm", d_x=10, d_y=10)`.

    Raises:
        ValueError: If the name or an argument is unknown or an argument has a wrong value.
    """
    return _models.create(name, arguments)


def create_solver(name: str, **arguments: Any) -> "Predictor":
    """Builds an exact algorithm by name, e.g. `create_solver("least_squares", d_x=10, d_y=1)`.

    Raises:
        ValueError: If the name or an argument is unknown or an argument has a wrong value.
    """
    return _solvers.create(name, arguments)


def list_models() -> list[str]:
    """Names that `create_model` knows."""
    return _models.names()


def list_solvers() -> list[str]:
    """Names that `create_solver` knows."""
    return _solvers.names()


def model_arguments(name: str) -> list[str]:
    """Names of the arguments of an architecture.

    Raises:
        ValueError: If the name is unknown.
    """
    return list(_models.find(name)[0].model_fields)


def model_class(name: str) -> "type[Predictor]":
    """The class of an architecture.

    Raises:
        ValueError: If the name is unknown.
    """
    return _models.find(name)[1]


def solver_class(name: str) -> "type[Predictor]":
    """The class of a solver.

    Raises:
        ValueError: If the name is unknown.
    """
    return _solvers.find(name)[1]


def check_solver_arguments(name: str, arguments: Mapping[str, Any]) -> None:
    """Checks some arguments of a solver, before there are all: widths come from the episodes.

    Raises:
        ValueError: If the name or an argument is unknown or an argument has a wrong value.
    """
    known = [argument for argument in solver_arguments(name) if argument not in ("d_x", "d_y")]
    for argument in arguments:
        if argument not in known:
            raise ValueError(unknown(f"argument of {name}", argument, known))
    try:
        _solvers.config(name, {"d_x": 1, "d_y": 1, **arguments})
    except ValidationError as error:
        wrong = [found for found in error.errors() if found["loc"] and found["loc"][0] in arguments]
        if wrong:
            raise ValueError(f"solver {name}: {problems(wrong, arguments)}") from None


def solver_arguments(name: str) -> list[str]:
    """Names of the arguments of a solver.

    Raises:
        ValueError: If the name is unknown.
    """
    return list(_solvers.find(name)[0].model_fields)
