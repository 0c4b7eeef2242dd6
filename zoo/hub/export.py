"""From a run to a directory of checkpoints that any file server can serve as it is."""

import shutil
import subprocess
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from zoo.files import REPLACED, one_at_a_time, sha256_of, write_directory, write_file
from zoo.hub.card import SCHEMA_VERSION, Card, CheckpointError, TrainingEntry, parse_card
from zoo.hub.directory import CARD, WEIGHTS, card_bytes, read_card
from zoo.hub.find import CHECKPOINTS, CLONE
from zoo.hub.index import (
    INDEX,
    Index,
    IndexEntry,
    build_index,
    check_name,
    index_bytes,
    index_entry,
)
from zoo.hub.io import check_checkpoint
from zoo.hub.leaderboard import leaderboard
from zoo.hub.pages import comparisons, model_card

README = "README.md"
LOCK = ".lock"
# The page with the leaderboard of the repository's checkpoints; the rest of it is written by hand.
PAGE = CHECKPOINTS.parent / "docs" / "zoo.md"
CHARTS = Path("figures", "zoo")  # beside the page
BEGIN = "<!-- leaderboard, made by: python -m zoo index -->"
END = "<!-- end of the leaderboard -->"


class Export(NamedTuple):
    """A checkpoint that is to be there under a name.

    Attributes:
        run: Directory of the run, or of its checkpoint.
        name: `architecture.tag`, for another seed of a training `architecture.tag@SEED`; the run's
            own if None.
        training: Fields of the card's `training` that the run itself could not know.
    """

    run: Path
    name: str | None = None
    training: Mapping[str, Any] = {}


class Checked(NamedTuple):
    """What is written of an export, and its row in the index.

    Attributes:
        card: The card.
        data: The content of `card.json`.
        entry: The row.
        weights: The content of `model.safetensors`.
    """

    card: Card
    data: bytes
    entry: IndexEntry
    weights: bytes


def export(
    run: Path, name: str | None = None, directory: Path = CHECKPOINTS, replace: bool = False
) -> Path:
    """Copies a run's checkpoint under a name, once it is checked, and renews what lists it.

    Args:
        run: As `Export` has it.
        name: As `Export` has it.
        directory: Of the checkpoints.
        replace: Whether one of that name may be replaced.

    Returns:
        The new directory: `card.json`, `model.safetensors` and `README.md`.

    Raises:
        CheckpointError: As `export_all`.
        OSError: As `export_all`.
    """
    return export_all([Export(run, name)], directory, replace)[0]


def export_all(
    exports: Sequence[Export], directory: Path = CHECKPOINTS, replace: bool = False
) -> list[Path]:
    """Copies the checkpoints of several runs, once all are checked, and renews what lists them.

    Files that git tracks and that change are named in a warning.

    Args:
        exports: Of different names.
        directory: Of the checkpoints.
        replace: Whether those of these names may be replaced.

    Returns:
        The new directories, in the order of the exports.

    Raises:
        CheckpointError: If a checkpoint or a name cannot be used, a name is taken, or another
            checkpoint in the directory is broken; then nothing is written.
        OSError: If the directory cannot be written.
    """
    _check_not_installed(directory)
    made = {one.card.name: one for one in map(checked, exports)}
    if len(made) < len(exports):
        raise CheckpointError(f"{len(exports)} exports have {len(made)} different names")
    with one_at_a_time(directory / LOCK):
        checkpoints = build_index(directory).checkpoints
        for name in made:
            if (directory / name).exists() and not replace:
                raise CheckpointError(f"{directory / name} exists; --replace replaces it")
        others = [read_card(directory / name) for name in checkpoints if name not in made]
        entries = {name: one.entry for name, one in made.items()}
        # Everything is made before anything is written: it may turn out that it cannot be.
        cards = [*(one.card for one in made.values()), *others]
        stale = _stale(directory, checkpoints | entries, cards)
        for name, (card, data, _, weights) in made.items():
            readme = model_card(card).encode()
            write_directory(directory / name, {WEIGHTS: weights, CARD: data, README: readme})
        _renew(stale)
    targets = [directory / name for name in made]
    if changed := tracked([*(path for target in targets for path in target.iterdir()), *stale]):
        warnings.warn(
            f"files that git tracks have changed: {', '.join(changed)}; --directory DIR keeps a "
            "collection of your own",
            stacklevel=2,
        )
    return targets


def checked(given: Export) -> Checked:
    """The checkpoint of a run under its name, as far as it can be listed.

    Raises:
        CheckpointError: If it or the name cannot be used.
    """
    run = given.run
    source = run / "checkpoint" if (run / "checkpoint" / CARD).is_file() else run
    card = check_checkpoint(source)
    name = card.name if given.name is None else given.name
    check_name(name, card, source / CARD)
    training = TrainingEntry.model_validate(card.training.model_dump() | dict(given.training))
    fields = card.model_dump() | {"name": name, "training": training.model_dump()}
    try:
        card = Card.model_validate(fields)
    except ValueError:
        raise CheckpointError(
            f"{name!r} is not a name: letters, digits and _.- only, then perhaps @SEED"
        ) from None
    data = card_bytes(card)
    parse_card(data, source / CARD)  # written in another way, it may be too large
    entry = index_entry(card, data, source / CARD)
    weights = (source / WEIGHTS).read_bytes()
    if sha256_of(weights) != card.files[WEIGHTS].sha256:
        raise CheckpointError(f"{source / WEIGHTS} changed while it was read")
    return Checked(card, data, entry, weights)


