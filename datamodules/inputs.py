"""Input distributions: how x is drawn.

`variance` is the mean over the coordinates of E x_p^2, of those that are in use where not all are.
`kurtosis` is E x_p^4 / (E x_p^2)^2 where the coordinates are independent, alike and of mean zero,
and None everywhere else: the closed form of one gradient step holds for the first kind only.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, PositiveFloat

from datamodules.family import drawn_number
from datamodules.lazy import torch
from datamodules.spec import NumbersFrom, Spec, ends_of
from datamodules.stream import fixed_generator

if TYPE_CHECKING:
    from torch import Tensor

ConditionNumber = Annotated[float, Field(ge=1)]


class InputDistribution(Spec):
    """What all input distributions have beside `name` and `variance`."""

    @property
    def kurtosis(self) -> float | None:
        """E x_p^4 / (E x_p^2)^2 of independent, equal coordinates of mean zero, else None."""
        return None

    def share_in_use(self, d_x: int) -> float:
        """Mean share of the coordinates that are not zero throughout an episode."""
        return 1.0

    def check(self, d_x: int, function: str) -> None:
        """Raises ValueError if this cannot be drawn in d_x dimensions for that function family."""

    def sample(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Draws float32 inputs of the given shape (..., d_x) on the generator's device."""
        raise NotImplementedError

    def observed(self, x: Tensor) -> Tensor:
        """The x (..., d_x) that an episode shows for the one its function is evaluated at."""
        return x


