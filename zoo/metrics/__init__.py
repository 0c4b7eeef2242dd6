"""What is measured of predictors: errors with intervals, and alignment with an algorithm."""

from typing import TYPE_CHECKING

from zoo.lazy import attributes

if not TYPE_CHECKING:
    __getattr__ = attributes(__name__)
