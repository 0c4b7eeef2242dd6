"""Exact algorithms as predictors. Importing this package registers them."""

from zoo.solvers import moment as moment
from zoo.solvers import theory as theory