class Uniform(InputDistribution):
    """x ~ U(-r, r) in each coordinate.

    Source: von Oswald et al. 2022 (arXiv 2212.07677) and the published GD-SSM code, whose
    "input range 1" is r = 0.5.

    Attributes:
        r: Half the width of the interval. Variance r^2 / 3, kurtosis 1.8.
    """

    name: Literal["uniform"] = "uniform"
    r: PositiveFloat = 0.5

    @property
    def variance(self) -> float:
        """E x_p^2 = r^2 / 3."""
        return self.r**2 / 3

    @property
    def kurtosis(self) -> float:
        return 1.8

    def sample(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return _empty(shape, generator).uniform_(-self.r, self.r, generator=generator)


class Gaussian(InputDistribution):
    """x ~ N(0, variance) in each coordinate.

    Source: Garg et al. 2022 (arXiv 2208.01066).

    Attributes:
        variance: Of each coordinate. Kurtosis 3.
    """

    name: Literal["gaussian"] = "gaussian"
    variance: PositiveFloat = 1.0

    @property
    def kurtosis(self) -> float:
        return 3.0

    def sample(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return _empty(shape, generator).normal_(0, math.sqrt(self.variance), generator=generator)


class Padded(InputDistribution):
    """x ~ N(0, variance) in the first k coordinates and 0 in the others, k uniform.

    Every episode has another k. So narrow tables look to a model that takes wide ones. The
    distribution is ours; its tensors are those of Garg et al. 2022 (arXiv 2208.01066) in the middle
    of their curriculum.

    Attributes:
        variance: Of each coordinate in use.
        active_dims: Least and largest k; None for d_x.
    """

    name: Literal["padded"] = "padded"
    variance: PositiveFloat = 1.0
    active_dims: NumbersFrom = [1, None]  # noqa: RUF012  # pydantic copies it

    def share_in_use(self, d_x: int) -> float:
        return sum(ends_of(self.active_dims, d_x)) / (2 * d_x)

    def check(self, d_x: int, function: str) -> None:
        low, high = ends_of(self.active_dims, d_x)
        if not low <= high <= d_x:
            raise ValueError(
                f"active_dims must rise to at most d_x = {d_x}, got {self.active_dims}"
            )

    def sample(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        x = _empty(shape, generator).normal_(0, math.sqrt(self.variance), generator=generator)
        k = drawn_number(self.active_dims, shape[-1], shape[0], generator)
        in_use = torch.arange(shape[-1], device=x.device) < k[:, None]  # (batch, d_x)
        return x * in_use.view(shape[0], *[1] * (len(shape) - 2), shape[-1])


class Laplace(InputDistribution):
    """x ~ Laplace(0, sqrt(variance / 2)) in each coordinate.

    Source: von Oswald et al. 2022 (arXiv 2212.07677), inputs unlike those of training.

    Attributes:
        variance: Of each coordinate. Kurtosis 6.
    """

    name: Literal["laplace"] = "laplace"
    variance: PositiveFloat = 1.0

    @property
    def kurtosis(self) -> float:
        return 6.0

    def sample(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        # The difference of two exponential variables.
        x = _empty(shape, generator).exponential_(generator=generator)
        x -= torch.empty_like(x).exponential_(generator=generator)
        return x * math.sqrt(self.variance / 2)


class Exponential(InputDistribution):
    """x = sqrt(variance) (e - 1), e ~ Exp(1), in each coordinate: skewed to the right, mean zero.

    Source: von Oswald et al. 2022 (arXiv 2212.07677), inputs unlike those of training. They leave
    the mean where it is; here it is taken away, so that only the shape differs from a gaussian.

    Attributes:
        variance: Of each coordinate. Kurtosis 9.
    """

    name: Literal["exponential"] = "exponential"
    variance: PositiveFloat = 1.0

    @property
    def kurtosis(self) -> float:
        return 9.0

    def sample(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        e = _empty(shape, generator).exponential_(generator=generator)
        return (e - 1) * math.sqrt(self.variance)


class Sign(InputDistribution):
    """x is -1 or 1 in each coordinate, with probability 1/2. Variance 1, kurtosis 1.

    Source: Park et al. 2024 (arXiv 2402.04248), for sparse parity.
    """

    name: Literal["sign"] = "sign"

    @property
    def variance(self) -> float:
        """E x_p^2 = 1."""
        return 1.0

    @property
    def kurtosis(self) -> float:
        return 1.0

    def sample(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return _empty(shape, generator).bernoulli_(0.5, generator=generator) * 2 - 1


class Sphere(InputDistribution):
    """x is uniform on the sphere of radius sqrt(d_x variance).

    Source: Ahn et al. 2023 (arXiv 2306.00297), where the radius is one.

    Attributes:
        variance: Of each coordinate. The coordinates are uncorrelated, not independent.
    """

    name: Literal["sphere"] = "sphere"
    variance: PositiveFloat = 1.0

    def sample(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        z = _empty(shape, generator).normal_(generator=generator)
        return _unit(z) * math.sqrt(shape[-1] * self.variance)


class GammaSphere(InputDistribution):
    """x = r u, u uniform on the unit sphere, r^2 ~ Gamma(shape) of mean d_x variance.

    E r^4 = (d_x variance)^2 (1 + 1 / shape); shape = d_x / 2 makes x gaussian. Source: Ahn et al.
    2023 (arXiv 2306.00297), where r^2 has variance 10 instead of a given mean.

    Attributes:
        variance: Of each coordinate. The coordinates are uncorrelated, not independent.
        shape: Of the Gamma distribution; the smaller, the more the lengths of x differ.
    """

    name: Literal["gamma_sphere"] = "gamma_sphere"
    variance: PositiveFloat = 1.0
    shape: PositiveFloat = 1.0

    def sample(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        u = _unit(_empty(shape, generator).normal_(generator=generator))
        # torch.distributions takes no generator.
        gamma = torch._standard_gamma(
            torch.full_like(u[..., :1], self.shape), generator=generator
        )  # (..., 1), mean shape
        return u * (gamma * (shape[-1] * self.variance / self.shape)).sqrt()


class Rotated(InputDistribution):
    """x = U diag(e) z, z ~ N(0, I), U random orthogonal: covariance U diag(e)^2 U^T.

    U is drawn once from `rotation_seed` and the same for all episodes. The e_i have the ratios that
    each distribution says, and sum_i e_i^2 = d_x variance.

    Attributes:
        variance: Mean over the coordinates; which of them vary more is up to U.
        rotation_seed: Of U.
    """

    variance: PositiveFloat = 1.0
    rotation_seed: int = 0

    def spectrum(self, d_x: int) -> Tensor:
        """The e_i up to a factor, float32 (d_x,)."""
        raise NotImplementedError

    def transform(self, d_x: int) -> Tensor:
        """U diag(e), float32 (d_x, d_x) on the CPU."""
        e = self.spectrum(d_x)
        e = e * math.sqrt(d_x * self.variance) / e.norm()
        z = torch.randn(d_x, d_x, generator=fixed_generator("rotation", self.rotation_seed))
        U, R = torch.linalg.qr(z)
        # With these signs U is uniform over the orthogonal matrices.
        transform: Tensor = U * R.diagonal().sign() * e
        return transform

    def sample(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        z = _empty(shape, generator).normal_(generator=generator)
        return z @ self.transform(shape[-1]).to(z.device).mT


class Skewed(Rotated):
    """Rotated gaussian inputs with e_i = 1/i up to a factor.

    Source: Garg et al. 2022 (arXiv 2208.01066), "skewed covariance".
    """

    name: Literal["skewed"] = "skewed"

    def spectrum(self, d_x: int) -> Tensor:
        return 1 / torch.arange(1.0, d_x + 1)


class HalfSubspace(Rotated):
    """Gaussian inputs in a random subspace of d_x // 2 dimensions, the same for all episodes.

    Source: Garg et al. 2022 (arXiv 2208.01066), "d/2-dimensional subspace".
    """

    name: Literal["half_subspace"] = "half_subspace"

    def check(self, d_x: int, function: str) -> None:
        if d_x < 2:
            raise ValueError(f"inputs half_subspace needs d_x of at least 2, got {d_x}")

    def spectrum(self, d_x: int) -> Tensor:
        return (torch.arange(d_x) < d_x // 2).float()


class IllConditioned(Rotated):
    """Rotated gaussian inputs; up to a factor e_i^2 is kappa in d_x // 2 directions, else 1.

    Source: Fu et al. 2023 (arXiv 2310.17086).

    Attributes:
        kappa: Condition number of the covariance.
    """

    name: Literal["ill_conditioned"] = "ill_conditioned"
    kappa: ConditionNumber = 10.0

    def spectrum(self, d_x: int) -> Tensor:
        large = torch.arange(d_x) < d_x // 2
        return torch.where(large, math.sqrt(self.kappa), 1.0)


class Preconditioned(Rotated):
    """Inputs and weights in opposite scales: x = U diag(e) z, y = V z, z ~ N(0, I).

    So W = V diag(e)^-1 U^T is large where x is small and the labels are as with isotropic inputs:
    E y^2 = scale^2 d_x, V being the weights of the linear function. The e_i fall geometrically, the
    first sqrt(kappa) times the last. Source: Ahn et al. 2023 (arXiv 2306.00297), whose e are
    1, 1, 1/2, 1/4, 1 in five dimensions.

    Attributes:
        kappa: Condition number of the covariance.
    """

    name: Literal["preconditioned"] = "preconditioned"
    kappa: ConditionNumber = 16.0

    def check(self, d_x: int, function: str) -> None:
        if function != "linear":
            raise ValueError(
                f"inputs preconditioned scale the weights of function linear, got {function}"
            )

    def spectrum(self, d_x: int) -> Tensor:
        return torch.logspace(0.5 * math.log10(self.kappa), 0, d_x)

    def sample(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Draws the z that the function is evaluated at; `observed` makes x of it."""
        return _empty(shape, generator).normal_(generator=generator)

    def observed(self, x: Tensor) -> Tensor:
        return x @ self.transform(x.shape[-1]).to(x.device).mT


Inputs = Annotated[
    Uniform
    | Gaussian
    | Padded
    | Laplace
    | Exponential
    | Sign
    | Sphere
    | GammaSphere
    | Skewed
    | HalfSubspace
    | IllConditioned
    | Preconditioned,
    Field(discriminator="name"),
]


def _empty(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.empty(shape, dtype=torch.float32, device=generator.device)


def _unit(z: Tensor) -> Tensor:
    unit: Tensor = z / torch.linalg.vector_norm(z, dim=-1, keepdim=True)
    return unit
