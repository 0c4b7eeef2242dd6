"""The site of `make docs`: what can be said of it without building it."""

import re
import runpy
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
MAKER = runpy.run_path(str(ROOT / "docs" / "make_site.py"))
PAGES: dict[Path, str] = MAKER["pages"]()
SETTINGS = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]
ADDRESS = "https://example.org/icl-zoo"


def files_of(navigation: list[Any]) -> list[str]:
    found = []
    for entry in navigation:
        (value,) = entry.values()
        found += [value] if isinstance(value, str) else files_of(value)
    return found


def links(text: str) -> list[str]:
    return re.findall(r"\]\(([^()#\s]+)[^()\s]*\)", text)


def test_the_navigation_has_every_page_once() -> None:
    assert sorted(files_of(SETTINGS["nav"])) == sorted(PAGES.values())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_of_the_site_lead_to_pages_files_of_docs_or_the_repository(page: Path) -> None:
    for target in links(MAKER["moved"](page, ADDRESS)):
        if target.startswith(ADDRESS):
            assert (ROOT / target.removeprefix(f"{ADDRESS}/blob/HEAD/")).exists()
        elif not target.startswith(("http:", "https:")):
            assert target in PAGES.values() or (ROOT / "docs" / target).is_file(), target


def test_links_to_source_files_are_text_where_the_repository_has_no_address() -> None:
    page = ROOT / "docs" / "extending.md"
    assert "](../zoo/predictor.py)" in page.read_text()
    assert f"]({ADDRESS}/blob/HEAD/zoo/predictor.py)" in MAKER["moved"](page, ADDRESS)
    assert not [link for link in links(MAKER["moved"](page, None)) if link.endswith(".py")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_lists_are_read_by_the_site_as_by_github(page: Path) -> None:
    before = ""
    for line in re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL).splitlines():
        if item := re.match(r"( *)(?:[-*]|\d+\.) ", line):
            assert len(item[1]) % 4 == 0, f"indented by four spaces: {line}"
            inside = before.startswith(" ") or re.match(r"(?:[-*]|\d+\.) ", before)
            assert not before or inside, f"an empty line above: {line}"
        before = line


def test_what_the_site_adds_is_there() -> None:
    for file in SETTINGS["extra_css"] + SETTINGS["extra_javascript"]:
        assert (ROOT / "docs" / file).is_file()
