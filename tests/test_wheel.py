"""The package as it is installed: from a wheel, outside a clone."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from zoo.hub.find import CHECKPOINTS, CLONE

ROOT = Path(__file__).parents[1]
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "zoo", "datamodules", "checkpoints")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of packages that the wheel was installed to."""
    directory = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:  # building leaves files behind
        source, target = ROOT / name, directory / "source" / name
        target.parent.mkdir(exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, symlinks=True)
        else:
            shutil.copy(source, target)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-index", "--no-deps"]
    build = ["wheel", *offline, "--no-build-isolation", "-w", str(directory), "./source"]
    subprocess.run([*pip, *build], cwd=directory, check=True)
    (wheel,) = directory.glob("*.whl")
    target = directory / "site-packages"
    subprocess.run([*pip, "install", *offline, "--target", str(target), str(wheel)], check=True)
    return target


def python(installed: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs outside the clone what was installed."""
    environment = os.environ | {"PYTHONPATH": str(installed), "ICL_ZOO_CACHE": "cache"}
    environment.pop("ICL_ZOO_URL", None)
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=installed.parent,
        env=environment,
        capture_output=True,
        text=True,
    )


def test_the_wheel_brings_the_shipped_checkpoints(installed: Path) -> None:
    code = "import zoo; print(zoo.__file__); zoo.load('gd_ssm.linear')"
    run = python(installed, "-c", code)
    assert run.stderr == ""
    assert Path(run.stdout.strip()) == installed / "zoo" / "__init__.py"
    run = python(installed, "-m", "zoo", "verify")
    names = sorted(path.parent.name for path in CHECKPOINTS.glob("*/card.json"))
    assert run.stdout.splitlines() == [f"{name}: ok" for name in names]


def test_the_wheel_brings_the_text_and_its_license(installed: Path) -> None:
    code = "from datamodules.text import SHIPPED, Text; Text().content(); print(SHIPPED)"
    run = python(installed, "-c", code)
    assert run.stderr == ""
    text = Path(run.stdout.strip())
    assert text.parent == installed / "datamodules" / "texts"
    assert (text.parent / "NOTICE").exists()


@pytest.mark.parametrize("command", [["index"], ["index", "--check"], ["export", "SHIPPED"]])
def test_nothing_is_written_into_an_installed_package(installed: Path, command: list[str]) -> None:
    before = sorted(installed.rglob("*.*"))
    shipped = str(installed / "zoo" / "checkpoints" / "gd_ssm.linear")
    run = python(installed, "-B", "-m", "zoo", *(shipped if c == "SHIPPED" else c for c in command))
    assert run.returncode == 1
    assert run.stdout == ""
    assert run.stderr.startswith("error: ")
    assert len(run.stderr.splitlines()) == 1
    assert "belongs to an installed package, which nothing is written to" in run.stderr
    assert sorted(installed.rglob("*.*")) == before


def test_a_clone_has_its_checkpoints_at_its_root() -> None:
    assert CLONE == ROOT
    assert CHECKPOINTS == ROOT / "checkpoints"
