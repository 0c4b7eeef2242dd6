"""The command line of the zoo: `python -m zoo --help`."""

import functools
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal, ParamSpec

import typer
from rich import box
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TextColumn
from rich.progress import Progress as Bar
from rich.table import Table

from zoo.files import STAGING
from zoo.hub.card import Card, CheckpointError, MetricEntry, one_line
from zoo.hub.directory import read_card
from zoo.hub.download import Progress, cache_directory, download
from zoo.hub.find import (
    CHECKPOINTS,
    URL_VARIABLE,
    check_asked,
    find_card,
    find_checkpoint,
    find_remote,
    known_checkpoints,
    locate,
)
from zoo.hub.index import IndexEntry, read_index
from zoo.hub.pages import Comparison, comparisons, number, protocol_text, tail
from zoo.metrics.text import in_cell, loss_label, number_text, place_of, place_text, plain
from zoo.terminal import StoppedBySignal, raise_on_signals

app = typer.Typer(
    help="Trained checkpoints: list, look at, fetch, check, compare.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
P = ParamSpec("P")
# Typer's, whose own name has moved between versions.
UsageError: Any = typer.BadParameter.__base__

# Columns of a terminal: of fewer than WIDE a list has less to say, below NARROW all is folded.
NARROW, WIDE = 80, 100

Url = Annotated[
    str | None,
    typer.Option(help=f"Location of an index, instead of checkpoints/ and {URL_VARIABLE}."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Names = Annotated[list[str], typer.Argument(help="Names, paths or addresses.")]
Directory = Annotated[Path, typer.Option(help="Directory of checkpoints.")]

SORT_KEYS: dict[str, Callable[[tuple[str, IndexEntry]], Any]] = {
    "name": lambda item: item[0],
    "family": lambda item: (item[1].episodes_label, item[0]),
    "parameters": lambda item: item[1].num_parameters,
    "state": lambda item: item[1].state_size,
    "error": lambda item: item[1].error.value,
    "episodes": lambda item: item[1].episodes,
    "time": lambda item: item[1].wall_time_s,
}


def clean(function: Callable[P, None]) -> Callable[P, None]:
    """A command whose errors are one line, and that ends at a signal with one line."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            function(*args, **kwargs)
            sys.stdout.flush()
        except StoppedBySignal as stopped:
            print(stopped, file=sys.stderr)
            raise typer.Exit(128 + stopped.signum) from None
        except (ValueError, OSError) as error:
            print(f"error: {one_line(str(error))}", file=sys.stderr)
            raise typer.Exit(1) from None

    return run


@app.command("list")
@clean
def list_command(
    pattern: Annotated[str, typer.Argument(help="Names, as in 'gd_ssm*'.")] = "*",
    architecture: Annotated[str | None, typer.Option(help="Only this architecture.")] = None,
    family: Annotated[str | None, typer.Option(help="Only this function family.")] = None,
    sort: Annotated[
        Literal["name", "family", "parameters", "state", "error", "episodes", "time"],
        typer.Option(help="Column to sort by."),
    ] = "name",
    reverse: Annotated[bool, typer.Option("--reverse", help="Largest first.")] = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """List checkpoints with their size, error and cost."""
    known = known_checkpoints(url)
    for option, given, there in (
        ("--architecture", architecture, {entry.architecture for entry in known.values()}),
        ("--family", family, {entry.family for entry in known.values()}),
    ):
        if there and given is not None and given not in there:
            raise ValueError(f"{option} must be one of {', '.join(sorted(there))}, got {given!r}")
    found = [
        (name, entry)
        for name, entry in known.items()
        if fnmatchcase(name, pattern)
        and architecture in (None, entry.architecture)
        and family in (None, entry.family)
    ]
    found.sort(key=SORT_KEYS[sort], reverse=reverse)
    if as_json:
        print_json([{"name": name, **entry.model_dump(mode="json")} for name, entry in found])
        return
    if not found:
        console().print(f"none of {len(known)} checkpoints matches")
        return
    wide = console().width >= WIDE
    titles = ["exact", "episodes\ntime"] if wide else ["best\nexact"]
    table = new_table("checkpoint", "params\nstate\ntokens", "error", *titles)
    for column in table.columns[:2]:
        column.no_wrap = console().width >= NARROW
    for name, entry in found:
        algorithms = sorted(entry.references.items(), key=lambda item: item[1].value)
        exact = [(plain(value.value, 3), label) for label, value in algorithms]
        best = "\n".join(part for pair in exact[:1] for part in pair)
        table.add_row(
            f"{name}\n  {entry.episodes_label}",
            size(entry),
            two_lines(entry.error),
            *(["\n".join(map(" ".join, exact)), cost(entry)] if wide else [best]),
        )
    console().print(table)
    places: dict[str, set[str]] = {}
    for _, entry in found:
        places.setdefault(place_text(place_of(entry.metric)), set()).add(loss_label(entry.metric))
    measured = "; ".join(f"{', '.join(sorted(losses))} {at}" for at, losses in places.items())
    console().print(f"{len(found)} checkpoints; error: {measured}")
    if not wide:
        console().print(f"{WIDE} columns show all exact algorithms, and what training took")


@app.command("show")
@clean
def show_command(
    name: Annotated[str, typer.Argument(help="A name, path or address.")],
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Show the card of a checkpoint."""
    card = find_card(name, url)
    if as_json:
        print_json(card.model_dump(mode="json"))
        return
    table = new_table("field", "value")
    for field, value in card_fields(card).items():
        table.add_row(field, value)
    console().print(table)
    table = new_table("metric", "value", "median", "worst\n0.1 %", "episodes")
    exact = {f"{name} (exact)": entry for name, entry in card.reference_metrics.items()}
    for metric, entry in {**card.metrics, **exact}.items():
        value = in_cell(number(metric, entry))
        table.add_row(metric, value, *tail(entry), f"{entry.num_episodes:,}")
    console().print(table)


@app.command("download")
@clean
def download_command(names: Names, url: Url = None) -> None:
    """Fetch checkpoints into the cache."""
    location = url or os.environ.get(URL_VARIABLE)
    if not location and any("://" not in name for name in names):
        raise ValueError(f"where from? give --url, or set {URL_VARIABLE}")
    for name in names:
        with progress_bar(name) as report:
            if location and "://" not in name:
                directory = download(*find_remote(name, location), report)
                check_asked(name, read_card(directory))
            else:
                directory = find_checkpoint(name, progress=report)
        print(f"{name}  {directory}")


@app.command("verify")
@clean
def verify_command(
    names: Annotated[
        list[str] | None, typer.Argument(help="Names or paths; all that are here unless given.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check schema, hashes, shapes and that weights are finite."""
    places: dict[str, Path] = {}
    for name in names or []:
        places[name] = local(name)
    if not names:
        here = [path for path in sorted(CHECKPOINTS.glob("*/")) if path.is_dir()]
        places |= {path.name: path for path in here if not path.name.endswith(STAGING)}
        cached = (cache_directory() / "checkpoints").glob("*/card.json")
        places |= {str(path.parent): path.parent for path in sorted(cached)}
    problems = {name: problem_of(name, path) for name, path in places.items()}
    if as_json:
        print_json([{"name": name, "error": problem} for name, problem in problems.items()])
    else:
        for name, problem in problems.items():
            print(f"{one_line(name)}: {problem or 'ok'}")
    if any(problems.values()):
        raise typer.Exit(1)


@app.command("export")
@clean
def export_command(
    run: Annotated[Path, typer.Argument(help="Directory of a run, or of its checkpoint.")],
    name: Annotated[
        str | None,
        typer.Argument(help="architecture.tag, of further seeds with @SEED; its own unless given."),
    ] = None,
    directory: Directory = CHECKPOINTS,
    replace: Annotated[bool, typer.Option("--replace", help="Replace one of that name.")] = False,
) -> None:
    """Copy a run's checkpoint under a name, ready to be served."""
    from zoo.hub.export import export  # brings torch, as below

    print(export(run, name, directory, replace))


@app.command("compare")
@clean
def compare_command(names: Names, url: Url = None, as_json: Json = False) -> None:
    """Compare checkpoints and exact algorithms on the same episodes."""
    found = comparisons([find_card(name, url) for name in dict.fromkeys(names)])
    if as_json:
        print_json([comparison_data(comparison) for comparison in found])
        return
    for comparison in found:
        table = new_table(
            "predictor",
            "params\nstate\ntokens",
            "error",
            f"/ {comparison.reference}",
            "episodes\ntime",
        )
        for row in comparison.rows:
            entry = row.entry
            table.add_row(
                row.name,
                size(entry) if entry else "",
                two_lines(row.error),
                two_lines(row.ratio) if row.ratio else "",
                cost(entry) if entry else "",
            )
        label = loss_label(comparison.metric, at_place=True)
        measured = f"{label}, {comparison.num_episodes} test episodes"
        console().print(f"{comparison.episodes}: {measured}")
        console().print(table)


@app.command("measure")
@clean
def measure_command(
    names: Annotated[list[str], typer.Argument(help="Names or paths.")],
    episodes: Annotated[
        int, typer.Option(min=1, help="Test episodes; ten times as many where few carry the mean.")
    ] = 10_000,
    text: Annotated[
        Path | None, typer.Option(help="The text of your own that they were trained on.")
    ] = None,
) -> None:
    """Measure checkpoints again: their cards get today's numbers, the weights stay."""
    from datamodules.text import open_text
    from zoo.commands.measure import measure  # brings Lightning

    if text is not None:
        open_text(text)
    for place in [local(name) for name in names]:
        measure(place, episodes)


@app.command("sweep")
@clean
def sweep_command(
    directory: Annotated[Path, typer.Argument(help="Directory of runs, such as hydra.sweep.dir.")],
) -> None:
    """Summarise the runs of a multirun over their seeds, in tables and summary.csv."""
    from zoo.commands.sweep import sweep  # brings Lightning

    sweep(directory)


@app.command("index")
@clean
def index_command(
    directory: Directory = CHECKPOINTS,
    check: Annotated[bool, typer.Option("--check", help="Only say what is stale.")] = False,
) -> None:
    """Renew index.json, the model cards and docs/zoo.md from the cards."""
    from zoo.hub.export import stale_files, write_generated

    stale = [*stale_files(directory)] if check else write_generated(directory)
    for path in stale:
        print(f"{'stale' if check else 'wrote' if path.exists() else 'removed'} {path}")
    print(f"{len(read_index(directory).checkpoints)} checkpoints in {directory}")
    if check and stale:
        raise typer.Exit(1)


def local(name: str) -> Path:
    """The directory of a checkpoint that is on this machine.

    Raises:
        CheckpointError: If it is not.
    """
    place = locate(name)
    if not isinstance(place, Path):
        raise CheckpointError(f"{name} is not here; python -m zoo download {name}")
    return place


def problem_of(name: str, directory: Path) -> str | None:
    """Why a checkpoint cannot be used, None if it can."""
    from zoo.hub.io import check_checkpoint

    try:
        check_asked(name, check_checkpoint(directory))
    except (CheckpointError, OSError) as error:
        return one_line(str(error))
    return None


def card_fields(card: Card) -> dict[str, str]:
    """What the card says beside metrics, each on a line."""
    training = card.training
    return {
        "name": card.name,
        "architecture": card.architecture,
        "arguments": json.dumps(card.model_args),
        "parameters": f"{card.num_parameters:,} ({card.dtype})",
        "state": f"{card.state_size:,} numbers",
        "tokens": card.token_layout,
        "data": json.dumps(card.data),
        "training": f"{training.steps:,} steps, {training.episodes:,} episodes, "
        f"{training.wall_time_s:,.0f} s, seed {training.seed}",
        "seeds, rates": protocol_text(training),
        "command": card.command,
        "commit": card.git_commit or "unknown",
        "created": f"{card.created:%Y-%m-%d}",
        "license": card.license,
        "paper": card.paper,
        **({"notes": card.notes} if card.notes else {}),
    }


def comparison_data(comparison: Comparison) -> dict[str, Any]:
    """A comparison as plain data."""
    rows = [
        {
            "name": row.name,
            "error": row.error.model_dump(),
            "ratio": row.ratio and row.ratio.model_dump(),
            "checkpoint": row.entry and row.entry.model_dump(mode="json"),
        }
        for row in comparison.rows
    ]
    fields = comparison._asdict() | {"rows": rows}
    del fields["cards"]
    return fields


@contextmanager
def progress_bar(name: str) -> Iterator[Progress | None]:
    """Shows how far a download is, where somebody may be looking."""
    terminal = Console(stderr=True)
    if not terminal.is_terminal:
        yield None
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn())
    with Bar(*columns, console=terminal, transient=True) as bar:
        task = bar.add_task(name, total=None)

        def report(address: str, done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield report


def two_lines(entry: MetricEntry) -> str:
    """A value and its 95 % interval, in a narrow column."""
    return in_cell(number_text(entry)).replace(" ±", "\n±")


def size(entry: IndexEntry) -> str:
    """The numbers of a model, those in its state, and how pairs become tokens, on three lines."""
    return f"{entry.num_parameters:,}\n{entry.state_size:,}\n{entry.token_layout}"


def cost(entry: IndexEntry) -> str:
    """The episodes and seconds that training took, on two lines."""
    return f"{entry.episodes:,}\n{entry.wall_time_s:,.0f} s"


def new_table(*titles: str) -> Table:
    """A table that folds instead of cutting where a terminal is narrow."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for title in titles:
        table.add_column(title.replace("_", " "), overflow="fold")
    return table


def console() -> Console:
    """The terminal that results are printed to, as plain text."""
    return Console(highlight=False, markup=False, emoji=False)


def print_json(content: Any) -> None:
    """Plain data, as other programs read it."""
    print(json.dumps(content, indent=2))


def main() -> None:
    """Reads the command line, to the exit of the process; what cannot be read is one line."""
    raise_on_signals()
    try:
        code = app(sys.argv[1:] or ["--help"], prog_name="python -m zoo", standalone_mode=False)
    except UsageError as error:
        reason = error.format_message().replace("Value error, ", "")
        where = error.ctx.command_path if error.ctx is not None else "python -m zoo"
        sys.exit(f"error: {one_line(reason)} {where} --help says more")
    sys.exit(code)
