"""`docs/paper.md`, from the results file.

python -m studies.page
"""

import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from studies.claims import Claim, OverSeeds
from zoo.files import ROOT, write_text
from zoo.metrics.text import with_interval

PAGE = ROOT / "docs" / "paper.md"
RESULTS = ROOT / "docs" / "figures" / "paper" / "results.json"
LAYOUT = 2  # of the results file; 2: claims say why they have one bound alone

INTRODUCTION = """\
# The paper's figures

What ["State-space models can learn in-context by gradient descent"](https://arxiv.org/abs/2410.11687)
claims, in our words, beside what `{command}` measured. The third version is called "Learning in the
Recurrent State: Gradient Descent with Linear Recurrent Networks", and the model GRIL there. The
results file is [{results}]({results}); this page is made from it, and not written by hand. Claims
are those of the abstracts and of what figures are there to show; no number of the paper is among
them, and the letters are ours. Not attempted: the third version's results on Long Range Arena and
language modelling.

The setting is linear regression with ten examples in ten dimensions, x from U(-0.5, 0.5), a new
function for every episode, unless another is named. 0.5*MSE is half the squared error, averaged
over the coordinates of the label. `docs/guide.md` explains the mechanism and its weights Q,
Lambda_bar, D and C, `docs/mathematics.md` the construction and the distances.

Every number is a mean over seeds, with half its 95 % interval (Student's t). A seed sets
initialisation and training episodes; all are measured on the same test episodes, and so is the
algorithm beside them. The intervals are over seeds alone: the scatter of the test episodes, about
1 % of a loss on linear functions and more on others, is in none of them. It drops out of a ratio
where both predict nearly the same. Closed forms stand beside.

Claims are judged by the interval of the seeds' ratios where there are ratios, else by that of the
measured number. A claim is

- *reproduced* where the whole interval is within the bounds shown,
- *not reproduced* where the whole interval is outside,
- *not decided* where it crosses a bound, and for a single seed, which has no interval,
- *not judged* where what was measured cannot decide it,
- *ours* where it goes beyond the paper.

A claim that a model does what an algorithm does has two bounds: a model that is much better is not
that algorithm. Where there is one bound, the table says why. Several learned steps are judged
beside as many exact ones of the sizes that are best when they are fixed beforehand.
"""

QUICK = """
**This is the quick version: fewer seeds, a quarter of the optimizer steps, fewer settings and test
episodes. Models are not trained to the end, and a claim may fail for that alone; intervals over two
seeds are wide and decide little.**
"""


def read_results(path: Path) -> dict[str, Any]:
    """The content of a results file that a page can be made of.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is damaged or of another layout.
    """
    text = path.read_text()
    try:
        results: dict[str, Any] = json.loads(text)
        if results["layout"] != LAYOUT:
            raise ValueError(f"layout {results['layout']}, this version has {LAYOUT}")
        page(results, path.with_name("paper.md"), path)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        text = f"{path} holds no results that can be read ({error}); move it away to begin anew"
        raise ValueError(text) from error
    return results


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
            judged = [claim for claim in members if claim.verdict != "not judged"]
            found = Counter(claim.verdict for claim in judged or members)
            verdict = ", ".join(
                name if len(found) == 1 else f"{name}: {num} of {found.total()}"
                for name, num in found.most_common()
            )
            rows.append((letter, text, verdict, _by_how_much(judged or members)))
    return rows


def _by_how_much(claims: list[Claim]) -> str:
    values: dict[str, list[OverSeeds]] = {}
    for claim in claims:
        name = claim.quantity if claim.ratio is None else f"ratio to {claim.reference}"
        values.setdefault(name, []).append(claim.ratio or claim.measured)
    parts = []
    for name, found in values.items():
        numbers = [of_claim.value for of_claim in found]
        low, high = _number(min(numbers)), _number(max(numbers))
        amount = _text(found[0]) if len(found) == 1 else f"{low} to {high}"
        parts.append(f"{name} {amount}")
    return ", ".join(parts)


def _summary(figures: dict[str, Any]) -> str:
    lines = [
        "## Claims",
        "",
        "| | the paper's claim | verdict | by how much |",
        "|---|---|---|---|",
    ]
    for letter, text, verdict, amount in summary_rows(figures):
        # As the anchor of the heading is made: without signs, with hyphens for spaces.
        anchor = re.sub(r"[^\w ]", "", _heading(letter, figures[letter])).lower().replace(" ", "-")
        lines.append(f"| [{letter}](#{anchor}) | {text} | {verdict} | {amount} |")
    return "\n".join([*lines, ""])


def _heading(letter: str, entry: dict[str, Any]) -> str:
    return f"({letter}) {entry['title']}"


def _section(letter: str, entry: dict[str, Any], place: str) -> str:
    made = entry["made"]
    lines = [f"## {_heading(letter, entry)}", ""]
    for figure in entry["figures"]:
        caption = figure["caption"]
        lines += [f"![{caption}]({place}/{figure['file']})", "", caption, ""]
    claims = claims_of(entry)
    for text in dict.fromkeys(claim.paper for claim in claims):
        members = [claim for claim in claims if claim.paper == text]
        lines += [f"*The paper* ({members[0].source}): {text}" if text else "*Ours:*", ""]
        lines += _table(members)
    lines += [
        f"`{made['command']}`; {len(made['seeds'])} seeds, {made['num_episodes']:,} test episodes, "
        f"{made['training_s'] / 60:.1f} min of training on one thread; {made['date']}, "
        + ", ".join(f"{name} {' and '.join(all_)}" for name, all_ in made["versions"].items())
        + f"; trained by the code of {' and '.join(made['git_commits']) or 'no commit'}.",
        "",
    ]
    return "\n".join(lines)


def _table(claims: list[Claim]) -> list[str]:
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
    if claims[0].paper:
        columns["wanted"] = [claim.criterion for claim in claims]
        columns["verdict"] = [claim.verdict for claim in claims]
    columns = {name: cells for name, cells in columns.items() if any(cells)}
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(row) + " |" for row in zip(*columns.values(), strict=True)]
    return [*lines, ""]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _text(found: OverSeeds | None) -> str:
    return "" if found is None else with_interval(found.value, found.ci95)


def write_page(page_path: Path, results_path: Path) -> None:
    """Writes the page of a results file."""
    write_text(page_path, page(read_results(results_path), page_path, results_path))


if __name__ == "__main__":
    try:
        write_page(PAGE, RESULTS)
    except (OSError, ValueError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
