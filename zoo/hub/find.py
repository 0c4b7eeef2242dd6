"""From a name, path or address to a checkpoint."""

import os
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pydantic import TypeAdapter, ValidationError

from zoo.errors import did_you_mean, nearest
from zoo.hub.addresses import is_elsewhere, is_of_a_commit, join, of_revision
from zoo.hub.card import Card, CheckpointError, CheckpointName, parse_card
from zoo.hub.directory import CARD, read_card
from zoo.hub.download import (
    OFFLINE_VARIABLE,
    Progress,
    cache_directory,
    cached_address,
    cached_checkpoint,
    cached_indexes,
    download,
    fetch_card,
    fetch_index,
    is_offline,
    is_whole,
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
    return from_pretrained(name_or_path, device=device, dtype=dtype, url=url)


def from_pretrained(
    name_or_url: str | os.PathLike[str],
    revision: str | None = None,
    local_files_only: bool = False,
    device: "torch.device | str" = "cpu",
    dtype: "torch.dtype | None" = None,
    url: str | None = None,
) -> "Predictor":
    """As `load`, of a version that is pinned, or without asking other machines.

    Args:
        name_or_url: As `load` takes it, such as `hf://USER/REPOSITORY`.
        revision: A branch, a tag or a commit of the repository at Hugging Face that the address, or
            for a name the location of the index, is in. With one, a name is looked for in that
            index alone. What was fetched of a commit is never asked for again.
        local_files_only: Whether to take only what is in the repository, the cache or another
            directory of this machine; `ICL_ZOO_OFFLINE=1` says so for all.
        device: Where to.
        dtype: Type of the weights; as stored unless given.
        url: Location of an index, as in `load`.

    Raises:
        ValueError: If no checkpoint is known by the name, or if there is nothing that a revision
            could be of.
        zoo.hub.card.CheckpointError: As `load`; with `local_files_only` also if it is not here.
    """
    directory = find_checkpoint(
        name_or_url, url, revision=revision, local_files_only=local_files_only
    )
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
    given: str | os.PathLike[str],
    url: str | None = None,
    progress: Progress | None = None,
    revision: str | None = None,
    local_files_only: bool = False,
) -> Path:
    """The directory of a checkpoint, fetched if need be; arguments are `from_pretrained`'s."""
    place = locate(given, url, revision, local_files_only)
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


def locate(
    given: str | os.PathLike[str],
    url: str | None = None,
    revision: str | None = None,
    local_files_only: bool = False,
) -> Path | Remote:
    """Where a checkpoint is: a directory here, or somewhere else.

    Arguments are those of `from_pretrained`. What is somewhere else may be fetched.
    """
    if revision is not None:
        given, url = _of_revision(given, url, revision)
    if not isinstance(given, str):
        return Path(given)
    why = "local_files_only=True" if local_files_only else f"{OFFLINE_VARIABLE}=1"
    offline = local_files_only or is_offline()
    if "://" in given:
        cached = cached_address(given) if offline or is_of_a_commit(given) else None
        if cached is not None and is_whole(cached):
            return cached
        if offline and is_elsewhere(given):
            raise _not_here(given, why, given)
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
        if url and offline and is_elsewhere(url):
            raise _not_here(f"{given} of {url}", why, f"{given} --url {url}")
        if url:
            return find_remote(given, url)
    raise _unknown(given, list(read_index(CHECKPOINTS).checkpoints), None)


def _of_revision(
    given: str | os.PathLike[str], url: str | None, revision: str
) -> tuple[str | os.PathLike[str], str | None]:
    """What is given and the location of the index, of which one names the revision."""
    if isinstance(given, str) and _is_name(given):
        return given, of_revision(url or os.environ.get(URL_VARIABLE) or given, revision)
    return of_revision(os.fspath(given), revision), url


def _not_here(what: str, why: str, asked: str) -> CheckpointError:
    return CheckpointError(
        f"{what} is not in the cache {cache_directory()}, or damaged there, and {why} keeps from "
        f"fetching it; fetch it first: python -m zoo download {asked}"
    )


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
