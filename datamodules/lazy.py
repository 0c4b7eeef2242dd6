"""Torch, imported once something of it is used: what episodes are like is known without it."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch as torch
else:

    class _Lazy(ModuleType):
        """A module that is imported when it is first asked for something."""

        def __getattr__(self, name: str) -> Any:
            value = getattr(import_module(self.__name__), name)
            setattr(self, name, value)  # found at once from now on
            return value

    torch = _Lazy("torch")
