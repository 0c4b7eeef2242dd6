"""Checkpoint directories: whole, checked, and without Lightning."""

import copy
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import zoo
from zoo.hub.card import SCHEMA_VERSION, Card, CheckpointError
from zoo.hub.directory import card_bytes, read_card
from zoo.hub.io import save_checkpoint
from zoo.predictor import Predictor
from zoo.training.card import MOST_POINTS, _thinned


@pytest.fixture
def model() -> Predictor:
    return zoo.create_model("gd_ssm", d_x=3, d_y=3)


@pytest.fixture
def checkpoint(tmp_path: Path, model: Predictor, card_fields: dict[str, Any]) -> Path:
    save_checkpoint(tmp_path / "checkpoint", model, card_fields)
    return tmp_path / "checkpoint"


def edit_card(checkpoint: Path, change: Callable[[dict[str, Any]], None]) -> None:
    card = json.loads((checkpoint / "card.json").read_text())
    change(card)
    (checkpoint / "card.json").write_text(json.dumps(card))


def replace_weights(checkpoint: Path, weights: dict[str, torch.Tensor]) -> None:
    """Other weights with a card that vouches for them."""
    path = checkpoint / "model.safetensors"
    save_file(weights, path)
    data = path.read_bytes()
    entry = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    edit_card(checkpoint, lambda card: card["files"].update({path.name: entry}))


def test_what_is_loaded_is_what_was_saved(checkpoint: Path, model: Predictor) -> None:
    loaded = zoo.load(checkpoint)
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    card = read_card(checkpoint)
    assert card.schema_version == SCHEMA_VERSION
    assert card.num_parameters == sum(p.numel() for p in model.parameters())
    assert card.dtype == "float32"
    assert next(zoo.load(str(checkpoint), dtype=torch.float64).parameters()).dtype == torch.float64


def test_the_card_stays_with_the_model_and_out_of_its_weights(
    checkpoint: Path, tmp_path: Path, card_fields: dict[str, Any]
) -> None:
    loaded = zoo.load(checkpoint)
    assert loaded.card == read_card(checkpoint)
    assert copy.deepcopy(loaded).card == loaded.card
    assert not any("card" in name for name in loaded.state_dict())
    torch.save(loaded.state_dict(), tmp_path / "weights.pt")
    torch.load(tmp_path / "weights.pt", weights_only=True)
    assert b"zoo" not in (tmp_path / "weights.pt").read_bytes()
    assert zoo.create_model("gd_ssm", d_x=3, d_y=3).card is None
    save_checkpoint(tmp_path / "again", loaded, card_fields)
    again = (tmp_path / "again" / "model.safetensors").read_bytes()
    assert again == (checkpoint / "model.safetensors").read_bytes()


def test_a_loaded_model_streams_without_a_history(checkpoint: Path) -> None:
    model = zoo.load(checkpoint)
    state = model.observe(model.init_state(1), torch.zeros(1, 2, 3), torch.zeros(1, 2, 3))
    assert not state.Z.requires_grad


def test_loading_touches_no_global_random_state(checkpoint: Path) -> None:
    before = torch.random.get_rng_state()
    zoo.load(checkpoint)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_zoo_loads_without_lightning_or_hydra(checkpoint: Path) -> None:
    code = (
        "import sys, zoo; zoo.load(sys.argv[1]);"
        "print([m for m in sys.modules if m.split('.')[0] in"
        " ('lightning', 'pytorch_lightning', 'hydra', 'omegaconf', 'torchmetrics', 'matplotlib')])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(checkpoint)], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"


def test_a_bare_name_is_not_a_directory(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(checkpoint.parent)
    with pytest.raises(ValueError, match="'checkpoint' is a name.*'./checkpoint'"):
        zoo.load("checkpoint")
    zoo.load("./checkpoint")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda c: (c / "card.json").unlink(), "has no card.json"),
        (lambda c: (c / "model.safetensors").unlink(), "has no model.safetensors"),
        (
            lambda c: (c / "model.safetensors").write_bytes(
                (c / "model.safetensors").read_bytes()[:-7]
            ),
            "bytes, its card says .*truncated",
        ),
        (lambda c: (c / "model.safetensors").write_bytes(b""), "holds 0 bytes"),
        (
            lambda c: (c / "model.safetensors").write_bytes(
                (c / "model.safetensors").read_bytes()[:-1] + b"\x17"
            ),
            "has sha256 .*altered",
        ),
        (lambda c: (c / "card.json").write_text("{"), "is not JSON"),
        (lambda c: (c / "card.json").write_bytes(b"\xff\xfe"), "is not JSON"),
        (lambda c: (c / "card.json").write_text("[" * 500_000), "is not JSON"),
        (lambda c: (c / "card.json").write_text("[1]"), "is not a card"),
        (lambda c: (c / "card.json").write_text("x" * 2_000_000), "a card at most"),
        (
            lambda c: edit_card(c, lambda card: card.update(schema_version=SCHEMA_VERSION + 1)),
            f"schema_version {SCHEMA_VERSION + 1}, newer than {SCHEMA_VERSION}.*update",
        ),
        (lambda c: edit_card(c, lambda card: card.pop("architecture")), "architecture: Field req"),
        (lambda c: edit_card(c, lambda card: card.update(surprise=1)), "surprise: Extra inputs"),
        (
            lambda c: edit_card(c, lambda card: card.update(architecture="gd_sm")),
            "unknown model 'gd_sm'. Did you mean 'gd_ssm'",
        ),
        (
            lambda c: edit_card(c, lambda card: card["model_args"].update(depth=2)),
            "argument of gd_ssm 'depth'",
        ),
        (
            lambda c: edit_card(
                c, lambda card: [card[key].update(d_x=4) for key in ("model_args", "data")]
            ),
            r"has shape \(3, .*the model has \(4, ",
        ),
        (
            lambda c: edit_card(
                c, lambda card: card.update(files={"../x": card["files"].popitem()[1]})
            ),
            "expected model.safetensors alone",
        ),
    ],
)
def test_a_damaged_checkpoint_is_refused_with_the_cause(
    checkpoint: Path, damage: Callable[[Path], Any], message: str
) -> None:
    damage(checkpoint)
    with pytest.raises(CheckpointError, match=message):
        zoo.load(checkpoint)


