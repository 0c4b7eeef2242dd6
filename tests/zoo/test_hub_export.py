"""What is made from cards: the index, model cards, the leaderboard."""

import json
import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

import zoo
from tests.conftest import MakeCheckpoint
from zoo.hub.card import Card, CheckpointError, MetricEntry
from zoo.hub.directory import WEIGHTS, read_card
from zoo.hub.export import BEGIN, CHARTS, END, PAGE, export, stale_files, write_generated
from zoo.hub.find import CHECKPOINTS
from zoo.hub.index import build_index, read_index
from zoo.hub.io import check_checkpoint
from zoo.hub.leaderboard import by_training, leaderboard, over_seeds
from zoo.hub.pages import card_page, comparisons, model_card
from zoo.metrics.text import number_text

# A checkpoint and its index as they were before medians and tails.
OLD = Path(__file__).parents[1] / "data" / "schema_1"


def metric(value: float) -> dict[str, Any]:
    return {"value": value, "ci95": 0.01, "num_episodes": 100, "eval_seed": 0}


@pytest.fixture
def checkpoint(make_checkpoint: MakeCheckpoint) -> Path:
    directory = make_checkpoint()
    edit(directory, lambda card: card["data"].update(function={"name": "linear"}))
    return directory


def edit(checkpoint: Path, change: Callable[[Any], Any]) -> None:
    card = json.loads((checkpoint / "card.json").read_text())
    change(card)
    (checkpoint / "card.json").write_text(json.dumps(card))


def changed(card: Card, **changes: Any) -> Card:
    return Card.model_validate(card.model_dump() | changes)


def test_nothing_made_from_the_shipped_cards_is_stale() -> None:
    stale = [str(path.relative_to(CHECKPOINTS.parent)) for path in stale_files()]
    assert stale == [], "python -m zoo index renews them"


def test_shipped_checkpoints_are_whole_and_small() -> None:
    for name in read_index(CHECKPOINTS).checkpoints:
        check_checkpoint(CHECKPOINTS / name)
    sizes = [path.stat().st_size for path in CHECKPOINTS.rglob("*") if path.is_file()]
    assert sum(sizes) < 20 * 2**20


@pytest.mark.parametrize("dtype", [None, torch.float64, torch.bfloat16])
def test_loaded_weights_lie_where_vector_code_expects_them(dtype: torch.dtype | None) -> None:
    names = read_index(CHECKPOINTS).checkpoints
    assert len(names) >= 40
    for name in names:
        model = zoo.load(name, device="cpu", dtype=dtype)
        for key, tensor in [*model.named_parameters(), *model.named_buffers()]:
            assert tensor.data_ptr() % 64 == 0, (name, key)


def test_a_loaded_model_predicts_the_same_with_and_without_gradients() -> None:
    for name in zoo.list_checkpoints("*.relu_network"):
        model = zoo.load(name)
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(6, 11, model.d_x, generator=generator)
        y = torch.randn(6, 11, model.d_y, generator=generator)
        predictions = model(x, y), model.predict_query(x, y)
        model.requires_grad_()
        for one, other in zip(predictions, (model(x, y), model.predict_query(x, y)), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True, msg=name)


