"""Plateaus of losses whose course is known."""

import pytest

from zoo.analysis.plateaus import Plateau, leaves_zero, plateaus


def test_zero_is_left_where_two_validations_in_a_row_are_below_it() -> None:
    losses = {10: 2.0, 20: 1.8, 30: 2.0, 40: 1.85, 50: 1.8, 60: 1.0}
    assert leaves_zero(losses, 2.0) == 40
    assert leaves_zero(losses, 1.5) is None
    assert leaves_zero({10: 1.0}, 2.0) is None


def test_a_loss_that_stands_twice_has_two_plateaus() -> None:
    first, second = [1.0, 1.01, 0.99, 1.0, 1.02], [0.5, 0.51, 0.5, 0.5]
    losses = dict(zip(range(0, 1200, 100), [*first, 0.8, 0.65, *second, 0.3], strict=True))
    assert plateaus(losses) == [
        Plateau(0, 400, pytest.approx(1.004)),
        Plateau(700, 1000, pytest.approx(0.5025)),
    ]


def test_training_may_end_in_a_plateau() -> None:
    losses = dict(zip(range(6), [1.0, 0.6, 0.3, 0.3, 0.3, 0.3], strict=True))
    assert plateaus(losses) == [Plateau(2, 5, pytest.approx(0.3))]


def test_a_loss_that_falls_all_the_time_has_none() -> None:
    assert plateaus({step: 0.97**step for step in range(100)}) == []


def test_a_stretch_that_the_loss_does_not_fall_from_is_no_plateau() -> None:
    # It stands, rises for a while and comes back, but never falls by a tenth.
    losses = dict(enumerate([1.0, 1.0, 1.0, 1.0, 1.2, 0.95]))
    assert plateaus(losses) == []


def test_losses_without_a_logarithm_are_refused() -> None:
    with pytest.raises(ValueError, match="above zero"):
        plateaus({0: 1.0, 1: 0.0})
