"""Plateaus of losses whose course is known."""

import math
import random

import pytest

from zoo.analysis.plateaus import Plateau, leaves_zero, plateaus


def test_zero_is_left_where_two_validations_in_a_row_are_below_it() -> None:
    losses = {10: 2.0, 20: 1.8, 30: 2.0, 40: 1.85, 50: 1.8, 60: 1.0}
    assert leaves_zero(losses, 2.0) == 40
    assert leaves_zero(losses, 1.5) is None
    assert leaves_zero({10: 1.0}, 2.0) is None


def stairs(noise: float, seed: int = 0) -> dict[int, float]:
    """A loss that stands at 1 over steps 0 to 700 and at 0.38 over steps 1200 to 1900."""
    course = [1.0] * 8 + [0.8, 0.65, 0.5, 0.42] + [0.38] * 8 + [0.3, 0.2, 0.15, 0.1, 0.08]
    draws = random.Random(seed)
    return {100 * i: loss * math.exp(draws.gauss(0, noise)) for i, loss in enumerate(course)}


def test_a_loss_that_stands_twice_has_two_plateaus() -> None:
    assert plateaus(stairs(0)) == [
        Plateau(0, 700, pytest.approx(1.0)),
        Plateau(1200, 1900, pytest.approx(0.38)),
    ]
    for seed in range(10):
        first, second = plateaus(stairs(0.02, seed))
        assert first.first == 0
        assert 1100 <= second.first < second.last <= 2000
        assert second.level == pytest.approx(0.38, rel=0.05)


@pytest.mark.parametrize("rate", [0.9, 0.97, 0.985, 0.995])
@pytest.mark.parametrize("noise", [0.0, 0.01, 0.03, 0.1])
def test_a_loss_that_falls_evenly_has_none(rate: float, noise: float) -> None:
    """However slowly, and however much validations scatter: less than 1 of 20 is taken for one."""
    found = []
    for seed in range(20):
        draws = random.Random(seed)
        losses = {step: rate**step * math.exp(draws.gauss(0, noise)) for step in range(60)}
        found += plateaus(losses)
    assert len(found) <= (1 if noise else 0)


@pytest.mark.parametrize("noise", [0.0, 1e-4, 1e-3])
def test_a_loss_that_falls_slowly_on_it_stands_however_little_it_scatters(noise: float) -> None:
    """By 0.01 a validation on the plateau, and by 0.3 before and behind it."""
    for seed in range(20):
        draws = random.Random(seed)
        falls = [0.3] * 6 + [0.01] * 8 + [0.3] * 6
        losses = {step: math.exp(-sum(falls[:step]) + draws.gauss(0, noise)) for step in range(21)}
        (found,) = plateaus(losses)
        assert (found.first, found.last) == (6, 14)


@pytest.mark.parametrize(
    ("noise", "low", "high"), [(0.01, 196, 200), (0.037, 12, 28), (0.06, 1, 8)]
)
def test_where_validations_scatter_a_short_plateau_is_not_seen(
    noise: float, low: int, high: int
) -> None:
    """A flat stretch of seven between falls of 0.1 a validation; the page says how often."""
    falls, found = [0.1] * 6 + [0.0] * 6 + [0.1] * 17, 0
    for seed in range(200):
        draws = random.Random(seed)
        losses = {i: math.exp(-sum(falls[:i]) + draws.gauss(0, noise)) for i in range(30)}
        found += any(stood.first <= 12 and stood.last >= 6 for stood in plateaus(losses))
    assert low <= found <= high


def test_a_loss_that_levels_off_has_none() -> None:
    """Neither where it converges, nor where only a decaying learning rate lets it fall again."""
    levels_off = [1.0, 0.6, 0.4, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3]
    assert plateaus(dict(enumerate(levels_off))) == []
    decays = dict(enumerate([*levels_off, 0.25, 0.2, 0.16]))
    assert [(found.first, found.last) for found in plateaus(decays)] == [(3, 8)]
    assert plateaus(decays, until=8) == []
    # Falls ever slower.
    assert plateaus({step: 1 / (1 + step) for step in range(60)}) == []


def test_a_stretch_that_the_loss_does_not_fall_from_is_no_plateau() -> None:
    # It stands, falls by less than a tenth, and stands.
    losses = dict(enumerate([1.0] * 6 + [0.98, 0.96, 0.94, 0.92] + [0.92] * 6))
    assert plateaus(losses) == []
    assert [found.level for found in plateaus(losses, fall=0.05)] == [1.0]


def test_losses_without_a_logarithm_are_refused() -> None:
    with pytest.raises(ValueError, match="above zero"):
        plateaus({0: 1.0, 1: 0.0})
    with pytest.raises(ValueError, match="at least 3 validations, got least = 2"):
        plateaus({0: 1.0}, least=2)
    for fall in (2, 1, -1):
        with pytest.raises(ValueError, match=f"from 0 to below 1, got {fall}"):
            plateaus({0: 1.0}, fall=fall)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_losses_that_are_not_finite_are_refused(bad: float) -> None:
    for losses in ({10: 0.5, 20: bad}, {10: bad, 20: 0.5}, stairs(0) | {300: bad}):
        for measure in (lambda given: leaves_zero(given, 1.0), plateaus):
            with pytest.raises(ValueError, match=f"losses must be finite, got {bad} at step"):
                measure(losses)
    with pytest.raises(ValueError, match=f"loss of zero must be finite, got {bad}"):
        leaves_zero({10: 0.5, 20: 0.5}, bad)
    # What is not looked at may be anything.
    assert plateaus({**stairs(0), 2_400: bad}, until=2_300) == plateaus(stairs(0), until=2_300)