def test_an_exported_run_is_the_same_model_under_its_name(checkpoint: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    checkpoint.rename(run / "checkpoint")
    exported = export(run, "gd_ssm.linear", tmp_path / "target")
    assert exported == tmp_path / "target" / "gd_ssm.linear"
    before, after = read_card(run / "checkpoint"), read_card(exported)
    assert after == changed(before, name="gd_ssm.linear")
    assert stale_files(tmp_path / "target") == {}
    zoo.load("gd_ssm.linear", url=str(tmp_path / "target"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda c: (c / WEIGHTS).write_bytes(b"x"), "truncated or altered"),
        (lambda c: edit(c, lambda card: card.update(metrics={})), "has none of the metrics"),
        (lambda c: edit(c, lambda card: card["data"].pop("function")), "must say function.name"),
        (lambda c: edit(c, lambda card: card["data"].update(noise="x")), "must say function.name"),
    ],
)
def test_a_run_that_cannot_be_listed_is_not_exported(
    checkpoint: Path, tmp_path: Path, damage: Callable[[Path], Any], message: str
) -> None:
    damage(checkpoint)
    with pytest.raises(CheckpointError, match=message):
        export(checkpoint, "gd_ssm.linear", tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_the_index_refuses_a_directory_of_another_name(checkpoint: Path) -> None:
    checkpoint.rename(checkpoint.with_name("gd_ssm.other"))
    with pytest.raises(CheckpointError, match=r"is the card of gd_ssm.test, not of gd_ssm.other"):
        build_index(checkpoint.parent)


@pytest.mark.parametrize("end", [".writing", ".replaced"])
def test_what_another_process_left_behind_breaks_nothing(
    checkpoint: Path, tmp_path: Path, end: str
) -> None:
    target = tmp_path / "target"
    for name, data in (("gd_ssm.a", (checkpoint / "card.json").read_text()), ("gd_ssm.b", "{")):
        (target / (name + end)).mkdir(parents=True)
        (target / (name + end) / "card.json").write_text(data)
    export(checkpoint, "gd_ssm.linear", target)
    assert [*read_index(target).checkpoints] == ["gd_ssm.linear"]
    assert stale_files(target) == {}
    with pytest.raises(CheckpointError, match="ends as that of a directory being written"):
        export(checkpoint, f"gd_ssm.linear{end}", target)


def test_exports_at_once_are_all_listed(checkpoint: Path, tmp_path: Path) -> None:
    names = [f"gd_ssm.m{n}" for n in range(8)]
    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(lambda name: export(checkpoint, name, tmp_path / "target"), names))
    assert [*read_index(tmp_path / "target").checkpoints] == names
    assert stale_files(tmp_path / "target") == {}


