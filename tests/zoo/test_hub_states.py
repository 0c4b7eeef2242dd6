"""Streaming states in files."""

from pathlib import Path
from typing import Any

import pytest
import torch

import zoo
from tests.conftest import MakePairs
from zoo.hub.card import CheckpointError
from zoo.hub.states import load_state, save_state
from zoo.predictor import Predictor
from zoo.solvers.solver import solver_of

SMALL = {"d_model": 8, "num_layers": 1}
DEEP = {"mamba", "s5", "transformer", "gd_ssm_deep", "delta_net", "mesa_net"}


def model_of(name: str) -> Predictor:
    arguments: dict[str, Any] = SMALL if name in DEEP else {}
    if name == "gd_ssm_deep":
        arguments = arguments | {"d_head": 4}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return zoo.create_model(name, d_x=3, d_y=2, **arguments)


PREDICTORS = ["gd_ssm", "online_learner", "linear_transformer", *sorted(DEEP)]


@pytest.mark.parametrize("name", PREDICTORS)
def test_a_state_from_a_file_goes_on_as_the_one_that_was_saved(
    name: str, make_pairs: MakePairs, tmp_path: Path
) -> None:
    model = model_of(name)
    x, y = (part.float() for part in make_pairs(3, 2, 9))
    state = model.observe(model.init_state(3), x[:, :4], y[:, :4])
    save_state(tmp_path / "state", model, state)
    loaded = load_state(tmp_path / "state", model_of(name))
    assert type(loaded) is type(state)
    ends = [model.observe(part, x[:, 4:], y[:, 4:]) for part in (state, loaded)]
    assert torch.equal(*(model.predict(end, x) for end in ends))


@pytest.mark.parametrize("name", ["ridge", "kalman_filter", "knn"])
def test_the_state_of_a_solver_may_be_asked_by_one_of_other_arguments(
    name: str, make_pairs: MakePairs, tmp_path: Path
) -> None:
    arguments = solver_of(name).example(3, 2)
    solver = zoo.create_solver(name, d_x=3, d_y=2, **arguments)
    x, y = make_pairs(3, 2, 6)
    state = solver.observe(solver.init_state(3), x, y)
    save_state(tmp_path / "state", solver, state)
    assert torch.equal(
        solver.predict(load_state(tmp_path / "state", solver), x), solver.predict(state, x)
    )
    if name == "ridge":
        other = zoo.create_solver("ridge", d_x=3, d_y=2, penalty=100.0)
        asked = other.predict(load_state(tmp_path / "state", other), x)
        assert (asked - solver.predict(state, x)).abs().max() > 0.01


def test_states_of_other_predictors_and_other_files_are_refused(tmp_path: Path) -> None:
    model, path = model_of("gd_ssm"), tmp_path / "state"
    save_state(path, model, model.init_state(2))
    changed = model_of("gd_ssm")
    with torch.no_grad():
        changed.layer.C[0, 0] += 1e-3  # type: ignore[operator, index]
    for other in (changed, model_of("gd_ssm").double(), model_of("online_learner")):
        with pytest.raises(CheckpointError, match="another predictor"):
            load_state(path, other)
    with pytest.raises(CheckpointError, match="nothing is not there"):
        load_state(tmp_path / "nothing", model)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        load_state(path, model)
    with pytest.raises(ValueError, match="state"):
        save_state(path, model, model_of("online_learner").init_state(2))


def test_a_weights_file_is_no_state(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not a streaming state"):
        load_state(zoo.hub.find.CHECKPOINTS / "gd_ssm.linear/model.safetensors", model_of("gd_ssm"))


def test_a_state_that_lacks_a_part_or_has_another_shape_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    from zoo.hub.states import KIND, fingerprint, tensors_of

    model = model_of("gd_ssm")
    whole = tensors_of(model.init_state(2))
    metadata = {"kind": KIND, "predictor": fingerprint(model)}
    broken = {
        "is missing": {name: part for name, part in whole.items() if name != "state.Z"},
        "must be a tensor of shape": whole | {"state.Z": torch.zeros(2, 1, 7, 7)},
        "Z is torch.int64": whole | {"state.Z": whole["state.Z"].long()},
    }
    for text, tensors in broken.items():
        save_file(tensors, tmp_path / "state", metadata)
        with pytest.raises(CheckpointError, match=text):
            load_state(tmp_path / "state", model)
