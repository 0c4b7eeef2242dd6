"""Exact algorithms as predictors. Importing this package registers them."""

from zoo.solvers import classification as classification
from zoo.solvers import descent as descent
from zoo.solvers import filters as filters
from zoo.solvers import kernel as kernel
from zoo.solvers import lasso as lasso
from zoo.solvers import least_squares as least_squares
from zoo.solvers import memory as memory
from zoo.solvers import moment as moment
from zoo.solvers import online as online
from zoo.solvers import theory as theory
from zoo.solvers import trees as trees
from zoo.solvers import tuning as tuning
