"""The command line of the zoo: `python -m zoo --help`."""

import functools
import json
import os
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal, ParamSpec

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TextColumn
from rich.progress import Progress as Bar

from zoo.evaluation.tables import Grid
from zoo.files import STAGING
from zoo.hub.addresses import is_elsewhere
from zoo.hub.card import Card, CheckpointError, MetricEntry, one_line
from zoo.hub.directory import CARD, read_card
from zoo.hub.download import (
    Progress,
    cache_directory,
    download,
    index_at,
    is_offline,
    remove_cached,
)
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
from zoo.terminal import StoppedBySignal, plain_warning, raise_on_signals

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
    patterns: Annotated[
        list[str] | None, typer.Argument(help="A part of the name, or a pattern: 'gd_ssm*.linear'.")
    ] = None,
    architecture: Annotated[str | None, typer.Option(help="Only this architecture.")] = None,
    family: Annotated[str | None, typer.Option(help="Only this function family.")] = None,
    sort: Annotated[
        Literal["name", "family", "parameters", "state", "error", "episodes", "time"],
        typer.Option(metavar="COLUMN", help=f"To sort by: {', '.join(SORT_KEYS)}."),
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
        if any(matches(name, pattern) for pattern in patterns or ["*"])
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
    headings = ["checkpoint", "params", "error", "exact", "best exact", "state", "tokens"]
    grid = Grid([*headings, "episodes seen", "seconds"], least=1, one_line=True, framed=False)
    for name, entry in found:
        label, best = min(
            entry.references.items(), key=lambda item: item[1].value, default=("", None)
        )
        grid.add(
            name,
            f"{entry.num_parameters:,}",
            f"{plain(entry.error.value, 3)}{'*' if is_heavy(entry.error) else ''}",
            "" if best is None else plain(best.value, 3),
            label,
            f"{entry.state_size:,}",
            entry.token_layout,
            f"{entry.episodes:,}",
            f"{entry.wall_time_s:,.0f}",
        )
    console().print(grid)
    places: dict[str, set[str]] = {}
    for _, entry in found:
        places.setdefault(place_text(place_of(entry.metric)), set()).add(loss_label(entry.metric))
    measured = "; ".join(f"{', '.join(sorted(losses))} {at}" for at, losses in places.items())
    console().print(f"{len(found)} checkpoints; error: {measured}; exact: the best algorithm's")
    if any(is_heavy(entry.error) for _, entry in found):
        console().print("* few episodes carry the mean; show NAME says more")


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
    for title, fields in sections_of(card).items():
        console().print(f"{title}:", soft_wrap=True)
        width = max(map(len, fields), default=0)
        for field, value in fields.items():
            print_wrapped(f"  {field:{width}}  ", value)
        console().print()
    exact = {f"{name} (exact)": entry for name, entry in card.reference_metrics.items()}
    grid = Grid(["metric", "value", "median", "worst 0.1 %", "episodes"], framed=False)
    for metric, entry in {**card.metrics, **exact}.items():
        grid.add(metric, in_cell(number(metric, entry)), *tail(entry), f"{entry.num_episodes:,}")
    console().print(grid)
    if card.curves:
        console().print("\nerror after 0, 1, ... examples:")
        width = max(map(len, card.curves))
        for name, curve in card.curves.items():
            values = ("-" if point is None else plain(point.value, 3) for point in curve)
            print_wrapped(f"  {name:{width}}  ", " ".join(values))


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


@app.command("remove")
@clean
def remove_command(
    names: Annotated[list[str], typer.Argument(help="Names.")],
    directory: Annotated[
        Path | None, typer.Option(help="Directory of checkpoints, instead of the cache.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Also one that git tracks.")] = False,
) -> None:
    """Remove checkpoints from the cache, or from a directory and its index."""
    from zoo.hub.export import remove

    for name in dict.fromkeys(names):
        removed = remove_cached(name) if directory is None else []
        if not removed:
            if directory is None and not (CHECKPOINTS / name / CARD).is_file():
                raise CheckpointError(f"neither the cache nor {CHECKPOINTS} has {name!r}")
            removed = [remove(name, directory or CHECKPOINTS, force)]
        for place in removed:
            print(f"removed {place}")


@app.command("push")
@clean
def push_command(
    name: Annotated[str, typer.Argument(help="A name, path or address.")],
    target: Annotated[str, typer.Argument(help="hf://USER/REPOSITORY, or what fsspec writes.")],
    collection: Annotated[
        bool,
        typer.Option("--collection", help="Begin a directory of checkpoints where no index is."),
    ] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Replace one that is there.")] = False,
    url: Url = None,
) -> None:
    """Copy a checkpoint to Hugging Face or elsewhere, and renew the index there."""
    if is_elsewhere(target) and not is_offline():
        index_at(target)  # a place that does not answer is named before torch is imported

    from zoo.hub.push import push

    with progress_bar(name) as report:
        directory = find_checkpoint(name, url, report)
    print(push(directory, target, collection, replace))


@app.command("compare")
@clean
def compare_command(names: Names, url: Url = None, as_json: Json = False) -> None:
    """Compare checkpoints and exact algorithms on the same episodes."""
    found = comparisons(cards_of(names, url))
    if as_json:
        print_json([comparison_data(comparison) for comparison in found])
        return
    for comparison in found:
        headings = ["predictor", "error", f"/ {comparison.reference.replace('_', ' ')}", "params"]
        grid = Grid(
            [*headings, "state", "tokens", "episodes seen", "seconds"], least=2, framed=False
        )
        grid.caption = (
            "±: over test episodes, one seed each; docs/zoo.md has means of those shipped"
        )
        for row in comparison.rows:
            entry = row.entry
            numbers = ["", "", "", "", ""]
            if entry is not None:
                numbers = [f"{entry.num_parameters:,}", f"{entry.state_size:,}", entry.token_layout]
                numbers += [f"{entry.episodes:,}", f"{entry.wall_time_s:,.0f}"]
            ratio = number_text(row.ratio) if row.ratio else ""
            grid.add(row.name, number_text(row.error), ratio, *numbers)
        label = loss_label(comparison.metric, at_place=True)
        measured = f"{label}, {comparison.num_episodes} test episodes"
        console().print(f"{comparison.episodes}: {measured}")
        console().print(grid)


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


@app.command("runs")
@clean
def runs_command(
    directory: Annotated[Path, typer.Argument(help="Directory of runs, at any depth, or a run.")],
    by: Annotated[
        str | None, typer.Option(help="A setting to tell rows apart and sort by, as optim.lr.")
    ] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print comma-separated values.")] = False,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="Print a table of Markdown.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, with every number of every seed.")
    ] = False,
) -> None:
    """Show what training runs reached: a row for each architecture and setting, over seeds."""
    if as_csv + as_markdown + as_json > 1:
        raise ValueError("--csv, --markdown and --json are one choice, got several")
    from zoo.commands import runs  # brings torch
    from zoo.training.rows import rows_of
    from zoo.training.runs import read_runs, without_trials

    everything = read_runs(directory)
    found, trials = without_trials(everything, directory)
    rows = rows_of(found, by, trials)
    notes = runs.notes_of(everything, rows, len(trials))
    if as_json:
        print_json(runs.as_data(rows, everything))
    elif as_csv:
        print(runs.as_csv(rows), end="")
    elif as_markdown:
        print(runs.as_markdown(rows))
    else:
        runs.show(rows, found, console(), by)
    if not as_json:
        for note in notes:
            print(note, file=sys.stderr if as_csv or as_markdown else sys.stdout)


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


