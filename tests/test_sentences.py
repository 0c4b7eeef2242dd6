"""What pages say that an architecture reached stands in a row of a table, or the row is linked."""

import re
from collections.abc import Iterator

import pytest

from zoo.files import ROOT
from zoo.registry import list_models

# Pages written by hand. Those that studies and cards make have nothing but rows.
PAGES = ["README.md", *(f"docs/{name}.md" for name in ("questions", "architectures", "guide"))]
PAGES += [f"docs/{name}.md" for name in ("zoo", "mathematics", "training")]
ARCHITECTURES = {name: name for name in list_models()} | {
    "S5": "s5",
    "Mamba": "mamba",
    "transformer": "transformer",
    "transformers": "transformer",
}
# A sentence with one of these says what a model reached, or compares it.
REACHED = re.compile(
    r"\b(reach(es|ed)|leaves|falls?|fell|pass(es|ed)?|beats?|outperforms?|wins?|loses?|fails?"
    r"|better|worse|best|worst|below|ends?|ended|stays?|stayed|cannot|nearer|converge[sd]?)\b"
)
DECIMAL = re.compile(r"(?<![\w.=/])\d+\.\d+(?![\w/]|\.\d)")
# Papers are cited by numbers such as 2411.12537.
CITED = re.compile(r"arXiv \d+\.\d+")


def rows() -> list[str]:
    """The rows of all tables in the documentation."""
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    return [row for page in pages for row in page.read_text().splitlines() if row[:1] == "|"]


def sentences(page: str) -> Iterator[str]:
    """Those of the paragraphs and lists, without code, tables, headings and figures."""
    prose = re.sub(r"```.*?```", "", page, flags=re.DOTALL)
    lines = [line for line in prose.splitlines() if not line.startswith(("|", "#", "    ", "!"))]
    for paragraph in re.split(r"\n\s*\n|\n(?=- |\d\. )", "\n".join(lines)):
        yield from re.split(r"(?<=[.:?!]) (?=[A-Z`*])", " ".join(paragraph.split()))


def without_a_row(page: str, table_rows: list[str]) -> list[str]:
    """Sentences on what an architecture reached that no row holds and that link to none."""
    found = []
    for sentence in sentences(page):
        named = {
            name
            for word, name in ARCHITECTURES.items()
            if re.search(rf"(?<![\w./-]){re.escape(word)}(?![\w/]|\.\w)", sentence)
        }
        if not named or not REACHED.search(sentence) or "](" in sentence:
            continue
        numbers = DECIMAL.findall(CITED.sub("", sentence))
        held = [
            any(number in row and any(name in row for name in named) for row in table_rows)
            for number in numbers
        ]
        if not held or not all(held):
            found.append(sentence)
    return found


@pytest.mark.parametrize("page", PAGES)
def test_what_an_architecture_reached_stands_in_a_row(page: str) -> None:
    assert without_a_row((ROOT / page).read_text(), rows()) == []


@pytest.mark.parametrize(
    ("sentence", "holds"),
    [
        ("The transformer ends at 0.303.", True),
        ("The transformer ends at 0.304.", False),
        ("S5 ends at 0.303.", False),
        ("Mamba cannot do it.", False),
        ("Mamba did not leave zero ([row](comparison.md)).", True),
        ("A block of `mamba` has a convolution.", True),
        ("`transformer` beats ridge.", False),
    ],
)
def test_a_sentence_without_a_row_is_found(sentence: str, holds: bool) -> None:
    table = ["| `transformer` | pairs | 0.303 |", "| `s5` | 3.43 |"]
    assert (without_a_row(f"# Title\n\n{sentence}\n", table) == []) is holds
