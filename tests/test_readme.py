"""README and docs say what the code does."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

import zoo
from reproduce import ReproduceSettings
from zoo.hub.io import save_checkpoint

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(language: str) -> list[Any]:
    pattern = re.compile(rf"```{language}\n(.*?)```", re.DOTALL)
    return [
        pytest.param(block, id=f"{page.name}-{number}")
        for page in PAGES
        for number, block in enumerate(pattern.findall(page.read_text()))
    ]


@pytest.mark.parametrize("code", blocks("python"))
def test_python_examples_run(code: str, tmp_path: Path, card_fields: dict[str, Any]) -> None:
    checkpoint = tmp_path / "runs" / "TIME" / "checkpoint"
    card_fields["model_args"] = {"d_x": 10, "d_y": 10}
    save_checkpoint(checkpoint, zoo.create_model("gd_ssm", d_x=10, d_y=10), card_fields)
    exec(compile(code.replace("runs/TIME/checkpoint", str(checkpoint)), "README", "exec"), {})


@pytest.mark.parametrize("code", blocks("sh"))
def test_commands_exist(code: str) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line in code.splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["make"]:
            assert words[1] in targets
        elif words[:2] == ["python", "-m"]:
            module = ROOT / words[2].replace(".", "/")
            assert module.with_suffix(".py").exists() or (module / "__main__.py").exists()
        elif words[:2] == ["python", "train.py"]:
            overrides = [w for w in words[2:] if not w.startswith("-")]
            with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "configs")):
                compose("train", [o.split(",")[0] for o in overrides], return_hydra_config=True)
        elif words[:2] == ["python", "reproduce.py"]:
            with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "configs")):
                ReproduceSettings(**OmegaConf.to_container(compose("reproduce", words[2:])))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target
