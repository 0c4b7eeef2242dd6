"""README and docs say what the code does."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

import zoo
from zoo.commands.reproduce import ReproduceSettings
from zoo.hub.io import save_checkpoint

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


# Its blocks build on each other: tests/test_extending.py.
WORKED_EXAMPLES = "extending.md"


def blocks(language: str, after: str = "") -> list[Any]:
    pattern = re.compile(rf"```{language}\n(.*?)```{after}", re.DOTALL)
    return [
        pytest.param(*(block if after else [block]), id=f"{page.name}-{number}")
        for page in PAGES
        if page.name != WORKED_EXAMPLES
        for number, block in enumerate(pattern.findall(page.read_text()))
    ]


@pytest.mark.parametrize(("code", "output"), blocks("python", r"(?:\n\n```text\n(.*?)```)?"))
def test_python_examples_run_and_print_what_is_below_them(
    code: str,
    output: str,
    tmp_path: Path,
    card_fields: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    checkpoint = tmp_path / "runs" / "TIME" / "checkpoint"
    card_fields["model_args"] = card_fields["data"] = {"d_x": 10, "d_y": 10}
    save_checkpoint(checkpoint, zoo.create_model("gd_ssm", d_x=10, d_y=10), card_fields)
    exec(compile(code.replace("runs/TIME/checkpoint", str(checkpoint)), "README", "exec"), {})
    if output:
        assert capsys.readouterr().out == output


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
        elif words[:1] == ["python"] and words[1].endswith(".py"):
            assert (ROOT / words[1]).exists()
        if words[:2] == ["python", "train.py"]:
            overrides = [w for w in words[2:] if not w.startswith("-")]
            with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "configs")):
                first = [re.split(r",(?![^{]*})", o)[0] for o in overrides]  # of a sweep
                compose("train", first, return_hydra_config=True)
        elif words[:2] == ["python", "reproduce.py"]:
            with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "configs")):
                ReproduceSettings(**OmegaConf.to_container(compose("reproduce", words[2:])))


def anchors(page: Path) -> set[str]:
    """What GitHub calls the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", page.read_text()):
        path = page.parent / target if target else page
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), f"{target}#{anchor}"
