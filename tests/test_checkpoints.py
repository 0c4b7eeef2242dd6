"""The shipped checkpoints are what their cards say."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import zoo
from datamodules import EpisodeSpec
from tests.conftest import MakeCheckpoint
from zoo.commands.measure import measure
from zoo.evaluation.compare import losses
from zoo.evaluation.episodes import evaluation_batches
from zoo.hub.card import SCHEMA_VERSION
from zoo.hub.directory import read_card
from zoo.hub.find import CHECKPOINTS
from zoo.metrics.text import number_text
from zoo.references import scoring_of
from zoo.training.remeasure import measured_again

NAMES = sorted(path.parent.name for path in CHECKPOINTS.glob("*/card.json"))
OLD = Path(__file__).parent / "data" / "schema_1" / "gd_ssm.linear"


def error_on_a_tenth(name: str) -> float:
    """The model's mean loss at the query on the first tenth of its card's test episodes."""
    card, model = read_card(CHECKPOINTS / name), zoo.load(name)
    spec = EpisodeSpec(**card.data)
    metric = "half_mse" if spec.output == "value" else "cross_entropy"
    number = card.metrics[f"test/{metric}_query"].num_episodes
    left, found = number // 10, []
    for batch in evaluation_batches(spec, number):
        rows = batch.rows(0, left)
        found.append(losses(model, rows, scoring_of(spec))[metric][:, -1].double())
        left -= len(found[-1])
        if left == 0:
            break
    return torch.cat(found).mean().item()


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_checkpoint_reproduces_its_error_on_a_tenth(name: str) -> None:
    metrics = read_card(CHECKPOINTS / name).metrics
    (stated,) = (metrics[key] for key in metrics if key.endswith("_query_first_tenth"))
    assert error_on_a_tenth(name) == pytest.approx(stated.value, rel=1e-4)


@pytest.mark.cards
@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_checkpoint_reproduces_its_card(name: str) -> None:
    """Every mean over episodes: errors, accuracy, ratios to algorithms, agreement."""
    stated = read_card(CHECKPOINTS / name).metrics
    found = measured_again(CHECKPOINTS / name).metrics
    assert stated.keys() == found.keys()
    for metric in stated:
        value = found[metric].value
        assert value == pytest.approx(stated[metric].value, rel=1e-4), metric
        assert found[metric].num_episodes == stated[metric].num_episodes, metric


def test_shipped_models_with_heavy_tails_were_measured_on_ten_times_as_many() -> None:
    for name in NAMES:
        card = read_card(CHECKPOINTS / name)
        heavy = zoo.load(name).heavy_tailed
        assert heavy == (
            card.architecture == "linear_transformer" or card.model_args.get("num_steps", 1) > 1
        )
        (number,) = {m.num_episodes for m in card.reference_metrics.values()}
        of_tables = card.training.study.startswith("tabular/")  # contexts of 200 rows
        assert number == (100_000 if heavy else 1_000 if of_tables else 10_000), name


def test_cards_name_the_paper_of_their_architecture() -> None:
    for name in NAMES:
        card = read_card(CHECKPOINTS / name)
        assert card.paper == zoo.load(name).paper
        assert ("2410.11687" in card.paper) == card.architecture.startswith("gd_ssm"), name


@pytest.mark.parametrize(("decay", "paper"), [("head", "2412.06464"), ("key", "2510.26692")])
def test_a_card_names_the_paper_of_the_decay(
    decay: str, paper: str, make_checkpoint: MakeCheckpoint
) -> None:
    checkpoint = make_checkpoint("gated_delta_net", decay=decay, num_layers=1, d_model=8)
    assert measured_again(checkpoint, 50).paper == f"https://arxiv.org/abs/{paper}"


def test_a_checkpoint_measured_again_keeps_all_that_is_not_measured(tmp_path: Path) -> None:
    shutil.copytree(OLD, tmp_path / "gd_ssm.linear")
    old = read_card(OLD)
    new = measured_again(tmp_path / "gd_ssm.linear", 50)
    measured = {"metrics", "reference_metrics", "curves", "schema_version"}
    assert new.model_dump(exclude=measured) == old.model_dump(exclude=measured)
    assert (old.schema_version, new.schema_version) == (1, SCHEMA_VERSION)
    error = new.metrics["test/half_mse_query"]
    assert error.num_episodes == 50
    assert error.median is not None
    assert error.tail_share is not None
    assert old.metrics.keys() <= new.metrics.keys()


def test_the_command_writes_the_card_and_says_what_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(OLD, tmp_path / "gd_ssm.linear")
    measure(tmp_path / "gd_ssm.linear", 50)
    card = read_card(tmp_path / "gd_ssm.linear")
    assert card.metrics["test/half_mse_query"].num_episodes == 50
    old = number_text(read_card(OLD).metrics["test/half_mse_query"])
    new = number_text(card.metrics["test/half_mse_query"])
    assert f"  test/half_mse_query: {old} -> {new}\n" in capsys.readouterr().out


def test_shipped_checkpoints_load_without_lightning_and_hydra() -> None:
    code = (
        "import sys, zoo\n"
        f"for name in {NAMES}: zoo.load(name)\n"
        "assert not {'lightning', 'hydra', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
