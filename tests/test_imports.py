"""Imports point one way."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PARTS = ("zoo", "datamodules", "studies", "benchmarks")

DOORS = [path.stem for path in ROOT.glob("*.py")]

# What a part of the project may import of the project beside itself. A part is named by its longest
# prefix here.
GROUND = {"zoo.errors", "zoo.files", "zoo.predictor", "zoo.terminal"}
CONTRACT = GROUND | {"zoo.registry"}
LEARNERS = {"zoo.ops", "zoo.layers", "zoo.models", "zoo.solvers", "zoo.metrics"}
HUB = CONTRACT | LEARNERS | {"zoo", "zoo.hub", "zoo.analysis"}
EPISODES = HUB | {"datamodules", "zoo.references", "zoo.evaluation", "zoo.training"}
ALLOWED = {
    "datamodules": set(),
    "zoo.errors": set(),
    "zoo.files": set(),
    "zoo.terminal": set(),
    "zoo.predictor": set(),
    "zoo.registry": GROUND,
    "zoo.ops": set(),
    "zoo.layers": {"zoo.ops"},
    "zoo.models": CONTRACT | {"zoo.ops", "zoo.layers"},
    "zoo.solvers": CONTRACT,
    "zoo.metrics": {"zoo.predictor"},
    "zoo.hub": CONTRACT | LEARNERS,
    "zoo.analysis": CONTRACT | LEARNERS,
    "zoo.references": HUB | {"datamodules"},
    "zoo.evaluation": HUB | {"datamodules", "zoo.references"},
    "zoo.training": HUB | {"datamodules", "zoo.references"},
    "zoo.commands": EPISODES | {"studies"},
    "zoo": CONTRACT | LEARNERS | {"zoo.hub", "zoo.commands"},
    "studies": EPISODES,
    "benchmarks": EPISODES | {"zoo.commands"},
}
FILES = [path for part in PARTS for path in sorted((ROOT / part).rglob("*.py"))]


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
            assert other == part or other in ALLOWED[part], f"{module} imports {imported}"
        assert imported.partition(".")[0] not in (*DOORS, "tests"), f"{module} imports {imported}"


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
