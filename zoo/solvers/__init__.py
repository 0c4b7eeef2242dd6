"""Exact algorithms as predictors; `zoo.registry` knows the file of each name."""

from typing import TYPE_CHECKING

from zoo.lazy import attributes

if not TYPE_CHECKING:
    __getattr__ = attributes(__name__)
