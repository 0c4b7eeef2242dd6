"""Pages whose blocks build on each other, done in a copy of the repository as by a reader."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.forks import Forked

ROOT = Path(__file__).parents[1]
# What a page installs is here already: pip reads the project and the names of its extras.
INSTALL = ["pip", "install"]
LOOK = ["--dry-run", "--no-deps", "--no-index", "--no-build-isolation"]
# What tables say of intervals is broken into lines where their width asks for it.
INTERVAL = re.compile(r"(?:±|to|of|\(seeds|\(heavy tail,|[\d.,e-]+\)?|\s)+")
NUMBER = re.compile(r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?(?:e-?\d+)?(?![\w.])")


class Block(NamedTuple):
    """A block of a page.

    Attributes:
        language: As Markdown names it.
        text: What is in it.
        shown: The output that the page shows below it, empty for none.
    """

    language: str
    text: str
    shown: str


def blocks_of(page: Path) -> list[Block]:
    """The blocks of a page from top to bottom; one of `text` is the output of the one above it."""
    found: list[Block] = []
    for language, text in re.findall(r"```(\w+)\n(.*?)```", page.read_text(), re.DOTALL):
        if language == "text":
            found[-1] = found[-1]._replace(shown=text)
        else:
            found.append(Block(language, text, ""))
    return found


def copy_repository(copy: Path) -> None:
    """Copies what a reader has cloned, as far as pages use it."""
    for part in ("zoo", "datamodules", "studies", "configs", "tests"):
        shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
    files = ("pyproject.toml", "constraints.txt", "README.md", "LICENSE")
    for path in (*ROOT.glob("*.py"), *(ROOT / name for name in files)):
        shutil.copy(path, copy)


def follow(block: Block, copy: Path, added: Mapping[str, list[str]]) -> str:
    """Does what a block says: writes a file, changes one, or runs a script or commands.

    A python or yaml block that begins with the name of a file is that file.

    Args:
        block: Of a page.
        copy: Of the repository, where it is done.
        added: By the file of a command what is typed behind its own arguments.

    Returns:
        What was printed.
    """
    first, rest = block.text.split("\n", 1)
    is_file = re.fullmatch(r"# [\w/]+\.(py|yaml)", first) is not None
    if block.language in ("python", "yaml") and is_file:
        path = copy / first.removeprefix("# ")
        assert not path.exists()
        path.parent.mkdir(exist_ok=True)
        path.write_text(rest)
        return ""
    if block.language == "python":
        return run([sys.executable, "-c", block.text], copy)
    if block.language == "diff":
        path = copy / first.removeprefix("--- ")
        lines = rest.splitlines(keepends=True)
        before = "".join(line[1:] for line in lines if line[0] in " -")
        after = "".join(line[1:] for line in lines if line[0] in " +")
        text = path.read_text()
        assert text.count(before) == 1, f"{path.name} no longer has these lines once:\n{before}"
        path.write_text(text.replace(before, after))
        return ""
    assert block.language == "sh", f"nothing is known of {block.language} blocks"
    printed = []
    for line in block.text.splitlines():
        words = shlex.split(line, comments=True)
        if words[:2] == INSTALL:
            printed.append(run([sys.executable, "-m", *INSTALL, *LOOK, *words[2:]], copy))
            assert "does not provide the extra" not in printed[-1], line
        else:
            assert words[0] == "python", line
            typed = [*words[1:], *added.get(words[1], [])]
            printed.append(run_forked(typed, copy))
    return "".join(printed)


def run(command: list[str], copy: Path) -> str:
    """What a process prints, which must not fail."""
    environment = environment_in(copy)
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def run_forked(words: list[str], copy: Path) -> str:
    """What a process of `python WORDS` prints, which must not fail."""
    process = Forked(words, copy, environment_in(copy))
    output = process.communicate(timeout=300)
    assert process.returncode == 0, f"{shlex.join(words)}\n{output}"
    return output


def environment_in(copy: Path) -> dict[str, str]:
    """The environment of what is done in a copy."""
    environment = os.environ | {"PYTHONPATH": str(copy), "COLUMNS": "80"}
    environment.pop("HYDRA_FULL_ERROR", None)
    return environment


def check_shown(shown: str, printed: str, rel: float, abs: float) -> None:
    """Each line that a page shows was printed, in this order, with other lines between them or not.

    Lines are compared without frames of tables and spaces, and lines of intervals alone are left
    out. Numbers may differ; a whole number that ends a line counts seconds and may be any.

    Args:
        shown: By the page.
        printed: By the command.
        rel: By what part of the larger one numbers may differ.
        abs: By how much they may differ in any case.
    """
    lines = iter(printed.splitlines())
    for line in map(bare, shown.splitlines()):
        if not line or INTERVAL.fullmatch(line):
            continue
        found = any(is_alike(line, bare(other), rel, abs) for other in lines)
        assert found, f"the page shows\n{line}\nbut printed was\n{printed}"


def bare(line: str) -> str:
    """A line without frames and with single spaces."""
    return " ".join(re.sub(r"[\u2500-\u257f]", " ", line).split())


def is_alike(line: str, other: str, rel: float, abs: float) -> bool:
    """Whether a line is another one but for what numbers may differ by."""
    if NUMBER.sub("#", line) != NUMBER.sub("#", other):
        return False
    for mine, its in zip(NUMBER.finditer(line), NUMBER.finditer(other), strict=True):
        if mine.end() == len(line) and mine[0].isdigit():
            continue
        value, found = (float(match[0].replace(",", "")) for match in (mine, its))
        if found != pytest.approx(value, rel=rel, abs=abs):
            return False
    return True
