"""Imports point one way."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import datamodules
import zoo

ROOT = Path(__file__).parents[1]
PARTS = ("zoo", "datamodules", "studies", "benchmarks")

DOORS = [path.stem for path in ROOT.glob("*.py")]

# What a part of the project may import of the project beside itself. A part is named by its longest
# prefix here.
GROUND = {"zoo.errors", "zoo.files", "zoo.lazy", "zoo.predictor", "zoo.private", "zoo.terminal"}
CONTRACT = GROUND | {"zoo.registry"}
LEARNERS = {"zoo.ops", "zoo.layers", "zoo.models", "zoo.solvers", "zoo.metrics"}
HUB = CONTRACT | LEARNERS | {"zoo", "zoo.hub", "zoo.analysis"}
EPISODES = HUB | {"datamodules", "zoo.references", "zoo.evaluation", "zoo.training"}
ALLOWED = {
    "datamodules": set(),
    "zoo.errors": set(),
    "zoo.files": set(),
    "zoo.lazy": set(),
    "zoo.terminal": set(),
    "zoo.private": set(),
    "zoo.predictor": {"zoo.private"},
    "zoo.registry": GROUND,
    "zoo.ops": {"zoo.private"},
    "zoo.layers": {"zoo.ops"},
    "zoo.models": CONTRACT | {"zoo.ops", "zoo.layers"},
    "zoo.solvers": CONTRACT,
    "zoo.metrics": CONTRACT,
    "zoo.hub": CONTRACT | LEARNERS,
    "zoo.analysis": CONTRACT | LEARNERS,
    "zoo.references": HUB | {"datamodules"},
    "zoo.evaluation": HUB | {"datamodules", "zoo.references"},
    "zoo.training": HUB | {"datamodules", "zoo.references", "zoo.evaluation"},
    "zoo.estimators": HUB | {"datamodules"},
    "zoo.commands": EPISODES | {"studies"},
    "zoo": CONTRACT | LEARNERS | {"zoo.hub", "zoo.analysis", "zoo.estimators", "zoo.commands"},
    "studies": EPISODES | {"zoo.estimators"},
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


def modules_after(code: str) -> set[str]:
    """Top-level modules, and our own, that are there after some code in a fresh process."""
    code += "; import sys; print(sorted({m.split('.')[0] for m in sys.modules}))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {*ast.literal_eval(run.stdout.splitlines()[-1])}


FRAMEWORKS = {"lightning", "torchmetrics", "hydra", "tensorboard", "matplotlib", "rich", "typer"}


@pytest.mark.parametrize(
    "code",
    [
        "import zoo, datamodules",
        "import zoo; zoo.list_models(), zoo.list_solvers(), dir(zoo), zoo.models, zoo.hub",
        "import zoo; zoo.list_checkpoints()",
        "import zoo.hub.find, zoo.hub.download, zoo.hub.index, zoo.hub.pages",
        "import zoo.metrics.text",
    ],
)
def test_names_are_known_without_torch(code: str) -> None:
    assert not modules_after(code) & {"torch", "numpy", "safetensors", "datamodules.episodes"}


def test_episodes_are_described_without_torch_and_drawn_with_it() -> None:
    code = "from datamodules import EpisodeSpec, create_sampler; spec = EpisodeSpec(d_x=3, d_y=2)"
    code += "; spec.input_variance, spec.label_variance, create_sampler(spec), spec.model_dump()"
    code += "; import datamodules.functions, datamodules.suites"
    assert "torch" not in modules_after(code)
    code += "; EpisodeSpec(function={'name': 'quadratic'}).label_variance"  # has no closed form
    assert "torch" in modules_after(code)


@pytest.mark.parametrize("create", ["model('gdssm')", "solver('ridg')"])
def test_an_unknown_name_is_refused_without_torch(create: str) -> None:
    code = f"import contextlib, zoo\nwith contextlib.suppress(ValueError): zoo.create_{create}\n0"
    assert "torch" not in modules_after(code)


def test_models_and_episodes_need_no_framework() -> None:
    code = "import zoo, datamodules; zoo.create_model('gd_ssm', d_x=2, d_y=2); zoo.load"
    modules = modules_after(f"{code}; datamodules.create_sampler")
    assert {"torch", "pydantic"} <= modules
    assert not modules & FRAMEWORKS
    assert not modules & {"fsspec", "filelock", "aiohttp"}, (
        "what fetches checkpoints waits until one is"
    )


@pytest.mark.parametrize("name", ["gd_ssm.linear", "transformer.linear"])
def test_a_checkpoint_is_loaded_without_frameworks_or_compiler(name: str) -> None:
    modules = modules_after(f"import zoo; zoo.load('{name}')")
    assert not modules & {*FRAMEWORKS, "pandas", "sympy"}  # the last comes with torch's compiler


def test_estimators_name_the_package_that_is_missing() -> None:
    code = "import sys, zoo; sys.modules['sklearn'] = None; zoo.estimators"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1] == (
        "ImportError: estimators need the optional scikit-learn, which is not installed: "
        "pip install -e '.[estimators]'"
    )


def test_what_packages_offer_is_there() -> None:
    for package in (zoo, datamodules):
        for name in package.__all__:
            assert getattr(package, name).__name__ == name
        assert {*package.__all__} <= {*dir(package)}
        with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
            package.nothing  # noqa: B018
    assert zoo.hub.card.CheckpointError is zoo.hub.find.CheckpointError