def test_weights_that_do_not_fit_are_refused_even_with_a_right_hash(
    checkpoint: Path, model: Predictor
) -> None:
    weights = load_file(checkpoint / "model.safetensors")
    for change, message in [
        ({"layer.Q": torch.zeros(3, 4)}, r"layer.Q has shape \(3, 4\), the model has \(3, 3\)"),
        (
            {"layer.Q": torch.zeros(3, 3, dtype=torch.int64)},
            "layer.Q has dtype I64, .*float32",
        ),
        ({"layer.Q": torch.full((3, 3), torch.nan)}, "layer.Q is not finite"),
        ({"layer.extra": torch.zeros(1)}, r"holds \['layer.extra'\] beside"),
    ]:
        replace_weights(checkpoint, weights | change)
        with pytest.raises(CheckpointError, match=message):
            zoo.load(checkpoint)


def test_missing_directories_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nowhere is not a directory with a card.json"):
        zoo.load(tmp_path / "nowhere")


def test_a_run_directory_says_where_its_checkpoint_is(checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no card.json; .*checkpoint has one"):
        zoo.load(checkpoint.parent)
    run = checkpoint.parent / "run"
    (run / "seed_3").mkdir(parents=True)
    checkpoint.rename(run / "seed_3" / "checkpoint")
    with pytest.raises(CheckpointError, match=r"has no card.json; .*seed_3/checkpoint has one"):
        zoo.load(run)


def test_non_finite_weights_are_not_saved(
    checkpoint: Path, model: Predictor, card_fields: dict[str, Any]
) -> None:
    before = (checkpoint / "model.safetensors").read_bytes()
    with torch.no_grad():
        next(model.parameters()).fill_(torch.inf)
    with pytest.raises(CheckpointError, match="layer.Q is not finite"):
        save_checkpoint(checkpoint, model, card_fields)
    assert (checkpoint / "model.safetensors").read_bytes() == before


def test_a_failed_save_leaves_the_checkpoint_before_it(
    checkpoint: Path,
    model: Predictor,
    card_fields: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full_disk(path: Path, data: bytes) -> None:
        path.write_bytes(data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("zoo.files.write_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(checkpoint, model, card_fields)
    assert sorted(p.name for p in checkpoint.parent.iterdir()) == ["checkpoint"]
    zoo.load(checkpoint)


def test_a_failed_rename_leaves_the_checkpoint_before_it(
    checkpoint: Path,
    model: Predictor,
    card_fields: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if self.name.endswith(".writing"):
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OSError, match="Input/output error"):
        save_checkpoint(checkpoint, model, card_fields)
    zoo.load(checkpoint)


def test_numbers_that_are_none_are_not_saved(
    tmp_path: Path, model: Predictor, card_fields: dict[str, Any]
) -> None:
    card_fields["metrics"] = {
        "test/half_mse_query": {
            "value": float("nan"),
            "ci95": 0.0,
            "num_episodes": 10,
            "eval_seed": 0,
        }
    }
    with pytest.raises(ValueError, match="finite number"):
        save_checkpoint(tmp_path / "checkpoint", model, card_fields)
    assert not (tmp_path / "checkpoint").exists()


def test_saving_again_replaces_the_checkpoint(
    checkpoint: Path, model: Predictor, card_fields: dict[str, Any]
) -> None:
    with torch.no_grad():
        next(model.parameters()).fill_(0.25)
    save_checkpoint(checkpoint, model, card_fields)
    assert next(zoo.load(checkpoint).parameters()).mean() == 0.25
    assert sorted(p.name for p in checkpoint.parent.iterdir()) == ["checkpoint"]


def test_a_number_of_a_card_stands_with_its_interval_on_one_line(checkpoint: Path) -> None:
    point = {"value": 1e-7, "ci95": None, "median": 0.25}
    curve = [None, point, point | {"value": 2.0}]
    card = read_card(checkpoint)
    card = Card.model_validate_json(
        json.dumps(json.loads(card.model_dump_json()) | {"curves": {"model": curve}})
    )
    written = card_bytes(card)
    assert Card.model_validate_json(written) == card
    assert sum(line.count(b'"value"') for line in written.splitlines()) == written.count(b'"value"')
    lines = [line for line in written.splitlines() if b'"median": 0.25' in line]
    assert [json.loads(line.rstrip(b","))["value"] for line in lines] == [1e-7, 2.0]


def test_a_point_of_a_curve_has_six_digits_and_long_curves_fewer_points() -> None:
    point = {"value": 0.123456789, "ci95": None, "median": 2e-9 / 3}
    rounded = {"value": 0.123457, "ci95": None, "median": 6.66667e-10}
    assert _thinned([None, point]) == [None, rounded]
    found = _thinned([point] * (2 * MOST_POINTS))
    assert [point is not None for point in found] == [True, False] * (MOST_POINTS - 1) + [True] * 2
