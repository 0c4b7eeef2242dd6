"""Linear probes: how well hidden states and streaming states tell a quantity."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from zoo.analysis.checks import check_finite
from zoo.metrics.errors import Interval, ratio_interval

# Penalties that are tried, as fractions of the largest squared singular value of the features; the
# first is the linear probe.
PENALTIES = (0.0, *(10.0**exponent for exponent in range(-12, 3)))
# The part of the training episodes that the penalty is chosen on.
HELD_OUT = 0.25


class LinearProbe(NamedTuple):
    """An affine map from features to targets: target_mean + (h - feature_mean) weight, float64.

    Attributes:
        weight: (num_features, num_targets).
        feature_mean: (num_features,).
        target_mean: (num_targets,).
        penalty: The fraction of the largest squared singular value that was chosen.
    """

    weight: Tensor
    feature_mean: Tensor
    target_mean: Tensor
    penalty: float

    def __call__(self, features: Tensor) -> Tensor:
        """Predictions (num, num_targets) for features (num, ...)."""
        return self.target_mean + (rows(features) - self.feature_mean) @ self.weight


class ProbeScore(NamedTuple):
    """What a probe tells on episodes it has not seen.

    Attributes:
        r2: R^2 of the targets.
        shuffled: R^2 of another probe of the same features, for which the targets of the episodes
            have been exchanged, in training and in the test. It is zero or below whatever the
            features hold: it checks the split and the scoring, and is no control of the model,
            which the same model with a random start is.
        penalty: That of the probe.
    """

    r2: Interval
    shuffled: Interval
    penalty: float


def probe(
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    penalties: tuple[float, ...] = PENALTIES,
    seed: int = 0,
) -> ProbeScore:
    """Fits a probe on one set of episodes and scores it on another.

    Rows are independent episodes, at one layer and position; features and targets may have any
    further shape, which is flattened; complex numbers are pairs of real ones. A class is a target
    as one-hot vector.

    Args:
        train: Features (num_train, ...) and targets (num_train, ...).
        test: The same of other episodes.
        penalties: To choose from, as at `fit_probe`; `(0.0,)` is the linear probe.
        seed: Of the exchange of targets.

    Raises:
        ValueError: As `fit_probe` and `r_squared`.
    """
    (h_train, t_train), (h_test, t_test) = train, test
    return probe_all((h_train, {"": t_train}), (h_test, {"": t_test}), penalties, seed)[""]


def probe_all(
    train: tuple[Tensor, Mapping[str, Tensor]],
    test: tuple[Tensor, Mapping[str, Tensor]],
    penalties: tuple[float, ...] = PENALTIES,
    seed: int = 0,
) -> dict[str, ProbeScore]:
    """`probe` for several targets by name, of the same features, which are decomposed once.

    Args:
        train: Features (num_train, ...) and targets by name, each (num_train, ...).
        test: The same of other episodes, with the same names.
        penalties: As at `probe`.
        seed: As at `probe`.

    Raises:
        ValueError: If names differ, and as `fit_probe` and `r_squared`.
    """
    if train[1].keys() != test[1].keys():
        raise ValueError(
            f"targets of training and test must have the same names, got {sorted(train[1])} and "
            f"{sorted(test[1])}"
        )
    generator = torch.Generator().manual_seed(seed)

    def exchanged(targets: Tensor) -> Tensor:
        order = torch.randperm(len(targets), generator=generator)
        return targets[order.to(targets.device)]

    controls = [tuple(exchanged(part[1][name]) for part in (train, test)) for name in train[1]]
    given = [*train[1].values(), *(of_train for of_train, _ in controls)]
    fitted = _fit_all(train[0], given, penalties)
    num = len(controls)
    return {
        name: ProbeScore(
            r2=r_squared(found, test[0], test[1][name]),
            shuffled=r_squared(control, test[0], of_test),
            penalty=found.penalty,
        )
        for name, found, control, (_, of_test) in zip(
            train[1], fitted[:num], fitted[num:], controls, strict=True
        )
    }


def fit_probe(
    features: Tensor, targets: Tensor, penalties: tuple[float, ...] = PENALTIES
) -> LinearProbe:
    """Ridge regression whose penalty is chosen on a quarter of the episodes.

    With the centred features H = U diag(s) V^T and targets T in float64, the weights are
    V diag(s / (s^2 + lambda s_1^2)) U^T T. lambda is chosen on the last quarter of the episodes,
    with fits to the others, and the fit with it is to all of them: of the penalties whose squared
    error is at most one standard error of the paired difference above the least, the largest.
    Singular values that are rounding count as zero.

    Args:
        features: (num, ...), of independent episodes.
        targets: (num, ...).
        penalties: Values of lambda, at or above zero.

    Raises:
        ValueError: If numbers of episodes differ or are below 8, there is no feature or no target,
            a number is not finite, there is no penalty, or one is below zero or not finite.
    """
    return _fit_all(features, [targets], penalties)[0]


def r_squared(found: LinearProbe, features: Tensor, targets: Tensor) -> Interval:
    """R^2 = 1 - sum |t - probe(h)|^2 / sum |t - mean|^2 with its 95 % interval over episodes.

    The sums are over episodes and coordinates. The mean is that of the training episodes, so that a
    probe which knows nothing has 0; one that is worse than the mean is below it.

    Args:
        found: The probe.
        features: (num, ...), of other episodes than it was fitted to.
        targets: (num, ...).

    Raises:
        ValueError: If numbers of episodes differ or are below 2, features or targets have another
            size than those of the probe, a number is not finite, or the targets do not vary.
    """
    h, t = rows(features), rows(targets)
    if len(h) != len(t) or len(h) < 2:
        raise ValueError(
            "a probe is scored on features and targets of the same episodes, at least 2 of them, "
            f"got {len(h)} and {len(t)}"
        )
    if (h.shape[1], t.shape[1]) != found.weight.shape:
        raise ValueError(
            f"the probe reads {found.weight.shape[1]} numbers from {found.weight.shape[0]} "
            f"features, got {t.shape[1]} and {h.shape[1]}"
        )
    check_finite(features=h, targets=t)
    varied = (t - found.target_mean).square().sum(1)
    if not varied.any():
        raise ValueError("targets do not vary: there is nothing to tell")
    share = ratio_interval((t - found(h)).square().sum(1), varied)
    return Interval(1 - share.value, share.ci95)


def rows(values: Tensor) -> Tensor:
    """(num, ...) as float64 (num, size); complex numbers are pairs of real ones."""
    real = torch.view_as_real(values.resolve_conj()) if values.is_complex() else values
    return real.flatten(1).double() if real.ndim > 1 else real[:, None].double()


@torch.no_grad()
def _fit_all(
    features: Tensor, targets: Sequence[Tensor], penalties: tuple[float, ...]
) -> list[LinearProbe]:
    """`fit_probe` for each of the targets."""
    h, of_targets = rows(features), [rows(t) for t in targets]
    for t in of_targets:
        if len(h) != len(t) or len(h) < 8:
            raise ValueError(
                "a probe needs features and targets of the same episodes, at least 8 of them, "
                f"got {len(h)} and {len(t)}"
            )
        if not h.shape[1] or not t.shape[1]:
            raise ValueError(
                "a probe needs at least one feature and one target, got "
                f"{tuple(features.shape)} and {t.shape[1]} targets"
            )
        check_finite(features=h, targets=t)
    given = isinstance(penalties, Sequence) and len(penalties) > 0
    if not given or not all(0 <= penalty < math.inf for penalty in penalties):
        raise ValueError(f"penalties must be one or more numbers from 0 on, got {penalties}")
    num_fitted = len(h) - int(HELD_OUT * len(h))
    part, whole = _Decomposed.of(h[:num_fitted]), _Decomposed.of(h)
    fitted = []
    for t in of_targets:
        tried = (part.ridge(t[:num_fitted], penalty) for penalty in penalties)
        errors = [(f(h[num_fitted:]) - t[num_fitted:]).square().sum(1) for f in tried]
        fitted.append(whole.ridge(t, _chosen(penalties, errors)))
    return fitted


def _chosen(penalties: tuple[float, ...], errors: list[Tensor]) -> float:
    """The largest penalty whose errors are no clearer above the least than by a standard error."""
    least = min(errors, key=lambda error: error.sum().item())
    found = []
    for penalty, error in zip(penalties, errors, strict=True):
        more = error - least
        if more.mean() <= more.std() / len(more) ** 0.5:
            found.append(penalty)
    return max(found)


class _Decomposed(NamedTuple):
    """Features with their mean taken off, as U diag(s) Vh, without what is rounding."""

    mean: Tensor
    U: Tensor
    s: Tensor
    Vh: Tensor

    @classmethod
    def of(cls, h: Tensor) -> "_Decomposed":
        mean = h.mean(0)
        U, s, Vh = torch.linalg.svd(h - mean, full_matrices=False)
        rounding = torch.finfo(h.dtype).eps * max(h.shape) * h.abs().max()
        return cls(mean, U, torch.where(s > rounding, s, 0.0), Vh)

    def ridge(self, t: Tensor, penalty: float) -> LinearProbe:
        """The probe of one penalty."""
        mean = t.mean(0)
        shrunk = self.s / (self.s.square() + penalty * self.s[:1].square())
        shrunk = torch.where(self.s > 0, shrunk, 0.0)
        weight = self.Vh.mT @ (shrunk[:, None] * (self.U.mT @ (t - mean)))
        return LinearProbe(weight, self.mean, mean, penalty)
