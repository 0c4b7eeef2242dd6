"""The page of a study, from its results file.

python -m studies.page NAME
"""

import json
import re
import sys
import textwrap
from collections import Counter
from pathlib import Path
from typing import Any

from studies.claims import Claim, OverSeeds
from studies.study import Places, Study, load_study
from studies.trainings import TrainingRow, table, text_of
from zoo.errors import unknown
from zoo.files import write_text
from zoo.metrics.text import plain, with_interval

LAYOUT = 3  # of the results file; 3: what was claimed is called so, whoever claimed it
WIDTH = 120  # of a line of prose

READING = """\
Every number is a mean over seeds, with half its 95 % interval (Student's t). A seed sets
initialisation and training episodes; all seeds of a model are measured on the same test episodes,
and so is the algorithm beside them. The intervals are over seeds alone: the scatter of the test
episodes is in none of them, and on others all numbers of a task move. The card of a model has that
interval. The scatter drops out of a ratio where both predict nearly the same. Closed forms stand
beside.

Claims are judged by the interval of the seeds' ratios or differences where there are any, else by
that of the measured number. A claim is

- *reproduced* where the whole interval is within the bounds shown,
- *not reproduced* where the whole interval is outside,
- *not decided* where it crosses a bound, for a single seed, which has no interval, and where a
  seed has not converged and more training may move the number within the bounds or out of them,
- *not judged* where what was measured cannot decide it,
- *ours* where it goes beyond {claimed_by}.

A claim that a model does what an algorithm does has two bounds: a model that is much better is not
that algorithm. Where there is one bound, the table says why. {judged}
"""

QUICK = """\
**This is the quick version: fewer seeds, a part of the optimizer steps, fewer settings and test
episodes. Models are not trained to the end, and a claim may fail for that alone; intervals over few
seeds are wide and decide little.**
"""


def read_results(study: Study, path: Path) -> dict[str, Any]:
    """The content of a results file that a page can be made of.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is damaged, of another layout or of another study.
    """
    text = path.read_text()
    try:
        results: dict[str, Any] = json.loads(text)
        if results["layout"] != LAYOUT:
            raise ValueError(f"layout {results['layout']}, this version has {LAYOUT}")
        page(study, results, Places(path.with_name(f"{study.name}.md"), path))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        text = f"{path} holds no results that can be read ({error}); move it away to begin anew"
        raise ValueError(text) from error
    return results


def page(study: Study, results: dict[str, Any], places: Places) -> str:
    """The page, a function of study and results alone.

    Args:
        study: Says what stands above the results, and the order of its figures.
        results: The content of the results file.
        places: Where page and results will be; links are relative to the page.
    """
    place = places.results.relative_to(places.page.parent)
    found = results["figures"]
    strange = sorted(found.keys() - study.figures.keys())
    if strange:
        raise ValueError(unknown("figure", strange[0], study.figures))
    figures = {name: found[name] for name in study.figures if name in found}
    quick = any(entry["made"]["quick"] for entry in figures.values())
    above = study.introduction.format(command=study.command(quick), results=place.as_posix())
    reading = study.reading or READING.format(claimed_by=study.claimed_by, judged=study.judged)
    parts = [f"# {study.title}\n", wrapped(above), wrapped(reading)]
    if quick:
        parts.append(wrapped(QUICK))
    if summary_rows(study, figures):
        parts.append(_summary(study, figures))
    missing = [name for name in study.figures if name not in found]
    if missing and figures:
        typed = f"{study.command(quick)} figure=[{','.join(missing)}]"
        parts.append(wrapped(f"Figures that are not made yet: {', '.join(missing)} (`{typed}`)."))
    directory = place.parent.as_posix()
    parts += [_section(study, name, entry, directory) for name, entry in figures.items()]
    if study.shows_trainings and figures:
        rows = [TrainingRow(**row) for entry in figures.values() for row in entry["trainings"]]
        parts += ["## Trainings\n", wrapped(text_of(rows)), *table(rows)]
    return "\n".join(parts)


def wrapped(text: str) -> str:
    """Paragraphs and lists with lines as long as they may be, and a line end behind the last."""
    blocks = [
        re.split(r"\n(?=- )", block) if block.startswith("- ") else [block]
        for block in text.strip().split("\n\n")
    ]
    return "\n\n".join("\n".join(map(_filled, lines)) for lines in blocks) + "\n"


