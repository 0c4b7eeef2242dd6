"""Imports point one way."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# What a part of the project may import of the project. A part is named by its longest prefix here.
ALLOWED = {
    "zoo.layers": {"zoo.layers"},
    "zoo.predictor": set(),
    "zoo.registry": {"zoo.predictor"},
    "zoo.terminal": set(),
    "zoo.models": {"zoo.layers", "zoo.predictor", "zoo.registry", "zoo.models"},
    "zoo.solvers": {"zoo.predictor", "zoo.registry", "zoo.solvers"},
    "zoo.hub": {
        "zoo.predictor",
        "zoo.registry",
        "zoo.models",
        "zoo.solvers",
        "zoo.metrics",
        "zoo.hub",
    },
    "zoo.metrics": {"zoo.predictor", "zoo.metrics"},
    "zoo.analysis": {"zoo.predictor", "zoo.models", "zoo.solvers", "zoo.metrics", "zoo.analysis"},
    "zoo.training": {
        "zoo.predictor",
        "zoo.registry",
        "zoo.terminal",
        "zoo.models",
        "zoo.solvers",
        "zoo.hub",
        "zoo.metrics",
        "zoo.analysis",
        "zoo.training",
    },
    "zoo": {
        "zoo",
        "zoo.models",
        "zoo.solvers",
        "zoo.metrics",
        "zoo.hub",
        "zoo.predictor",
        "zoo.registry",
        "zoo.terminal",
    },
    "datamodules": {"datamodules"},
}
FILES = sorted([*(ROOT / "zoo").rglob("*.py"), *(ROOT / "datamodules").rglob("*.py")])


def part_of(module: str) -> str | None:
    prefixes = [name for name in ALLOWED if module == name or module.startswith(f"{name}.")]
    return max(prefixes, key=len, default=None)


def imported_modules(path: Path) -> set[str]:
    modules = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            assert node.module is not None
            modules |= {f"{node.module}.{alias.name}" for alias in node.names}
    return modules


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    part = part_of(module)
    assert part is not None
    for imported in imported_modules(path):
        other = part_of(imported)
        if other is not None:
            assert other in ALLOWED[part], f"{module} imports {imported}"
        assert not imported.startswith(
            (
                *("train", "evaluate", "references", "results", "reproduce"),
                *("paper", "tests", "benchmarks"),
            )
        )


def test_importing_zoo_brings_torch_and_no_framework() -> None:
    code = "import sys, zoo; print(sorted({m.split('.')[0] for m in sys.modules}))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = set(ast.literal_eval(run.stdout))
    assert {"torch", "safetensors", "pydantic"} <= modules
    heavy = {"lightning", "torchmetrics", "hydra", "tensorboard", "matplotlib", "rich", "typer"}
    assert not modules & heavy
    assert not modules & {"fsspec", "filelock", "aiohttp"}, (
        "what fetches checkpoints waits until one is"
    )
    assert "datamodules" not in modules