def matches(name: str, pattern: str) -> bool:
    """Whether a name matches a pattern of a shell, or has a text in it."""
    has_signs = any(sign in pattern for sign in "*?[")
    return fnmatchcase(name, pattern) if has_signs else pattern in name


def is_heavy(error: MetricEntry) -> bool:
    """Whether few episodes carry a mean error, so that it has no interval."""
    return error.ci95 is None and error.tail_share is not None


def cards_of(names: Iterable[str], url: str | None) -> list[Card]:
    """The cards of checkpoints, of each once; of others of one name the latter are as typed."""
    found: list[Card] = []
    labelled: dict[str, Card] = {}
    for name in names:
        card = find_card(name, url)
        if card not in found:
            found.append(card)
            label = name if card.name in labelled else card.name
            labelled[label] = card.model_copy(update={"name": label})
    return [*labelled.values()]


def sections_of(card: Card) -> dict[str, dict[str, str]]:
    """What a card says beside metrics and curves: by section, each field by its name.

    Of rates that were tried by several seeds the mean error alone.
    """
    training = card.training
    # What "seeds, rates" says is not said twice.
    optimizer = {n: v for n, v in training.optimizer.items() if not n.startswith("rates")}
    return {
        "model": {
            "name": card.name,
            "architecture": card.architecture,
            "parameters": f"{card.num_parameters:,} ({card.dtype})",
            "state": f"{card.state_size:,} numbers",
            "tokens": card.token_layout,
            **texts_of(card.model_args),
        },
        "episodes": texts_of(card.data),
        "training": {
            "steps": f"{training.steps:,} of {training.batch_size} episodes, "
            f"{training.episodes:,} in all",
            "seconds": f"{training.wall_time_s:,.0f}",
            "seed": str(training.seed),
            "seeds, rates": protocol_text(training),
            "loss": place_text(training.loss_at) if training.loss_at else "unknown",
            "precision": f"{training.precision}, devices {training.devices}",
            **{f"optimizer.{n}": text for n, text in texts_of(optimizer).items()},
            **{f"schedule.{n}": text for n, text in texts_of(training.schedule).items()},
        },
        "origin": {
            "command": card.command,
            "commit": card.git_commit or "unknown",
            "created": f"{card.created:%Y-%m-%d}",
            "versions": ", ".join(f"{name} {number}" for name, number in card.versions.items()),
            "license": card.license,
            "paper": card.paper or "none",
            **({"notes": card.notes} if card.notes else {}),
        },
        **{
            name: {"bytes": f"{file.bytes:,}", "sha256": file.sha256}
            for name, file in card.files.items()
        },
    }


