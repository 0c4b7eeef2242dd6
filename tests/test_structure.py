"""docs/structure.md says where things are."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import lightning.pytorch as pl

from datamodules import EpisodeDataModule, EpisodeSpec
from zoo.files import ROOT
from zoo.registry import ModelSpec
from zoo.training.module import LitPredictor
from zoo.training.options import OptimConfig

PAGE = (ROOT / "docs" / "structure.md").read_text()
PATH = re.compile(r"`((?:zoo|datamodules|studies|configs|tests|benchmarks)(?:/[\w./]+)?|\w+\.py)`")


def section(heading: str) -> str:
    return PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]


@contextmanager
def visits() -> Iterator[set[str]]:
    """The files of the project whose functions are called meanwhile."""
    seen: set[str] = set()

    def note(frame: FrameType, event: str, _: Any) -> None:
        name = frame.f_code.co_filename
        if event == "call" and name.startswith((f"{ROOT}/zoo/", f"{ROOT}/datamodules/")):
            seen.add(name.removeprefix(f"{ROOT}/"))

    sys.setprofile(note)
    try:
        yield seen
    finally:
        sys.setprofile(None)


def test_every_path_of_the_page_exists() -> None:
    paths = PATH.findall(PAGE)
    assert len(paths) > 50
    for path in paths:
        assert (ROOT / path).exists(), path


def test_every_room_is_on_the_page() -> None:
    rooms = set(PATH.findall(section("Rooms")))
    packages = {f"zoo/{path.parent.name}" for path in (ROOT / "zoo").glob("*/__init__.py")}
    assert packages | {"datamodules", "studies", "benchmarks", "configs"} <= rooms


def test_the_way_of_x_is_the_one_that_a_step_takes() -> None:
    way = re.findall(
        r"^ *\d+\. `([\w/.]+)`", section("The way of x, from the sampler to the loss"), re.M
    )
    assert len(way) == len({*way})
    module = LitPredictor(ModelSpec.of("gd_ssm", d_x=10, d_y=10), OptimConfig())
    module.configure_model()
    data = EpisodeDataModule(EpisodeSpec(), batch_size=4, eval_episodes=4)
    quiet = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    module._trainer = data.trainer = quiet
    data.train_episodes(1)  # the first draw imports torch
    with visits() as seen:
        module.training_step(data.training_rows(module.device), 0)
    assert {*way} == seen
