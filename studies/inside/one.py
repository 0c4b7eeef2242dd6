"""One checkpoint, looked into: a page with four figures."""

import re
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

import zoo
from studies.inside import sections
from studies.inside.sections import Section, Table
from studies.inside.shipped import random_start
from studies.inside.task import Task
from studies.page import wrapped
from zoo.evaluation.entries import Entry, spec_of
from zoo.files import write_figure, write_text
from zoo.hub.card import Card
from zoo.hub.directory import read_card
from zoo.hub.find import find_checkpoint

NUM_EPISODES = 300
PAGE = "inside.md"

ABOVE = """\
Made by `{command}`. `docs/inside.md` defines all measures and runs them on models whose algorithm
is known. The model is a `{card.architecture}` of {card.num_parameters:,} parameters and tokens
`{card.token_layout}`. Its episodes are those of its card: function `{spec.function.name}`, d_x =
{spec.d_x}, d_y = {spec.d_y}, {spec.num_context} examples, noise {spec.noise:g}. The *best*
algorithm is `{task.best}`. {exact}

Everything is of one trained model, on {num_episodes} test episodes, which it was not trained on.
Intervals are 95 % over these episodes: another seed of the same training may differ by more. A low
R2 says that a linear probe finds nothing, not that nothing is there. The nearest algorithm is not
the one that a model has to be. icl-zoo {versions[0]}, torch {versions[1]}.
"""
EXACT = "No other has a smaller expected error on such episodes."
NOT_EXACT = (
    "It is linear in the query, and on such episodes another algorithm may do better: what a model "
    "knows beyond it is not measured here."
)


def look(
    name_or_path: str, num_episodes: int, command: str, console: Console
) -> tuple[str, list[Section]]:
    """Measures one checkpoint on the episodes of its card; nothing is written.

    Args:
        name_or_path: A name, path or address, as `zoo.load` takes it.
        num_episodes: In the test.
        command: That which made the page.
        console: Where progress is shown.

    Returns:
        The text of the page, with links to `1.png` and so on beside it, and its sections.

    Raises:
        ValueError: If there is no such checkpoint, its labels are no values, or its predictions are
            not finite.
    """
    directory = find_checkpoint(name_or_path)
    card = read_card(directory)
    spec = spec_of(None, num_episodes, [Entry(card.name, card.architecture, None, card, {})])
    if spec.output != "value" or spec.labels_hidden:
        raise ValueError(
            f"a model is looked into where labels are values, got {card.name}, which was trained "
            f"on {spec.function.name}: its labels are classes or symbols"
        )
    task, model = Task(spec), zoo.load(directory)
    model.card = None  # changed states may make absurd predictions, which are measured here
    untrained = random_start(card, 0)
    steps = {
        "probes": partial(sections.probes, model, untrained, task, num_episodes),
        "layer lens": partial(sections.layers, model, task, num_episodes),
        "interventions": partial(sections.use, model, task, num_episodes),
        "state as an algorithm": partial(sections.states, model, task, num_episodes),
    }
    found = []
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        for i, (name, measure) in enumerate(steps.items(), start=1):
            shown = progress.add_task(f"{i} of {len(steps)}: {name}", total=1)
            found.append(measure())
            progress.update(shown, completed=1)
    return page(card, task, found, command, num_episodes), found


def page(card: Card, task: Task, found: list[Section], command: str, num_episodes: int) -> str:
    """The text of the page.

    Args:
        card: Of the model.
        task: The episodes.
        found: The sections, in their order.
        command: That which made the page.
        num_episodes: In the test.
    """
    above = ABOVE.format(
        command=command,
        card=card,
        spec=task.spec,
        task=task,
        exact=EXACT if task.is_exact else NOT_EXACT,
        num_episodes=num_episodes,
        versions=(zoo.__version__, torch.__version__),
    )
    short = "\n".join(f"- {section.found}" for section in found)
    parts = [f"# Inside {card.name}\n", wrapped(above), wrapped(short)]
    for i, section in enumerate(found, start=1):
        parts += [f"## ({i}) {section.title}\n", wrapped(section.text)]
        if section.figure is not None:
            parts.append(f"![{section.title}]({i}.png)\n")
        parts += map(_table, section.tables)
    return "\n".join(parts)


def write(text: str, found: list[Section], directory: Path) -> Path:
    """Writes the page and beside it its figures, as PNG and as SVG; the page comes last.

    Args:
        text: Of the page.
        found: Its sections.
        directory: Where to; files of these names are replaced.

    Returns:
        The path of the page.
    """
    for i, section in enumerate(found, start=1):
        for kind in ("png", "svg") if section.figure is not None else ():
            assert section.figure is not None
            write_figure(directory / f"{i}.{kind}", section.figure, dpi=150)
    write_text(directory / PAGE, text)
    return directory / PAGE


def directory_of(name_or_path: str) -> Path:
    """Where the page is written unless said: `runs/inside/NAME`, with - for what separates."""
    return Path("runs", "inside", re.sub(r"[^\w.@-]+", "-", name_or_path).strip("-."))


def _table(rows: Table) -> str:
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"
