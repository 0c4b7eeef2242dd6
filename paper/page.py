"""`docs/paper.md`, from the results file.

python -m paper.page
"""

import json
from pathlib import Path
from typing import Any

from paper.claims import Claim, OverSeeds
from paper.plan import ROOT
from zoo.training.run import write_text

PAGE = ROOT / "docs" / "paper.md"
RESULTS = ROOT / "docs" / "figures" / "paper" / "results.json"

INTRODUCTION = """\
# The paper's figures

What ["State-space models can learn in-context by gradient descent"](https://arxiv.org/abs/2410.11687)
claims, in our words, beside what `{command}` measured. The results file is
[{results}]({results}); this page is made from it, and not written by hand.

Every number is a mean over seeds, with half its 95 % interval (Student's t) over the seeds. A seed
sets initialisation and training episodes; all are measured on the same test episodes, and so is
the algorithm beside them. A ratio is formed for each seed before the mean is taken, so that the
scatter of the episodes themselves, about 1 % of a loss, drops out of it: ratios are what claims
are judged by, closed forms stand beside. A claim is *reproduced* where the mean is within the
bounds shown, and *ours* is what the paper has nothing on.
"""

QUICK = """
**This is the quick version: fewer seeds, a quarter of the optimizer steps, fewer settings and test
episodes. Models are not trained to the end, and a claim may fail for that alone.**
"""


def page(results: dict[str, Any], page_path: Path, results_path: Path) -> str:
    """The page, a function of the results alone.

    Args:
        results: The content of the results file.
        page_path: Where the page will be; links are relative to it.
        results_path: Where results and figures are.
    """
    place = results_path.relative_to(page_path.parent)
    figures = dict(sorted(results["figures"].items()))
    quick = any(entry["made"]["quick"] for entry in figures.values())
    command = "python reproduce.py quick=true" if quick else "python reproduce.py"
    parts = [INTRODUCTION.format(command=command, results=place.as_posix())]
    if quick:
        parts.append(QUICK)
    parts.append(_summary(figures))
    parts += [_section(letter, entry, place.parent.as_posix()) for letter, entry in figures.items()]
    return "\n".join(parts)


def claims_of(entry: dict[str, Any]) -> list[Claim]:
    """The claims of one figure in the results."""
    return [Claim.of(data) for data in entry["claims"]]


def summary_rows(figures: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """For each claim of the paper its figure, its words, the verdict, and by how much."""
    rows = []
    for letter, entry in figures.items():
        claims = claims_of(entry)
        for text in dict.fromkeys(claim.paper for claim in claims if claim.paper):
            members = [claim for claim in claims if claim.paper == text]
            num = sum(claim.verdict == "reproduced" for claim in members)
            verdict = "reproduced" if num == len(members) else "not reproduced"
            if 0 < num < len(members):
                verdict = f"reproduced in {num} of {len(members)} quantities"
            rows.append((letter, text, verdict, _by_how_much(members)))
    return rows


def _by_how_much(claims: list[Claim]) -> str:
    parts = []
    ratios = [claim.ratio.value for claim in claims if claim.ratio is not None]
    others = [claim.measured.value for claim in claims if claim.ratio is None]
    for name, values in (("ratio", ratios), ("value", others)):
        if values:
            low, high = _number(min(values)), _number(max(values))
            parts.append(f"{name} {low}" if low == high else f"{name} {low} to {high}")
    return ", ".join(parts)


def _summary(figures: dict[str, Any]) -> str:
    lines = [
        "## Claims",
        "",
        "| | the paper's claim | verdict | by how much |",
        "|---|---|---|---|",
    ]
    for letter, text, verdict, amount in summary_rows(figures):
        lines.append(f"| [{letter}](#figure-{letter}) | {text} | {verdict} | {amount} |")
    return "\n".join([*lines, ""])


def _section(letter: str, entry: dict[str, Any], place: str) -> str:
    made = entry["made"]
    lines = [f'<a id="figure-{letter}"></a>', "", f"## ({letter}) {entry['title']}", ""]
    for figure in entry["figures"]:
        caption = figure["caption"]
        lines += [f"![{caption}]({place}/{figure['file']})", "", caption, ""]
    claims = claims_of(entry)
    for text in dict.fromkeys(claim.paper for claim in claims):
        members = [claim for claim in claims if claim.paper == text]
        lines += [f"*The paper:* {text}" if text else "*Ours:*", ""]
        lines += _table(members, judged=bool(text))
    lines += [
        f"`{made['command']}`; {len(made['seeds'])} seeds, {made['num_episodes']:,} test episodes, "
        f"{made['training_s'] / 60:.0f} minutes of training on one thread; {made['date']}, "
        + ", ".join(f"{name} {number}" for name, number in made["versions"].items())
        + (f", commit {made['git_commit'][:10]}." if made["git_commit"] else "."),
        "",
    ]
    return "\n".join(lines)


def _table(claims: list[Claim], judged: bool) -> list[str]:
    columns = {
        "quantity": [claim.quantity for claim in claims],
        "measured": [_text(claim.measured) for claim in claims],
        "beside": [claim.reference for claim in claims],
        "has": [_number(claim.reference_value) for claim in claims],
        "ratio": [_text(claim.ratio) for claim in claims],
        "closed form": [_number(claim.closed_form) for claim in claims],
        "measured / closed form": [
            "" if not c.closed_form else _number(c.measured.value / c.closed_form) for c in claims
        ],
    }
    if judged:
        columns |= {
            "wanted": [claim.criterion for claim in claims],
            "verdict": [claim.verdict for claim in claims],
        }
    columns = {name: cells for name, cells in columns.items() if any(cells)}
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(row) + " |" for row in zip(*columns.values(), strict=True)]
    return [*lines, ""]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _text(found: OverSeeds | None) -> str:
    if found is None:
        return ""
    return _number(found.value) + ("" if found.ci95 is None else f" ± {found.ci95:.2g}")


def write_page(page_path: Path, results_path: Path) -> None:
    """Writes the page of a results file."""
    write_text(page_path, page(json.loads(results_path.read_text()), page_path, results_path))


if __name__ == "__main__":
    write_page(PAGE, RESULTS)
