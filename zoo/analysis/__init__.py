"""Functions of predictors and episodes: comparisons, constructions, probes, figures."""

from typing import TYPE_CHECKING

from zoo.lazy import attributes

if not TYPE_CHECKING:
    __getattr__ = attributes(__name__)
