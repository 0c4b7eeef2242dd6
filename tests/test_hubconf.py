"""hubconf.py, as torch.hub reads it from a clone."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import zoo
from zoo.files import ROOT


def load(*arguments: Any, **options: Any) -> Any:
    return torch.hub.load(str(ROOT), *arguments, source="local", **options)


def test_every_architecture_is_an_entry_point_and_nothing_else_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.hub, "_get_cache_or_reload", lambda *a, **o: str(ROOT))
    assert sorted(torch.hub.list("user/icl-zoo")) == zoo.list_models()
    assert "The architecture gd_ssm, untrained" in torch.hub.help("user/icl-zoo", "gd_ssm")


def test_an_entry_point_makes_a_checkpoint_or_an_untrained_model() -> None:
    model, expected = load("gd_ssm", pretrained="gd_ssm.linear"), zoo.load("gd_ssm.linear")
    assert model.card == expected.card
    for name, tensor in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)
    fresh = load("gd_ssm", d_x=3, d_y=2, num_steps=2)
    assert (type(fresh), fresh.d_x, fresh.card) == (type(expected), 3, None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pretrained": "s5.linear"}, "pretrained='s5.linear' is a checkpoint of s5, not of gd_ss"),
        ({"pretrained": "gd_ssm.liner"}, "Did you mean 'gd_ssm.linear'"),
        ({"pretrained": True}, "pretrained must be the name of a checkpoint, got True"),
        ({"pretrained": "gd_ssm.linear", "d_x": 3}, "d_x cannot be given beside pretrained="),
        ({"d_x": 3, "dy": 3}, "unknown argument of gd_ssm 'dy'. Did you mean 'd_y'"),
    ],
)
def test_what_cannot_be_made_is_refused_in_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        load("gd_ssm", **options)
    assert "\n" not in str(caught.value)


def test_a_clone_that_is_not_installed_is_enough(tmp_path: Path) -> None:
    code = f"""
import importlib.util, sys, torch
sys.meta_path = [finder for finder in sys.meta_path if "Editable" not in repr(finder)]
sys.path = [path for path in sys.path if path]
assert importlib.util.find_spec("zoo") is None
model = torch.hub.load({str(ROOT)!r}, "gd_ssm", source="local", pretrained="gd_ssm.linear")
print(model.card.name, model.init_state(1).Z.shape[0], sys.modules["zoo"].__file__)
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert (run.stdout, run.stderr) == (f"gd_ssm.linear 1 {ROOT / 'zoo' / '__init__.py'}\n", "")
