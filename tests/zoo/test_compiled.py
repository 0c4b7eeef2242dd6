"""`trainer.step=compile` with a real compiler."""

from pathlib import Path

import pytest
import torch

from datamodules import EpisodeDataModule, ReplicaDataModule
from tests.zoo.test_recorded import fit, weights
from tests.zoo.test_replicas import OPTIM, SPEC, small
from zoo.training.base import has_compiler
from zoo.training.module import LitPredictor
from zoo.training.replicas import LitReplicas


@pytest.mark.skipif(not has_compiler(), reason="needs a C++ compiler")
def test_compiled_steps_learn_what_eager_steps_learn(tmp_path: Path) -> None:
    found = {}
    for step in ("eager", "compile"):
        module = LitPredictor(small("gd_ssm"), OPTIM, seed=3, step=step)
        losses = fit(module, EpisodeDataModule(SPEC, 3, 8), tmp_path, 20)
        found[step] = losses, weights(module)
    torch.testing.assert_close(found["compile"][0], found["eager"][0], rtol=1e-4, atol=1e-6)
    for name, expected in found["eager"][1].items():
        torch.testing.assert_close(found["compile"][1][name], expected, rtol=1e-3, atol=1e-5)


@pytest.mark.skipif(not has_compiler(), reason="needs a C++ compiler")
def test_replicas_are_compiled_too(tmp_path: Path) -> None:
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    module = LitReplicas(small("gd_ssm"), OPTIM, [3, 4], step="compile")
    fit(module, ReplicaDataModule(SPEC, [3, 4], 8), tmp_path, 3)
    assert counters["stats"]["unique_graphs"] > 0