def test_what_is_generated_waits_for_an_export(tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        with FileLock(tmp_path / ".lock"):
            waiting = pool.submit(write_generated, tmp_path)
            with pytest.raises(TimeoutError):
                waiting.result(timeout=0.3)
        assert waiting.result(timeout=60) == [tmp_path / "index.json"]


def test_an_empty_directory_has_an_index(tmp_path: Path) -> None:
    assert write_generated(tmp_path) == [tmp_path / "index.json"]
    assert read_index(tmp_path).checkpoints == {}


def test_only_what_was_measured_on_the_same_episodes_is_compared(checkpoint: Path) -> None:
    card = read_card(checkpoint)
    better = changed(card, name="gd_ssm.b", metrics={"test/half_mse_query": metric(0.1)})
    better = changed(better, data=card.data | {"curriculum": {"steps": 10}})  # tested without it
    noisy = changed(card, name="gd_ssm.c", data=card.data | {"noise": 0.5})
    same, other = comparisons([card, noisy, better])
    assert [row.name for row in same.rows] == ["gd_ssm.b", "gd_ssm.test", "zero"]
    assert [row.name for row in other.rows] == ["gd_ssm.c", "zero"]
    assert other.episodes == "linear d=3 N=6 noise=0.5"


def test_the_leaderboard_shows_what_the_card_says(checkpoint: Path) -> None:
    ratio = {"test/ratio_to_gradient_descent": metric(1.25)}
    card = read_card(checkpoint)
    card = changed(card, metrics=card.model_dump()["metrics"] | ratio)
    row = next(line for line in leaderboard([card]).splitlines() if "gd_ssm.test" in line)
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    numbers = [
        f"{card.num_parameters:,}",
        "15",
        "0.200 ± 0.010 †",
        "",
        "",
        "1.250 ± 0.010 †",
        "100",
        "64",
        "1",
        "",
    ]
    assert cells == ["`gd_ssm.test`", "interleaved", "", "", "1, *measurement*", *numbers]


def of_seeds(card: Card, *values: float, **training: Any) -> list[Card]:
    """A training of several seeds, by their errors."""
    return [
        changed(
            card,
            name=card.name if seed == 0 else f"{card.name}@{seed}",
            metrics={"test/half_mse_query": metric(value)},
            training=card.training.model_dump() | {"seed": seed} | training,
        )
        for seed, value in enumerate(values)
    ]


def test_a_checkpoint_of_another_seed_has_it_in_its_name(checkpoint: Path, tmp_path: Path) -> None:
    edit(checkpoint, lambda card: card["training"].update(seed=12))
    target = tmp_path / "target"
    export(checkpoint, "gd_ssm.linear", target)
    assert export(checkpoint, "gd_ssm.linear@12", target).name == "gd_ssm.linear@12"
    assert zoo.list_checkpoints("gd_ssm.l*@*", url=str(target)) == ["gd_ssm.linear@12"]
    zoo.load("gd_ssm.linear@12", url=str(target))
    of_another = "is of seed 12, so it may be gd_ssm.linear or gd_ssm.linear@12, got .*@1'"
    with pytest.raises(CheckpointError, match=of_another):
        export(checkpoint, "gd_ssm.linear@1", target)
    for name in ("gd_ssm.linear@012", "gd_ssm.linear@", "gd_ssm.linear@a", "gd_ssm.@12"):
        with pytest.raises(CheckpointError, match="is not a name|is of seed"):
            export(checkpoint, name, target)
    assert sorted(path.name for path in target.glob("*/")) == ["gd_ssm.linear", "gd_ssm.linear@12"]


def test_seeds_of_a_training_are_one_line_with_their_interval(checkpoint: Path) -> None:
    judged = [{"convergence": {"verdict": v}} for v in ("converged", "not converged", "converged")]
    cards = of_seeds(read_card(checkpoint), 0.2, 0.21, 0.22)
    cards = [
        changed(card, training=card.training.model_dump() | {"schedule": schedule})
        for card, schedule in zip(cards, judged, strict=True)
    ]
    (line,) = [line for line in leaderboard(cards).splitlines() if "gd_ssm.test" in line]
    # Student's t: 4.303 * 0.01 / sqrt(3).
    start = "| `gd_ssm.test` | interleaved |  |  | 3, 2 of 3 converged |"
    assert line.startswith(f"{start} {cards[0].num_parameters} | 15 | 0.210 ± 0.025 |")


def test_a_training_of_one_seed_is_a_measurement_whatever_rates_were_tried(
    checkpoint: Path,
) -> None:
    card = read_card(checkpoint)
    tried = {"rates": {"0.001": {"0": 0.2}, "0.003": {"0": 0.3}}, "lr": 0.001}
    schedule = {"convergence": {"verdict": "converged"}}
    for training, said in (
        ({}, "| 1, *measurement* |"),
        ({"num_seeds": 3}, "| 1 of 3 |"),
        ({"optimizer": tried}, "| 1, *measurement* |"),
        ({"optimizer": tried, "num_seeds": 3}, "| 1 of 3 |"),
        ({"schedule": schedule}, "| 1, *measurement*, converged |"),
    ):
        assert said in leaderboard(of_seeds(card, 0.2, **training))


def test_numbers_of_one_seed_are_marked_and_no_others(checkpoint: Path) -> None:
    card = read_card(checkpoint)
    one, several = (leaderboard(of_seeds(card, *errors)) for errors in ([0.2], [0.2, 0.21]))
    assert [line.count("†") for line in one.splitlines() if "| *zero* |" in line] == [0]
    assert [line.count("†") for line in one.splitlines() if "`gd_ssm.test`" in line] == [1]
    assert "†" not in several


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        ({"lr": 0.003}, "0.003 of 3"),
        ({"lr": 0.001}, "0.001 of 3, edge"),
        ({"lr": 0.01}, "0.01 of 3, edge"),
        ({"lr": 0.003, "rates_fell_short": {"0.001": 2}}, "0.003 of 3, next best"),
        ({"lr": 0.001, "rates_given_up": {"0.003": 1}}, "0.001 of 3, next best, edge"),
    ],
)
def test_rate_and_study_of_a_training_are_those_of_its_card(
    chosen: dict[str, Any], said: str, checkpoint: Path
) -> None:
    card = read_card(checkpoint)
    tried = {"rates": {"0.001": {"0": 0.2}, "0.003": {"0": 0.3}, "0.01": {}}} | chosen
    cards = of_seeds(card, 0.2, optimizer=tried, study="architectures/noisy-s5")
    (line,) = [line for line in leaderboard(cards).splitlines() if "gd_ssm.test" in line]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert (cells[3], cells[-1]) == (said, "architectures")


