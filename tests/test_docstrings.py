"""What is public is explained, where ruff cannot see it."""

import inspect
from importlib import import_module
from types import FunctionType, ModuleType

import pytest

from zoo.files import ROOT

MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for part in ("zoo", "datamodules", "studies")
    for path in sorted((ROOT / part).rglob("*.py"))
    if path.stem != "__main__"
]


def is_public_class(value: object, module: ModuleType) -> bool:
    """Whether it is a class of the module that others use, and no list of names for a type."""
    return (
        inspect.isclass(value)
        and value.__module__ == module.__name__
        and not value.__name__.startswith("_")
        and not getattr(value, "_is_protocol", False)
    )


def unexplained(module: ModuleType) -> list[str]:
    """Public methods without a docstring, of their own or of what they override."""
    return [
        f"{cls.__name__}.{name}"
        for cls in vars(module).values()
        if is_public_class(cls, module)
        for name, member in vars(cls).items()
        if isinstance(member, FunctionType | property | classmethod | staticmethod)
        and not name.startswith("_")
        and not inspect.getdoc(getattr(cls, name))
    ]


@pytest.mark.parametrize("name", MODULES)
def test_every_public_method_is_explained_here_or_where_it_is_overridden(name: str) -> None:
    if name.startswith("zoo.estimators"):
        pytest.importorskip("sklearn")
    assert unexplained(import_module(name)) == []
