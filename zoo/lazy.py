"""Packages whose parts are imported once they are asked for (PEP 562)."""

from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any


def attributes(package: str, names: Mapping[str, str] | None = None) -> Callable[[str], Any]:
    """The `__getattr__` of a package: its modules, and names that stand in them.

    Args:
        package: Its `__name__`.
        names: The module of each name that the package offers as its own.
    """
    homes = names or {}

    def find(name: str) -> Any:
        if name in homes:
            return getattr(import_module(homes[name]), name)
        module = f"{package}.{name}"
        if name.startswith("_") or find_spec(module) is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return import_module(module)

    return find
