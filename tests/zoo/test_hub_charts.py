"""The figures of the leaderboard."""

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.conftest import MakeCheckpoint
from zoo.hub.card import Card
from zoo.hub.charts import chart, shows
from zoo.hub.io import read_card
from zoo.hub.pages import comparisons

CURVES = {
    "model": [{"value": 2.0 - 0.3 * i, "ci95": 0.1} for i in range(6)],
    "zero": [{"value": 2.0, "ci95": 0.1}, None, *[{"value": 2.0, "ci95": 0.1}] * 4],
}


@pytest.fixture
def card(make_checkpoint: MakeCheckpoint) -> Card:
    card = read_card(make_checkpoint())
    return changed(card, curves=CURVES, data=card.data | {"function": {"name": "linear"}})


def changed(card: Card, **changes: Any) -> Card:
    return Card.model_validate(card.model_dump() | changes)


def test_a_chart_names_models_and_algorithms_and_says_what_it_shows(card: Card) -> None:
    (comparison,) = comparisons([card])
    svg = chart(comparison)
    texts = {"".join(text.itertext()).strip() for text in ElementTree.fromstring(svg).iter()}
    assert {"gd_ssm.test", "zero", "parameters", "numbers in the state", "0.5*MSE"} <= texts
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


def test_a_slug_cannot_leave_its_folder(card: Card) -> None:
    function = {"function": {"name": "../../x"}}
    (comparison,) = comparisons([changed(card, data=card.data | function)])
    assert Path(comparison.slug).name == comparison.slug
