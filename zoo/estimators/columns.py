"""Which columns of a table hold no numbers."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np


@contextmanager
def columns_named(X: Any, y: Any = None) -> Iterator[None]:
    """Names the columns that hold no numbers where scikit-learn shows one of their entries alone.

    Args:
        X: Inputs as they were given; columns are named of data frames.
        y: Labels as they were given, if they have to be numbers.

    Raises:
        ValueError: In the place of that of scikit-learn, if X or y holds something else, or X is
            the place of a file.
    """
    if isinstance(X, str | os.PathLike):
        raise ValueError(f"X must be a table, got {str(X)!r}; pandas.read_csv reads a file")
    try:
        yield
    except (TypeError, ValueError) as error:
        names = [name for name in getattr(X, "columns", ()) if not _is_numeric(X[name])]
        if names:
            raise ValueError(
                f"columns that hold no numbers: {', '.join(map(str, names))}; OneHotEncoder makes "
                "numbers of texts, as docs/own_data.md shows"
            ) from error
        if y is not None and not _is_numeric(y):
            raise ValueError("y holds no numbers; InContextClassifier predicts classes") from error
        raise


def _is_numeric(values: Any) -> bool:
    dtype = getattr(values, "dtype", None)
    if getattr(dtype, "kind", "O") in "biuf":  # also those of pandas, with something missing
        return True
    if getattr(dtype, "kind", "O") in "mM":  # dates and durations, which would become nanoseconds
        return False
    try:
        np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        return False
    return True