@pytest.mark.parametrize(("positions", "said"), [("", ""), ("last", "query"), ("all", "all")])
def test_where_the_loss_was_and_whether_episodes_grew_stands_in_the_line(
    positions: str, said: str, checkpoint: Path
) -> None:
    card = read_card(checkpoint)
    growing = {"dims": {"start": 1, "end": card.data["d_x"], "increment": 1, "every": 10}}
    for curriculum, episodes in ((None, "64"), (growing, "64, growing")):
        data = card.data | {"curriculum": curriculum}
        (told,) = of_seeds(changed(card, data=data), 0.2, positions=positions)
        (line,) = [line for line in leaderboard([told]).splitlines() if "gd_ssm.test" in line]
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert (cells[2], cells[-3]) == (said, episodes)


def test_what_is_written_by_hand_repeats_nothing_that_cards_say() -> None:
    by_hand = PAGE.read_text().partition(BEGIN)[0]
    assert not re.search(r"^\|", by_hand, re.M), "a table of what is in cards"
    cards = [read_card(path.parent) for path in CHECKPOINTS.glob("*/card.json")]
    for number in {n for card in cards for n in (card.training.episodes, card.training.steps)}:
        assert not re.search(rf"\b{number:,}\b", by_hand)


def test_trainings_that_are_shipped_without_some_of_their_seeds_are_named_by_hand() -> None:
    by_hand = PAGE.read_text().partition(BEGIN)[0]
    cards = [read_card(path.parent) for path in CHECKPOINTS.glob("*/card.json")]
    parts = [c for c in by_training(cards) if 1 < len(c) < c[0].training.num_seeds]
    assert [cards[0].name for cards in parts if f"`{cards[0].name}`" not in by_hand] == []


def test_a_seed_of_another_training_stands_by_itself(checkpoint: Path) -> None:
    first, second, third = of_seeds(read_card(checkpoint), 0.2, 0.3, 0.4)
    other = changed(second, training=second.training.model_dump() | {"steps": 7})
    assert by_training([third, other, first]) == [[first, third], [other]]


def test_seeds_that_differ_by_more_than_their_mean_have_their_range(checkpoint: Path) -> None:
    page = leaderboard(of_seeds(read_card(checkpoint), 0.1, 0.1, 4.0))
    assert "| 1.4 (seeds 0.1 to 4) |" in page


def test_over_seeds_a_heavy_tail_has_the_range_of_all() -> None:
    heavy = {"ci95": None, "median": 0.1, "tail_share": 0.5, "lowest": 0.3, "highest": 9.0}
    light = {"median": 0.2, "tail_share": 0.01}
    entries = [MetricEntry(**metric(0.2) | light), MetricEntry(**metric(0.4) | heavy)]
    found = over_seeds(entries)
    assert number_text(found) == "0.3 (heavy tail, 0.2 to 9)"
    assert (found.median, found.tail_share) == (pytest.approx(0.15), 0.5)


def test_a_heavy_tail_has_the_error_of_each_seed_and_no_mean_of_them(checkpoint: Path) -> None:
    heavy = {"ci95": None, "median": 0.1, "tail_share": 0.5, "lowest": 0.3, "highest": 9.0}
    cards = [
        changed(card, metrics={"test/half_mse_query": metric(value) | heavy})
        for card, value in zip(of_seeds(read_card(checkpoint), 0, 0), (0.4, 0.6), strict=True)
    ]
    (line,) = [line for line in leaderboard(cards).splitlines() if "gd_ssm.test" in line]
    assert "| by seed 0.4, 0.6 (heavy tail, 0.3 to 9) | 0.1 | 50.0 % |" in line


