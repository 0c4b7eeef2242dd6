"""README and docs say what the code does."""

import re
import shlex
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

import zoo
from zoo.commands.composing import composed
from zoo.commands.settings import ReproduceSettings
from zoo.hub.io import save_checkpoint
from zoo.models.gd_ssm import GDSSM
from zoo.models.online_learner import Rule

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
# Commands of earlier versions are no commands.
ALL_PAGES = [*PAGES, ROOT / "CHANGELOG.md"]


# Their blocks build on each other: tests/test_extending.py, tests/test_tutorial.py.
WORKED_EXAMPLES = ("extending.md", "tutorial.md")


def blocks(language: str, after: str = "") -> list[Any]:
    pattern = re.compile(rf"```{language}\n(.*?)```{after}", re.DOTALL)
    return [
        pytest.param(*(block if after else [block]), id=f"{page.name}-{number}")
        for page in PAGES
        if page.name not in WORKED_EXAMPLES
        for number, block in enumerate(pattern.findall(page.read_text()))
    ]


@pytest.mark.parametrize(("code", "output"), blocks("python", r"(?:\n\n```text\n(.*?)```)?"))
def test_python_examples_run_and_print_what_is_below_them(
    code: str,
    output: str,
    tmp_path: Path,
    card_fields: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if "zoo.estimators" in code:
        pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)  # for what an example writes
    checkpoint = tmp_path / "runs" / "TIME" / "checkpoint"
    card_fields["model_args"] = card_fields["data"] = {"d_x": 10, "d_y": 10}
    save_checkpoint(checkpoint, zoo.create_model("gd_ssm", d_x=10, d_y=10), card_fields)
    exec(compile(code.replace("runs/TIME/checkpoint", str(checkpoint)), "README", "exec"), {})
    if output:
        assert capsys.readouterr().out == output


def commands() -> list[Any]:
    """What the pages type after `python DOOR.py`, in blocks and in sentences."""
    found = []
    for page in PAGES:
        text = page.read_text()
        lines = [
            line
            for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
            for line in block.replace("\\\n", " ").splitlines()
        ]
        prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
        lines += [" ".join(span.split()) for span in re.findall(r"`(python [^`]*)`", prose)]
        for line in lines:
            if door := re.search(r"(train|evaluate|reproduce)\.py(?: |$)", line):
                typed = shlex.split(line[door.end() :], comments=True)
                found.append(pytest.param(door[1], typed, id=f"{page.stem}-{len(found)}"))
    return found


# What only the page's own example adds: a callback, which has no place before.
NEW = "+callbacks.norm="
# Names of the examples that docs/extending.md adds before it uses them.
ADDED = ("delta_rule", "saturated_linear", "kinked_line", "mine")


@cache
def composed_once(door: str, *typed: str) -> dict[str, Any]:
    """What a command composes, which more than one page may show."""
    return composed(door, typed)


@pytest.mark.parametrize(("door", "typed"), commands())
def test_commands_of_the_pages_are_taken_as_typed(door: str, typed: list[str]) -> None:
    for word in typed:
        assert not word.startswith("+") or word.startswith(NEW), f"{word} needs a plus"
    known = [w for w in typed if not w.partition("=")[2].startswith(ADDED)]
    known = [w for w in known if "resume=" not in w and not w.endswith("=NAME")]  # no such run
    plain = composed_once(door, *known)
    if door == "reproduce":
        ReproduceSettings(**{name: plain[name] for name in ReproduceSettings.model_fields})


def test_settings_that_the_pages_name_are_taken_as_typed() -> None:
    groups = "model|data|optim|trainer|callbacks|logger|suite|recipe|experiment"
    setting = re.compile(rf"(?:{groups})[./][\w./]+=\S+|(?:{groups})=[a-z]\w*")
    found = {
        span
        for page in PAGES
        for span in re.findall(r"`([^`\n]*)`", page.read_text())
        if setting.fullmatch(span)
    }
    assert len(found) > 5
    data = {path.stem: path.read_text() for path in sorted((ROOT / "configs/data").glob("*.yaml"))}
    for span in sorted(found):
        if span.startswith("data.function."):  # of one family, most likely one whose file has it
            last = span.partition("=")[0].rpartition(".")[2]
            likely = sorted(data, key=lambda name: last not in data[name])
            assert any(is_taken(f"data={name}", span) for name in likely), span
        else:
            composed("train", [span])


def is_taken(*typed: str) -> bool:
    try:
        composed("train", typed)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("code", blocks("sh"))
def test_commands_exist(code: str) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["make"]:
            assert words[1] in targets
        elif words[:2] == ["python", "-m"]:
            module = ROOT / words[2].replace(".", "/")
            assert module.with_suffix(".py").exists() or (module / "__main__.py").exists()
        elif words[:1] == ["python"] and words[1].endswith(".py"):
            assert (ROOT / words[1]).exists()


def anchors(page: Path) -> set[str]:
    """What GitHub calls the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", ALL_PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", page.read_text()):
        path = page.parent / target if target else page
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), f"{target}#{anchor}"


@pytest.mark.parametrize("page", ALL_PAGES, ids=lambda page: page.name)
def test_lines_of_prose_are_short(page: Path) -> None:
    prose = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for line in prose.splitlines():
        # Tables, formulas, figures, and addresses, which cannot be broken.
        apart = line.startswith(("|", "    ", "![")) or len(line.split()) == 1
        assert apart or len(line) <= 120, line


# What the table of rules has beside the rule itself.
BARE: dict[str, dict[str, Any]] = {
    "gated_delta_rule": {"decay": "head"},
    "delta_product": {"num_updates": 2},
    "test_time_training": {"mini_batch": 4},
}


def test_the_table_of_rules_has_the_sizes_of_bare_layers_and_of_recipes() -> None:
    section = (ROOT / "docs/architectures.md").read_text().partition("## The family of ")[2]
    rows = [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in section.partition("\n\nState and parameters")[0].splitlines()
        if line.startswith("| `")
    ]
    assert sorted(rule.strip("`") for rule, *_ in rows) == sorted(get_args(Rule))
    for rule, deep, *_, state, parameters in rows:
        of_rule = {"rule": rule.strip("`"), **BARE.get(rule.strip("`"), {})}
        models = [zoo.create_model("online_learner", d_x=10, d_y=10, **of_rule)]
        for name in re.findall(r"`(\w+)`", deep):
            settings = composed("train", [f"recipe={name}"])["model"]
            sizes = settings | {"x_scale": 1.0, "y_scale": 1.0}  # resolved later, and no sizes
            models.append(zoo.create_model(**sizes, d_x=10, d_y=10))
        numbers = [
            [int(n.replace(",", "")) for n in re.findall(r"[\d,]*\d", cell)]
            for cell in (state, parameters)
        ]
        assert numbers[0] == [model.state_size(10) for model in models], rule
        assert numbers[1] == [sum(p.numel() for p in m.parameters()) for m in models], rule


def test_a_readme_is_read_in_minutes() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) < 150


def test_the_citation_names_this_version_and_the_paper() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == zoo.__version__
    (paper,) = citation["references"]
    assert paper["url"] == GDSSM.paper


def test_the_hooks_before_a_commit_run_what_make_check_runs() -> None:
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    makefile = (ROOT / "Makefile").read_text()
    recipe = re.search(r"^check:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    assert recipe is not None
    checks = [line.strip().replace("$(BIN)", ".venv/bin") for line in recipe[1].splitlines()]
    assert [hook["entry"] for hook in local["hooks"]] == [c.removesuffix(" .") for c in checks]