def texts_of(settings: dict[str, Any]) -> dict[str, str]:
    """Settings by dotted name, each as text."""
    found: dict[str, str] = {}
    for name, value in settings.items():
        if isinstance(value, dict) and value:
            found |= {f"{name}.{below}": text for below, text in texts_of(value).items()}
        else:
            found[name] = value if isinstance(value, str) else json.dumps(value)
    return found


def print_wrapped(start: str, text: str) -> None:
    """A field with a text that goes on below its own beginning, or further left for long words.

    Words stay whole, so that they can be copied.
    """
    longest = max(map(len, text.split()), default=0)
    indent = " " * max(0, min(len(start), console().width // 2, console().width - longest))
    width = max(console().width, len(indent) + 20)
    lines = textwrap.wrap(
        text,
        width,
        initial_indent=start,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    console().print("\n".join(lines) or start, soft_wrap=True)


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


def console() -> Console:
    """The terminal that results are printed to, as plain text."""
    return Console(highlight=False, markup=False, emoji=False)


def print_json(content: Any) -> None:
    """Plain data, as other programs read it."""
    print(json.dumps(content, indent=2))


def main() -> None:
    """Reads the command line, to the exit of the process; what cannot be read is one line."""
    raise_on_signals()
    warnings.formatwarning = plain_warning
    try:
        code = app(sys.argv[1:] or ["--help"], prog_name="python -m zoo", standalone_mode=False)
    except UsageError as error:
        reason = error.format_message().replace("Value error, ", "")
        where = error.ctx.command_path if error.ctx is not None else "python -m zoo"
        sys.exit(f"error: {one_line(reason)} {where} --help says more")
    sys.exit(code)
