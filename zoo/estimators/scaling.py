"""Affine maps that bring data to the scale that a predictor expects."""

from typing import Any, Literal, NamedTuple

import numpy as np

from zoo.errors import unknown

Numbers = np.ndarray[Any, np.dtype[np.float64]]
Kind = Literal["whiten", "standard"]
KINDS = ("whiten", "standard")
# A column that varies by less than this part of its largest entry is constant.
CONSTANT = 1e-12
# A direction with less than this part of the largest variance has none.
RANK_TOLERANCE = 1e-9


class Affine(NamedTuple):
    """x -> (x - center) matrix + offset.

    Attributes:
        center: (num_columns,).
        matrix: (num_columns, width).
        offset: (width,).
    """

    center: Numbers
    matrix: Numbers
    offset: Numbers

    @classmethod
    def around(cls, center: Numbers, matrix: Numbers) -> "Affine":
        """x -> (x - center) matrix."""
        return cls(center, matrix, np.zeros(matrix.shape[1]))

    def __call__(self, x: Numbers) -> Numbers:
        """Maps rows (num_rows, num_columns) to (num_rows, width)."""
        mapped: Numbers = (x - self.center) @ self.matrix + self.offset
        return mapped

    def with_constant(self) -> "Affine":
        """The map with one more coordinate, which is one."""
        matrix = np.column_stack([self.matrix, np.zeros(len(self.matrix))])
        return Affine(self.center, matrix, np.append(self.offset, 1.0))

    def back(self, scaled: Numbers) -> Numbers:
        """The rows that a diagonal map without offset makes these of.

        Columns that it made zero become their center.
        """
        factors = self.matrix.diagonal()
        back: Numbers = scaled * np.where(factors, 1 / np.where(factors, factors, 1.0), 0.0)
        return back + self.center


def input_scaling(x: Numbers, kind: Kind, variance: float, width: int | None = None) -> Affine:
    """The map that gives the rows of x mean zero and a given variance.

    Columns are divided by their standard deviations; constant ones become zero. With `"whiten"`
    what they have in common is taken out as well: Z -> Z R^(-1/2), R = Z^T Z / num_rows, the
    rotation that leaves every column closest to itself. Directions of R without variance, such as
    that of a column that follows from others, become zero. With a width the map ends with the
    projection on so many leading eigenvectors of R; with `"standard"` the components keep their
    sizes relative to each other.

    Args:
        x: (num_rows, num_columns).
        kind: `"standard"` or `"whiten"`.
        variance: Of each coordinate afterwards; of standardised components in the mean.
        width: Coordinates that are left; None for as many as columns.
    """
    center = x.mean(0)
    inverse = _inverse_deviations(x - center, x)
    scale = np.sqrt(variance)
    if kind == "standard" and width is None:
        return Affine.around(center, np.diag(inverse * scale))
    z = (x - center) * inverse
    eigenvalues, vectors = np.linalg.eigh(z.T @ z / len(z))
    tiny = np.finfo(float).tiny
    if kind == "whiten":
        reached = eigenvalues > RANK_TOLERANCE * max(eigenvalues[-1], tiny)
        roots = np.where(reached, 1 / np.sqrt(np.where(reached, eigenvalues, 1.0)), 0.0)
    else:
        mean = eigenvalues[::-1][:width].mean()
        roots = np.full_like(eigenvalues, 1 / np.sqrt(max(mean, tiny)))
    if width is None:
        rotation = vectors * roots @ vectors.T
    else:
        # Eigenvectors have no sign; here their largest entry is positive.
        largest = np.take_along_axis(vectors, np.abs(vectors).argmax(0)[None], 0)
        rotation = (vectors * np.sign(largest) * roots)[:, ::-1][:, :width]
    return Affine.around(center, inverse[:, None] * rotation * scale)


def label_scaling(y: Numbers, variance: float) -> Affine:
    """The diagonal map that gives each column of y mean zero and a given variance.

    Constant columns become zero.
    """
    center = y.mean(0)
    factors = _inverse_deviations(y - center, y) * np.sqrt(variance)
    return Affine.around(center, np.diag(factors))


def unscaled(num_columns: int) -> Affine:
    """The map that changes nothing."""
    return Affine.around(np.zeros(num_columns), np.eye(num_columns))


def is_kind(scaling: object) -> bool:
    """Whether a map is asked for by name.

    Raises:
        ValueError: If it is by one that is not known.
    """
    if not isinstance(scaling, str):
        return False
    if scaling not in KINDS:
        raise ValueError(unknown("scaling", scaling, KINDS))
    return True


def _inverse_deviations(centered: Numbers, x: Numbers) -> Numbers:
    """One over the standard deviation of each column, zero for constant ones."""
    deviation = np.sqrt(np.square(centered).mean(0))
    varies = deviation > CONSTANT * np.abs(x).max(0)
    inverse: Numbers = np.where(varies, 1 / np.where(varies, deviation, 1.0), 0.0)
    return inverse
