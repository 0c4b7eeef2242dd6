"""From a run to a directory of checkpoints that any file server can serve as it is."""

from pathlib import Path

from zoo.hub.card import Card, CheckpointError
from zoo.hub.find import CHECKPOINTS
from zoo.hub.index import INDEX, build_index, check_name, index_bytes, index_entry
from zoo.hub.io import (
    CARD,
    WEIGHTS,
    card_bytes,
    check_checkpoint,
    read_card,
    sha256_of,
    write_directory,
    write_file,
)
from zoo.hub.pages import comparisons, leaderboard, model_card

README = "README.md"
# The page with the leaderboard of the repository's checkpoints; the rest of it is written by hand.
PAGE = CHECKPOINTS.parent / "docs" / "zoo.md"
CHARTS = Path("figures", "zoo")  # beside the page
BEGIN = "<!-- leaderboard, made by: python -m zoo index -->"
END = "<!-- end of the leaderboard -->"


def export(
    run: Path, name: str | None = None, directory: Path = CHECKPOINTS, replace: bool = False
) -> Path:
    """Copies a run's checkpoint under a name, once it is checked, and renews what lists it.

    Args:
        run: Directory of the run, or of its checkpoint.
        name: `architecture.tag`; the run's own if not given.
        directory: Of the checkpoints.
        replace: Whether one of that name may be replaced.

    Returns:
        The new directory: `card.json`, `model.safetensors` and `README.md`.

    Raises:
        CheckpointError: If the checkpoint or the name cannot be used, the name is taken, or another
            checkpoint in the directory is broken.
        OSError: If the directory cannot be written.
    """
    source = run / "checkpoint" if (run / "checkpoint" / CARD).is_file() else run
    card = check_checkpoint(source)
    name = card.name if name is None else name
    check_name(name, card, source / CARD)
    try:
        card = Card.model_validate(card.model_dump() | {"name": name})
    except ValueError:
        raise CheckpointError(f"{name!r} is not a name: letters, digits and _.- only") from None
    index_entry(card, card_bytes(card), source / CARD)
    build_index(directory)
    target = directory / name
    if target.exists() and not replace:
        raise CheckpointError(f"{target} exists; --replace replaces it")
    weights = (source / WEIGHTS).read_bytes()
    if sha256_of(weights) != card.files[WEIGHTS].sha256:
        raise CheckpointError(f"{source / WEIGHTS} changed while it was read")
    readme = model_card(card).encode()
    write_directory(target, {WEIGHTS: weights, CARD: card_bytes(card), README: readme})
    write_generated(directory)
    return target


def write_generated(directory: Path = CHECKPOINTS) -> list[Path]:
    """Renews everything that is made from the cards in a directory.

    Returns:
        The files that were stale.

    Raises:
        CheckpointError: If a card cannot be used.
        OSError: If a file cannot be written.
    """
    stale = stale_files(directory)
    for path, content in stale.items():
        write_file(path, content)
    return list(stale)


def stale_files(directory: Path = CHECKPOINTS) -> dict[Path, bytes]:
    """The files made from cards that are not what the cards say, with what they should hold.

    These are `index.json`, the `README.md` of every checkpoint and, for the checkpoints of the
    repository, `docs/zoo.md` with its figures.

    Raises:
        CheckpointError: If a card cannot be used.
    """
    index = build_index(directory)
    cards = [read_card(directory / name) for name in index.checkpoints]
    wanted = {directory / INDEX: index_bytes(index)}
    for card in cards:
        wanted[directory / card.name / README] = model_card(card).encode()
    stale = {}
    if directory.resolve() == CHECKPOINTS:
        wanted[PAGE] = _with_leaderboard(PAGE, cards).encode()
        stale = _stale_charts(cards)
    return stale | {
        path: content
        for path, content in wanted.items()
        if not path.is_file() or path.read_bytes() != content
    }


def _stale_charts(cards: list[Card]) -> dict[Path, bytes]:
    from zoo.hub.charts import chart, shows  # matplotlib, which nothing else here needs

    paths = {PAGE.parent / CHARTS / f"{c.slug}.svg": c for c in comparisons(cards)}
    return {
        path: chart(comparison)
        for path, comparison in paths.items()
        if not path.is_file() or not shows(path.read_bytes(), comparison)
    }


def _with_leaderboard(page: Path, cards: list[Card]) -> str:
    text = page.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise CheckpointError(f"{page} has no place for the leaderboard: {BEGIN} ... {END}")
    return f"{before}{begin}\n\n{leaderboard(cards)}\n{end}{after}"