def remove(name: str, directory: Path, force: bool = False) -> Path:
    """Removes a checkpoint from a directory, and renews what lists it.

    Args:
        name: Of the checkpoint.
        directory: Of the checkpoints.
        force: Whether it may be one that git tracks.

    Returns:
        Where it was.

    Raises:
        CheckpointError: If there is none of that name, it is tracked, or another checkpoint in the
            directory is broken; then nothing is removed.
    """
    _check_not_installed(directory)
    target = directory / name
    if name not in [path.parent.name for path in directory.glob(f"*/{CARD}")]:
        raise CheckpointError(f"{directory} has no checkpoint {name!r}")
    if tracked(target.iterdir()) and not force:
        raise CheckpointError(f"git tracks {target}: --force removes it from the working tree")
    with one_at_a_time(directory / LOCK):
        aside = directory / f"{name}{REPLACED}"  # which is passed over
        target.rename(aside)
        try:
            stale = stale_files(directory)
        except BaseException:
            aside.rename(target)
            raise
        _renew(stale)
        shutil.rmtree(aside)
    return target


def tracked(paths: Iterable[Path]) -> list[str]:
    """Of some files those that git tracks, by their paths in the repository; none without one."""
    folders: dict[Path, list[str]] = {}
    for path in paths:
        folders.setdefault(path.parent, []).append(path.name)
    found: list[str] = []
    for folder, names in folders.items():
        command = ["git", "-C", str(folder), "ls-files", "--full-name", "--", *names]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError:  # there is no git
            return []
        found += done.stdout.splitlines()
    return sorted(found)


def write_generated(directory: Path = CHECKPOINTS) -> list[Path]:
    """Renews everything that is made from the cards in a directory.

    Returns:
        The files that were stale, those included that are removed.

    Raises:
        CheckpointError: If a card cannot be used.
        OSError: If a file cannot be written.
    """
    _check_not_installed(directory)
    with one_at_a_time(directory / LOCK):
        stale = stale_files(directory)
        _renew(stale)
    return list(stale)


def stale_files(directory: Path = CHECKPOINTS) -> dict[Path, bytes | None]:
    """The files made from cards that are not what the cards say, with what they should hold.

    These are `index.json`, the `README.md` of every checkpoint and, for the checkpoints of the
    repository, `docs/zoo.md` with its figures. None stands for a figure of nothing that is there.

    Raises:
        CheckpointError: If a card cannot be used.
    """
    _check_not_installed(directory)
    checkpoints = build_index(directory).checkpoints
    return _stale(directory, checkpoints, [read_card(directory / name) for name in checkpoints])


def _check_not_installed(directory: Path) -> None:
    if CLONE is None and directory.resolve() == CHECKPOINTS.resolve():
        raise CheckpointError(
            f"{directory} belongs to an installed package, which nothing is written to: do this in "
            "a clone of the repository, or give a --directory"
        )


def _stale(
    directory: Path, checkpoints: dict[str, IndexEntry], cards: list[Card]
) -> dict[Path, bytes | None]:
    cards = sorted(cards, key=lambda card: card.name)
    index = Index(schema_version=SCHEMA_VERSION, checkpoints=dict(sorted(checkpoints.items())))
    wanted = {directory / INDEX: index_bytes(index)}
    for card in cards:
        wanted[directory / card.name / README] = model_card(card).encode()
    stale: dict[Path, bytes | None] = {}
    if directory.resolve() == CHECKPOINTS:
        wanted[PAGE] = _with_leaderboard(PAGE, cards).encode()
        stale = _stale_charts(cards)
    return stale | {
        path: content
        for path, content in wanted.items()
        if not path.is_file() or path.read_bytes() != content
    }


def _renew(stale: dict[Path, bytes | None]) -> None:
    for path, content in stale.items():
        if content is None:
            path.unlink()
        else:
            write_file(path, content)


def _stale_charts(cards: list[Card]) -> dict[Path, bytes | None]:
    from zoo.hub.charts import chart, shows  # matplotlib, which nothing else here needs

    folder = PAGE.parent / CHARTS
    wanted = {folder / f"{c.slug}.svg": c for c in comparisons(cards)}
    stale: dict[Path, bytes | None] = {
        path: None for path in sorted(folder.glob("*.svg")) if path not in wanted
    }
    return stale | {
        path: chart(comparison)
        for path, comparison in wanted.items()
        if not path.is_file() or not shows(path.read_bytes(), comparison)
    }


def _with_leaderboard(page: Path, cards: list[Card]) -> str:
    text = page.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise CheckpointError(f"{page} has no place for the leaderboard: {BEGIN} ... {END}")
    return f"{before}{begin}\n\n{leaderboard(cards)}\n{end}{after}"
