"""The figures of the leaderboard."""

from typing import Any
from xml.etree import ElementTree

import pytest

from tests.conftest import MakeCheckpoint
from zoo.hub.card import Card
from zoo.hub.charts import chart, shows
from zoo.hub.directory import read_card
from zoo.hub.pages import comparisons
from zoo.metrics.drawing import style_of

CURVES = {
    "model": [{"value": 2.0 - 0.3 * i, "ci95": 0.1} for i in range(6)],
    "zero": [{"value": 2.0, "ci95": 0.1}, None, *[{"value": 2.0, "ci95": 0.1}] * 4],
}


@pytest.fixture
def card(make_checkpoint: MakeCheckpoint) -> Card:
    card = read_card(make_checkpoint())
    return changed(card, curves=CURVES, data=card.data | {"function": {"name": "linear"}})


def texts(svg: bytes) -> set[str]:
    return {"".join(text.itertext()).strip() for text in ElementTree.fromstring(svg).iter()}


def changed(card: Card, **changes: Any) -> Card:
    return Card.model_validate(card.model_dump() | changes)


def test_a_chart_names_models_and_algorithms_and_says_what_it_shows(card: Card) -> None:
    (comparison,) = comparisons([card])
    svg = chart(comparison)
    shown = texts(svg)
    assert {"gd_ssm.test", "zero", "parameters", "numbers in the state", "0.5*MSE"} <= shown
    assert "examples in the context" in shown
    assert shows(svg, comparison)
    assert chart(comparison) == svg


@pytest.mark.parametrize(
    "change",
    [
        {"curves": CURVES | {"model": CURVES["model"][:5]}},
        {"state_size": 16},
        {"name": "gd_ssm.other"},
    ],
)
def test_a_chart_of_other_numbers_is_stale(card: Card, change: dict[str, Any]) -> None:
    (before,), (after,) = comparisons([card]), comparisons([changed(card, **change)])
    assert not shows(chart(before), after)


def test_kinds_of_episodes_with_one_label_have_charts_of_their_own(card: Card) -> None:
    inputs = {"inputs": {"name": "gaussian"}}
    other = changed(card, name="gd_ssm.other", data=card.data | inputs)
    slugs = [comparison.slug for comparison in comparisons([card, other])]
    assert slugs == ["linear_d3_N6_1_", "linear_d3_N6_2_"]


def test_a_new_kind_of_episodes_does_not_rename_others(card: Card) -> None:
    other = changed(card, name="gd_ssm.other", data=card.data | {"inputs": {"name": "gaussian"}})
    before = {comparison.slug for comparison in comparisons([card, other])}
    early = changed(card, name="gd_ssm.early", data=card.data | {"function": {"name": "a"}})
    after = {comparison.slug for comparison in comparisons([card, other, early])}
    assert after == before | {"a_d3_N6"}


def test_large_and_small_noise_have_figures_of_their_own(card: Card) -> None:
    cards = [changed(card, data=card.data | {"noise": noise}) for noise in (1e5, 1e6, 1e-6)]
    slugs = {comparison.slug for comparison in comparisons(cards)}
    assert slugs == {f"linear_d3_N6_noise{noise}" for noise in ("100000", "1e_06", "1e-06")}


def test_without_curves_models_and_algorithms_are_still_named(card: Card) -> None:
    (comparison,) = comparisons([changed(card, curves={})])
    shown = texts(chart(comparison))
    assert {"gd_ssm.test", "zero", "parameters", "numbers in the state", "0.5*MSE"} <= shown
    assert "examples in the context" not in shown


def test_every_seed_has_its_curve_and_its_dots_under_one_label(card: Card) -> None:
    seeds = [
        changed(card, name=name, training=card.training.model_dump() | {"seed": seed})
        for seed, name in enumerate(("gd_ssm.test", "gd_ssm.test@1", "gd_ssm.test@2"))
    ]
    (one,), (three,) = comparisons(seeds[:1]), comparisons(seeds)
    style = f"stroke: {style_of('gd_ssm')['color']}".encode()
    assert chart(three).count(style) > chart(one).count(style)
    assert "gd_ssm.test" in texts(chart(three))
    assert not any("@" in text for text in texts(chart(three)) if "gd_ssm" in text)


def test_any_number_of_models_and_algorithms_fits_into_a_chart(card: Card) -> None:
    solvers = {f"solver_{n}": card.reference_metrics["zero"].model_dump() for n in range(12)}
    curves = CURVES | dict.fromkeys(solvers, CURVES["zero"])
    cards = [
        changed(card, name=f"gd_ssm.m{n}", curves=curves, reference_metrics=solvers)
        for n in range(24)
    ]
    (comparison,) = comparisons(cards)
    assert {*solvers, *(card.name for card in cards)} <= texts(chart(comparison))
