"""From a name, path or address to a checkpoint."""

import os
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pydantic import TypeAdapter, ValidationError

from zoo.errors import did_you_mean, nearest
from zoo.hub.card import Card, CheckpointError, CheckpointName, parse_card
from zoo.hub.directory import CARD, read_card
from zoo.hub.download import (
    Progress,
    cached_checkpoint,
    cached_indexes,
    download,
    fetch_card,
    fetch_index,
    is_whole,
    join,
)
from zoo.hub.index import IndexEntry, read_index

if TYPE_CHECKING:
    import torch

    from zoo.predictor import Predictor

# The clone that this package is used from, None where it was installed from a wheel, which has the
# checkpoints inside.
_ROOT = Path(__file__).parents[2]
CLONE = _ROOT if (_ROOT / "docs" / "zoo.md").is_file() else None
CHECKPOINTS = (CLONE or _ROOT / "zoo") / "checkpoints"
URL_VARIABLE = "ICL_ZOO_URL"


class Remote(NamedTuple):
    """A checkpoint somewhere else.

    Attributes:
        address: Of its directory.
        entry: Its row in the index there, None if it was asked for by its address.
    """

    address: str
    entry: IndexEntry | None


def load(
    name_or_path: str | os.PathLike[str],
    device: "torch.device | str" = "cpu",
    dtype: "torch.dtype | None" = None,
    url: str | None = None,
) -> "Predictor":
    """The model of a checkpoint, ready for predictions; fetched if need be.

    It is in eval mode and its parameters require no gradient, so that a stream of any length keeps
    no history; `model.requires_grad_()` turns that back on.

    Args:
        name_or_path: One of three. A name, such as `gd_ssm.linear`, with `@1` at its end for the
            seed 1 of that training: looked for among the checkpoints of the repository, then in the
            cache, then in the index at `ICL_ZOO_URL`. A path, such as `runs/TIME/checkpoint`: a
            string with a separator, `./NAME` for a directory here. The address of a checkpoint's
            directory, such as `https://HOST/checkpoints/gd_ssm.linear`.
        device: Where to.
        dtype: Type of the weights; as stored unless given.
        url: Location of an index to take the name from, instead of the repository and
            `ICL_ZOO_URL`: anything that fsspec reads, `https://`, `hf://`, `s3://` or a path.

    Raises:
        ValueError: If no checkpoint is known by the name.
        zoo.hub.card.CheckpointError: If the checkpoint cannot be fetched, is not what its card and
            index say, or cannot be used.
    """
    directory = find_checkpoint(name_or_path, url)
    from zoo.hub.io import load_checkpoint  # brings torch, which a wrong name does not need

    return load_checkpoint(directory, device, dtype)


def list_checkpoints(pattern: str = "*", url: str | None = None) -> list[str]:
    """Names of the checkpoints that `load` knows.

    Args:
        pattern: As in a shell, such as `gd_ssm*.linear`.
        url: Location of an index, instead of the repository and `ICL_ZOO_URL`.

    Raises:
        zoo.hub.card.CheckpointError: If an index cannot be read.
    """
    return sorted(name for name in known_checkpoints(url) if fnmatchcase(name, pattern))


def known_checkpoints(url: str | None = None) -> dict[str, IndexEntry]:
    """The rows of the repository's index and of that at `ICL_ZOO_URL`, or of the one at `url`."""
    if url is not None:
        return fetch_index(url).checkpoints
    remote = os.environ.get(URL_VARIABLE)
    elsewhere = fetch_index(remote).checkpoints if remote else {}
    return elsewhere | read_index(CHECKPOINTS).checkpoints


def find_checkpoint(
    given: str | os.PathLike[str], url: str | None = None, progress: Progress | None = None
) -> Path:
    """The directory of a checkpoint, fetched if need be; arguments as those of `load`."""
    place = locate(given, url)
    directory = download(*place, progress) if isinstance(place, Remote) else place
    check_asked(given, read_card(directory))
    return directory


def find_card(given: str | os.PathLike[str], url: str | None = None) -> Card:
    """The card of a checkpoint, without its weights; arguments as those of `load`."""
    place = locate(given, url)
    if isinstance(place, Remote):
        card = parse_card(fetch_card(*place), join(place.address, CARD))
    else:
        card = read_card(place)
    check_asked(given, card)
    return card


def check_asked(given: str | os.PathLike[str], card: Card) -> None:
    """Raises CheckpointError if a checkpoint was asked for by a name and its card has another."""
    if isinstance(given, str) and _is_name(given) and card.name != given:
        raise CheckpointError(f"{given} was asked for, and its card is that of {card.name}")


def locate(given: str | os.PathLike[str], url: str | None = None) -> Path | Remote:
    """Where a checkpoint is: a directory here, or somewhere else; arguments as those of `load`."""
    if not isinstance(given, str):
        return Path(given)
    if "://" in given:
        return Remote(given, None)
    if os.sep in given or (os.altsep is not None and os.altsep in given):
        return Path(given)
    if _is_name(given):
        if url is None and (CHECKPOINTS / given / CARD).is_file():
            return CHECKPOINTS / given
        url = url or os.environ.get(URL_VARIABLE)
        cached = _in_cache(given, url)
        if cached is not None and (not url or is_whole(cached)):
            return cached  # without a place to fetch it from again, a damaged one is named
        if url:
            return find_remote(given, url)
    raise _unknown(given, list(read_index(CHECKPOINTS).checkpoints), None)


def find_remote(name: str, url: str) -> Remote:
    """A checkpoint in the index at a location as it is now, whatever the cache holds.

    Raises:
        ValueError: If it has none of that name.
        zoo.hub.card.CheckpointError: If the index cannot be read.
    """
    checkpoints = fetch_index(url).checkpoints
    if name not in checkpoints:
        raise _unknown(name, list(checkpoints), url)
    return Remote(join(url, name), checkpoints[name])


def _in_cache(name: str, url: str | None) -> Path | None:
    indexes = [index.checkpoints for index in cached_indexes(url)]
    hashes = {checkpoints[name].sha256 for checkpoints in indexes if name in checkpoints}
    directories = [path for path in map(cached_checkpoint, sorted(hashes)) if path.is_dir()]
    if len(directories) > 1:
        raise ValueError(
            f"{name!r}: the cache holds {len(directories)} checkpoints of this name, from "
            f"different locations; say which by url or {URL_VARIABLE}"
        )
    return directories[0] if directories else None


def _is_name(given: str) -> bool:
    try:
        TypeAdapter(CheckpointName).validate_python(given)
    except ValidationError:
        return False
    return True


def _unknown(given: str, known: list[str], url: str | None) -> ValueError:
    if "@" not in given:  # seeds of one training would leave no room for others
        known = [name for name in known if "@" not in name] or known
    hint = did_you_mean(nearest(given, known))
    hint = f".{hint}" if hint else ""
    if url is not None:
        return ValueError(f"{url} has no checkpoint {given!r}{hint}")
    return ValueError(
        f"{given!r} is a name, and no checkpoint is known by it{hint}; for the directory write "
        f"{os.path.join('.', given)!r}, for checkpoints elsewhere set {URL_VARIABLE}"
    )