def _filled(text: str) -> str:
    indent = "  " if text.startswith("- ") else ""
    return textwrap.fill(
        " ".join(text.split()),
        WIDTH,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def claims_of(entry: dict[str, Any]) -> list[Claim]:
    """The claims of one figure in the results."""
    return [Claim.of(data) for data in entry["claims"]]


def summary_rows(study: Study, figures: dict[str, Any]) -> list[tuple[str, str, str, str, str]]:
    """For each claim its figure, its words, who made it, the verdict, and by how much.

    Args:
        study: That of the claims.
        figures: Of the content of a results file, by name.
    """
    rows = []
    for name, entry in figures.items():
        for (text, claimed_by), members in _by_claim(claims_of(entry), study).items():
            if not text:
                continue
            judged = [claim for claim in members if claim.verdict != "not judged"]
            found = Counter(claim.verdict for claim in judged or members)
            verdict = ", ".join(
                kind if len(found) == 1 else f"{kind}: {num} of {found.total()}"
                for kind, num in found.most_common()
            )
            rows.append((name, text, claimed_by, verdict, _by_how_much(judged or members)))
    return rows


def _by_claim(claims: list[Claim], study: Study) -> dict[tuple[str, str], list[Claim]]:
    """What was measured for each claim, by its words and who made it."""
    found: dict[tuple[str, str], list[Claim]] = {}
    for claim in claims:
        found.setdefault((claim.claimed, claim.claimed_by or study.claimed_by), []).append(claim)
    return found


def _by_how_much(claims: list[Claim]) -> str:
    values: dict[str, list[OverSeeds]] = {}
    for claim in claims:
        if claim.difference is not None:  # what they are to is in the table, a line for each
            values.setdefault("difference", []).append(claim.difference)
            continue
        name = claim.quantity if claim.ratio is None else f"ratio to {claim.reference}"
        values.setdefault(name, []).append(claim.ratio or claim.measured)
    parts = []
    for name, found in values.items():
        numbers = [of_claim.value for of_claim in found]
        low, high = _number(min(numbers)), _number(max(numbers))
        amount = _text(found[0]) if len(found) == 1 else f"{low} to {high}"
        parts.append(f"{name} {amount}")
    return ", ".join(parts)


def _summary(study: Study, figures: dict[str, Any]) -> str:
    lines = [
        "## Claims",
        "",
        "| | claim | by | verdict | by how much |",
        "|---|---|---|---|---|",
    ]
    for name, text, claimed_by, verdict, amount in summary_rows(study, figures):
        # As the anchor of the heading is made: without signs, with hyphens for spaces.
        anchor = re.sub(r"[^\w ]", "", _heading(name, figures[name])).lower().replace(" ", "-")
        lines.append(f"| [{name}](#{anchor}) | {text} | {claimed_by} | {verdict} | {amount} |")
    return "\n".join([*lines, ""])


def _heading(name: str, entry: dict[str, Any]) -> str:
    return f"({name}) {entry['title']}"


def _section(study: Study, name: str, entry: dict[str, Any], directory: str) -> str:
    made = entry["made"]
    lines = [f"## {_heading(name, entry)}", ""]
    for figure in entry["figures"]:
        caption = figure["caption"]
        lines += [f"![{caption}]({directory}/{figure['file']})", "", wrapped(caption)]
    for (text, claimed_by), members in _by_claim(claims_of(entry), study).items():
        who = f"*{claimed_by[0].upper()}{claimed_by[1:]}* ({members[0].source})"
        if text or not study.reading:
            lines.append(wrapped(f"{who}: {text}" if text else "*Ours:*"))
        for headings in dict.fromkeys(tuple(claim.also) for claim in members):
            lines += _table([claim for claim in members if tuple(claim.also) == headings])
    versions = ", ".join(f"{name} {' and '.join(all_)}" for name, all_ in made["versions"].items())
    # Earlier results do not say on what machine they were made.
    when = ", ".join([made["date"], *filter(None, [made.get("machine")]), versions])
    over = study.figures[name].over.format(
        seeds=_num_seeds(entry), num_episodes=made["num_episodes"]
    )
    made_by = (
        f"`{made['command']}`; {over}, "
        f"{made['training_s'] / 60:.1f} min of training on one thread; {when}; "
        f"trained by the code of {' and '.join(made['git_commits']) or 'no commit'}."
    )
    if entry.get("trainings") == []:  # shipped models are measured
        made_by = f"`{made['command']}`; {over}; {when}."
    lines.append(wrapped(made_by))
    return "\n".join(lines)


def _num_seeds(entry: dict[str, Any]) -> str:
    trainings = entry.get("trainings", [])  # earlier results have none
    found = [row["num_seeds"] for row in trainings] or [len(entry["made"]["seeds"])]
    text = " to ".join(map(str, dict.fromkeys((min(found), max(found)))))
    return f"{text} seed" if text == "1" else f"{text} seeds"


def _table(claims: list[Claim]) -> list[str]:
    columns = {
        "quantity": [claim.quantity for claim in claims],
        "measured": [_text(claim.measured) for claim in claims],
        "beside": [claim.reference for claim in claims],
        "has": [_number(claim.reference_value) for claim in claims],
        "ratio": [_text(claim.ratio) for claim in claims],
        "difference": [_text(claim.difference) for claim in claims],
        "closed form": [_number(claim.closed_form) for claim in claims],
        "measured / closed form": [
            "" if not c.closed_form else _number(c.measured.value / c.closed_form) for c in claims
        ],
        **{heading: [_cell(c.also[heading]) for c in claims] for heading in claims[0].also},
    }
    if claims[0].claimed:
        columns["wanted"] = [claim.criterion for claim in claims]
        columns["verdict"] = [claim.verdict for claim in claims]
    columns = {name: cells for name, cells in columns.items() if any(cells)}
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(row) + " |" for row in zip(*columns.values(), strict=True)]
    return [*lines, ""]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _cell(value: str | float) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else _number(value)


def _text(found: OverSeeds | None) -> str:
    if found is None:
        return ""
    if found.by_seed is not None:
        each = f"by seed {', '.join(plain(value, 2) for value in found.by_seed)}"
        if found.ci95 is not None:
            each = ", ".join(plain(value, 3) for value in found.by_seed)
            return f"{with_interval(found.value, found.ci95)} ({each})"
        return each if found.median is None else f"median {plain(found.median, 2)}; mean {each}"
    return with_interval(found.value, found.ci95)


def write_page(study: Study, places: Places) -> None:
    """Writes the page of a results file."""
    write_text(places.page, page(study, read_results(study, places.results), places))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m studies.page NAME")
    try:
        asked = load_study(sys.argv[1])
        write_page(asked, asked.places(quick=False))
    except (OSError, ValueError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
