"""The shipped checkpoints are what their cards say."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import zoo
from benchmarks.cards import measured_again
from datamodules import EpisodeSpec
from evaluate import CHECKPOINTS, evaluation_episodes
from zoo.analysis.compare import losses
from zoo.hub.card import SCHEMA_VERSION
from zoo.hub.io import read_card

NAMES = sorted(path.parent.name for path in CHECKPOINTS.glob("*/card.json"))
OLD = Path(__file__).parent / "data" / "schema_1" / "gd_ssm.linear"


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_checkpoint_reproduces_its_error(name: str) -> None:
    card = read_card(CHECKPOINTS / name)
    model = zoo.load(name)
    spec = EpisodeSpec(**card.data)
    metric = "half_mse" if spec.output == "value" else "cross_entropy"
    stated = card.metrics[f"test/{metric}_query"]
    x, y, target, _ = evaluation_episodes(spec, stated.num_episodes, "cpu")
    found = losses(model, x, y, target, spec.output == "logits")[metric][:, -1]
    assert found.double().mean().item() == pytest.approx(stated.value, rel=1e-4)


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


def test_shipped_checkpoints_load_without_lightning_and_hydra() -> None:
    code = (
        "import sys, zoo\n"
        f"for name in {NAMES}: zoo.load(name)\n"
        "assert not {'lightning', 'hydra', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
