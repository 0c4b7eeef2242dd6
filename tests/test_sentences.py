"""What pages say that an architecture reached stands in a row of a table, of the linked page."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from zoo.files import ROOT
from zoo.registry import list_models

# Pages written by hand, and those of studies, which have an introduction and captions.
PAGES = ["README.md", *(f"docs/{name}.md" for name in ("questions", "architectures", "guide"))]
PAGES += [f"docs/{name}.md" for name in ("zoo", "mathematics", "training", "own_data")]
PAGES += [f"docs/{name}.md" for name in ("comparison", "recall", "state_tracking", "text")]
PAGES += [f"docs/{name}.md" for name in ("task_diversity", "inside_tables")]
ARCHITECTURES = {name: name for name in list_models()} | {
    "S5": "s5",
    "Mamba": "mamba",
    "transformer": "transformer",
    "transformers": "transformer",
}
# A sentence with one of these says what a model reached, or compares it.
REACHED = re.compile(
    r"\b(reach(es|ed)|leaves|falls?|fell|pass(es|ed)?|beats?|outperforms?|wins?|loses?|fails?"
    r"|better|worse|best|worst|below|ends?|ended|stays?|stayed|cannot|nearer|converge[sd]?"
    r"|heavy)\b"
)
# Numbers of a sentence that are measured, or count what was trained: 0.303, 7,200.
NUMBER = re.compile(r"(?<![\w.=/,])\d+(?:\.\d+|(?:,\d{3})+)(?![\w/]|[.,]\d)")
# All of a row.
IN_ROW = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?!\w|\.\d)")
# Papers are cited by numbers such as 2411.12537.
CITED = re.compile(r"arXiv \d+\.\d+")
# To pages of this repository, the page itself included.
LINK = re.compile(r"\]\((?!https?:)([^)#]*)[^)]*\)")


def rows(pages: Iterable[Path]) -> list[str]:
    """The rows of all tables in pages."""
    return [row for page in pages for row in page.read_text().splitlines() if row[:1] == "|"]


def everywhere() -> list[str]:
    """The rows of all tables in the documentation."""
    return rows([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])


def sentences(page: str) -> Iterator[str]:
    """Those of the paragraphs and lists, without code, tables, headings and figures."""
    prose = re.sub(r"```.*?```", "", page, flags=re.DOTALL)
    lines = [line for line in prose.splitlines() if not line.startswith(("|", "#", "    ", "!"))]
    for paragraph in re.split(r"\n\s*\n|\n(?=- |\d\. )", "\n".join(lines)):
        yield from re.split(r"(?<=[.:?!]) (?=[A-Z`*])", " ".join(paragraph.split()))


def numbers(pattern: re.Pattern[str], text: str) -> set[str]:
    """Those in a text, 7,200 as 7200."""
    return {number.replace(",", "") for number in pattern.findall(text)}


def names(architecture: str, row: str) -> bool:
    """Whether a row is of an architecture, and not of one whose name is longer."""
    return bool(re.search(rf"(?<!\w){architecture}(?:_one_layer)?(?!\w)", row))


def without_a_row(text: str, table_rows: list[str], page: Path) -> list[str]:
    """Sentences on what an architecture reached whose numbers are in no row of it.

    Args:
        text: Of a page.
        table_rows: Of all pages. For a sentence with links those of the linked pages count alone,
            one at least, also where it has no numbers.
        page: Where links start.
    """
    found = []
    for sentence in sentences(text):
        named = {
            name
            for word, name in ARCHITECTURES.items()
            if re.search(rf"(?<![\w./-]){re.escape(word)}(?![\w/]|\.\w)", sentence)
        }
        if not named or not REACHED.search(sentence):
            continue
        linked = [page.parent / link if link else page for link in LINK.findall(sentence)]
        known = rows(linked) if linked else table_rows
        held = [
            numbers(IN_ROW, re.sub(r"(?<=\d),(?=\d{3})", "", row))
            for row in known
            if any(names(name, row) for name in named)
        ]
        said = numbers(NUMBER, CITED.sub("", sentence))
        if not held or not said <= set().union(*held) or not (said or linked):
            found.append(sentence)
    return found


@pytest.mark.parametrize("page", PAGES)
def test_what_an_architecture_reached_stands_in_a_row(page: str) -> None:
    assert without_a_row((ROOT / page).read_text(), everywhere(), ROOT / page) == []


@pytest.mark.parametrize(
    ("sentence", "holds"),
    [
        ("The transformer ends at 0.303.", True),
        ("The transformer ends at 0.304.", False),
        ("The transformer ends at 0.30.", False),
        ("The transformer ends at 0.303 after 7,200 steps.", True),
        ("The transformer ends at 0.303 after 7,300 steps.", False),
        ("S5 ends at 0.303.", False),
        ("`gd_ssm` ends at 0.551.", False),
        ("Mamba cannot do it.", False),
        ("The errors of Mamba have a heavy tail.", False),
        ("Mamba did not leave zero ([row](linked.md)).", True),
        ("Mamba stays at 0.419 ([row](linked.md#mamba)).", True),
        ("Mamba stays at 0.418 ([row](linked.md#mamba)).", False),
        ("The transformer ends at 0.303 ([row](linked.md)).", False),
        ("S5 stays at zero ([row](linked.md)).", False),
        ("S5 ends at 3.43 ([paper](https://host/page)).", True),
        ("Mamba ends at zero ([paper](https://host/page)).", False),
        ("A block of `mamba` has a convolution.", True),
        ("`transformer` beats ridge.", False),
    ],
)
def test_a_sentence_without_a_row_is_found(sentence: str, holds: bool, tmp_path: Path) -> None:
    (tmp_path / "linked.md").write_text("Mamba has 0.418.\n\n| mamba, shifted | 0.419 |\n")
    table = ["| `transformer` | 7200 | 0.303 |", "| `s5` | 3.43 |", "| gd_ssm_deep | 0.551 |"]
    text = f"# Title\n\n{sentence}\n"
    assert (without_a_row(text, table, tmp_path / "page.md") == []) is holds


Table = list[dict[str, str]]


def tables(page: str) -> list[Table]:
    """Each table of a page, its rows by the headings; the first column is called `name`."""
    found = []
    for block in re.findall(r"(?:^\|.*\n)+", page, re.M):
        lines = [re.split(r"(?<!\\)\|", line)[1:-1] for line in block.splitlines()]
        head, _, *cells = [[cell.strip() for cell in line] for line in lines]
        found.append([dict(zip(["name", *head[1:]], row, strict=True)) for row in cells])
    return found


def error_of(row: dict[str, str]) -> str:
    """Its error with the interval, without the seeds in brackets."""
    error = next((cell for head, cell in row.items() if head.startswith("0.5*MSE")), None)
    return (row.get("measured", "") if error is None else error).partition(" (")[0]


def architecture_of(row: dict[str, str]) -> str:
    """The name at its start, or behind what was measured."""
    return re.findall(r"\w+", row["name"].removeprefix("0.5*MSE at the query, "))[0]


@pytest.mark.parametrize(("page", "number"), [("architectures", 3), ("questions", 1)])
def test_tables_that_repeat_a_study_have_its_sizes_and_rates(page: str, number: int) -> None:
    study = [row for table in tables((ROOT / "docs/comparison.md").read_text()) for row in table]
    measured = [row for row in study if "measured" in row and "parameters" in row]
    trainings = [row for row in study if "best" in row]
    repeating = [
        table
        for table in tables((ROOT / f"docs/{page}.md").read_text())
        if error_of(table[0]) and any("converged" in heading for heading in table[0])
    ]
    assert len(repeating) == number
    for row in (row for table in repeating for row in table if row["name"].startswith("`")):
        architecture, sizes = architecture_of(row), (row["parameters"], row["state"])
        # Rows are known again by their errors.
        of_study = {
            (other["parameters"], other["state"])
            for other in measured
            if (architecture_of(other), error_of(other)) == (architecture, error_of(row))
        }
        assert of_study == {sizes}, row
        rates = [
            training["best"].partition(",")[0]
            for training in trainings
            if architecture in training["name"].split("-")
            and ("growing" in training["name"]) == ("growing" in row["name"])
            and (training["parameters"], training["state"]) == sizes
        ]
        assert "rate" not in row or rates == [row["rate"]], row