@pytest.mark.parametrize(
    ("training", "said"),
    [
        ({}, "- one seed, one rate\n"),
        ({"num_seeds": 3}, "- one of 3 seeds, one rate\n"),
        (
            {
                "num_seeds": 5,
                "study": "architectures/noisy",
                "optimizer": {
                    "lr": 0.003,
                    "rates": {"0.01": {}, "0.003": {"0": 0.25, "1": 0.5}},
                    "rates_steps": 1500,
                },
                "schedule": {"convergence": {"verdict": "not converged"}},
            },
            "- one of 5 seeds; learning rate 0.003, the best in validation after 1,500 steps of "
            "0.003 (0.375), 0.01 (diverged); not converged; training architectures/noisy\n",
        ),
    ],
)
def test_a_page_says_how_many_seeds_and_rates_stand_behind_a_model(
    checkpoint: Path, training: dict[str, Any], said: str
) -> None:
    card = read_card(checkpoint)
    assert said in card_page(changed(card, training=card.training.model_dump() | training))


def test_a_card_holds_nothing_that_a_card_without_it_has_as_well(checkpoint: Path) -> None:
    text = (checkpoint / "card.json").read_text()
    assert not any(name in text for name in ("lowest", "num_seeds", "study", "notes", "curves"))
    assert read_card(checkpoint).metrics["test/half_mse_query"].lowest is None


def test_pages_show_median_and_tail_and_no_interval_of_a_heavy_one(checkpoint: Path) -> None:
    tail = {"median": 0.12, "tail_share": 0.83, "lowest": 0.15, "highest": 20.4}
    heavy = metric(0.2) | {"ci95": None} | tail
    card = changed(read_card(checkpoint), metrics={"test/half_mse_query": heavy})
    for page in (leaderboard([card]), card_page(card)):
        assert re.search(r"\| 0.2 \(heavy tail, 0.15 to 20\)( †)? \| 0.12 \| 83.0 % \|", page)


def test_models_measured_on_more_episodes_are_compared_with_the_others(checkpoint: Path) -> None:
    card = read_card(checkpoint)
    more = {"test/half_mse_query": metric(0.1) | {"num_episodes": 1_000}}
    (found,) = comparisons([card, changed(card, name="gd_ssm.b", metrics=more)])
    assert found.num_episodes == "100 or 1,000"


def test_a_card_and_an_index_of_schema_1_still_load(tmp_path: Path) -> None:
    shutil.copytree(OLD, tmp_path / "old")
    card = read_card(tmp_path / "old" / "gd_ssm.linear")
    assert card.schema_version == 1
    assert card.metrics["test/half_mse_query"].median is None
    assert number_text(card.metrics["test/half_mse_query"]) == "0.2074 ± 0.0026"
    assert "gd_ssm.linear" in leaderboard([card])
    assert "| 0.2074 ± 0.0026 |  |  |" in card_page(card)
    (index,) = [read_index(tmp_path / "old")]
    assert index.schema_version == 1
    model = zoo.load("gd_ssm.linear", url=str(tmp_path / "old"))
    assert model.state_dict().keys() == zoo.load("gd_ssm.linear").state_dict().keys()


def test_the_leaderboard_goes_between_its_marks(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "zoo.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    monkeypatch.setattr("zoo.hub.export.CHECKPOINTS", checkpoint.parent)
    monkeypatch.setattr("zoo.hub.export.PAGE", page)
    assert page in write_generated(checkpoint.parent)
    assert page.read_text().startswith(f"before\n{BEGIN}\n")
    assert page.read_text().endswith(f"{END}\nafter\n")
    assert "old" not in page.read_text()
    assert "gd_ssm.test" in page.read_text()
    (chart,) = (tmp_path / CHARTS).glob("*.svg")
    unwanted = chart.with_name("sine_d1_N10.svg")
    unwanted.write_bytes(chart.read_bytes())
    assert stale_files(checkpoint.parent) == {unwanted: None}
    assert write_generated(checkpoint.parent) == [unwanted]
    assert [*(tmp_path / CHARTS).glob("*.svg")] == [chart]
    page.write_text("no marks")
    with pytest.raises(CheckpointError, match="has no place for the leaderboard"):
        write_generated(checkpoint.parent)
    assert PAGE.read_text().count(BEGIN) == 1


def test_a_card_cannot_write_markdown_of_its_own(checkpoint: Path) -> None:
    card = read_card(checkpoint)
    page = model_card(changed(card, notes="<script>\n# [x](http://y) | `z`", license='"\nx: y'))
    assert "<script>" not in page
    assert "\n# [" not in page
    assert '\nlicense: "\\"\\nx: y"\n' in page
