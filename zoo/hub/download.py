"""Fetching checkpoints into the cache: whole and checked, or not at all."""

import contextlib
import errno
import hashlib
import logging
import os
import queue
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from zoo.files import one_at_a_time, sha256_of, write_file
from zoo.hub.addresses import is_elsewhere, join, readable
from zoo.hub.card import MAX_CARD_BYTES, CheckpointError, FileEntry, parse_card
from zoo.hub.directory import CARD, WEIGHTS, read_card, weights_entry
from zoo.hub.index import INDEX, MAX_INDEX_BYTES, Index, IndexEntry, parse_index

CACHE_VARIABLE = "ICL_ZOO_CACHE"
OFFLINE_VARIABLE = "ICL_ZOO_OFFLINE"
# Waits before the second and later attempts.
RETRY_DELAYS_S = (0.5, 1.0, 2.0)
# In every such span of time a server has to send content at such a rate, whatever else it sends.
STALL_S = 30.0
MIN_BYTES_PER_S = 1_000
# Read at once, and asked for at once where files come in blocks.
CHUNK_BYTES, BLOCK_BYTES = 2**16, 2**20
# How the pages begin that some servers send where a file is missing.
HTML = (b"<!doctype", b"<html")

Progress = Callable[[str, int, int], None]
T = TypeVar("T")
logger = logging.getLogger(__name__)


class DownloadError(CheckpointError):
    """A file that could not be fetched; the text says which and why."""


class MissingError(DownloadError):
    """A file that is not there."""


class _Interrupted(Exception):
    """An attempt that may go better when repeated."""


def cache_directory() -> Path:
    """`ICL_ZOO_CACHE`, else the place that the platform has for such files."""
    given = os.environ.get(CACHE_VARIABLE)
    if given:
        return Path(given).expanduser()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "icl-zoo"


def is_offline() -> bool:
    """Whether `ICL_ZOO_OFFLINE` keeps from asking other machines.

    Raises:
        ValueError: If it is neither 0 nor 1.
    """
    given = os.environ.get(OFFLINE_VARIABLE, "")
    if given not in ("", "0", "1"):
        raise ValueError(f"{OFFLINE_VARIABLE} must be 0 or 1, got {given!r}")
    return given == "1"


def cached_checkpoint(sha256: str) -> Path:
    """Where the checkpoint whose card has this hash is, or would be."""
    return cache_directory() / "checkpoints" / sha256


def cached_address(address: str) -> Path | None:
    """The checkpoint that an address had when it was last fetched, None if it is not there."""
    try:
        sha256 = _address_path(address).read_bytes()[:65].decode("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
    if not re.fullmatch("[0-9a-f]{64}", sha256):
        return None
    directory = cached_checkpoint(sha256)
    return directory if directory.is_dir() else None


def cached_indexes(url: str | None = None) -> list[Index]:
    """Indexes fetched earlier: from one location, or from all.

    One that cannot be read is left out, as it is fetched again.
    """
    directory = cache_directory() / "indexes"
    paths = sorted(directory.glob("*.json")) if url is None else [_index_path(url)]
    indexes = []
    for path in paths:
        try:
            indexes.append(parse_index(path.read_bytes(), path))
        except (OSError, CheckpointError):
            continue
    return indexes


def fetch_index(url: str) -> Index:
    """The index at a location, kept in the cache; with `ICL_ZOO_OFFLINE=1` the one kept before.

    Args:
        url: Directory that holds `index.json`, anything that fsspec reads: a path, `https://`,
            `hf://`, `s3://`.

    Raises:
        DownloadError: If it cannot be fetched or kept.
        CheckpointError: If it is none.
    """
    if is_elsewhere(url) and is_offline():
        kept = cached_indexes(url)
        if kept:
            return kept[0]
    address = join(url, INDEX)
    data = _fetch_bytes(address, MAX_INDEX_BYTES, None)
    index = parse_index(data, address)
    with _writing_to_cache():
        write_file(_index_path(url), data)
    return index


def index_at(url: str) -> Index | None:
    """The index at a location as it is now, None where there is none; the cache stays as it is.

    Raises:
        CheckpointError: As `fetch_index`.
    """
    address = join(url, INDEX)
    try:
        return parse_index(_fetch_bytes(address, MAX_INDEX_BYTES, None), address)
    except MissingError:
        return None


def exists(address: str) -> bool:
    """Whether there is a file at an address.

    Raises:
        DownloadError: If that cannot be known.
    """
    try:
        _repeated(address, lambda: next(_chunks(address, 1)))
    except MissingError:
        return False
    return True


def fetch_card(address: str, entry: IndexEntry | None) -> bytes:
    """The content of the card of the checkpoint directory at an address.

    Args:
        address: Of the directory.
        entry: Its row in the index, if it comes from one: the card must be that one.

    Raises:
        DownloadError: If it cannot be fetched or is another one.
    """
    place = join(address, CARD)
    if entry is None:
        return _fetch_bytes(place, MAX_CARD_BYTES, None)
    if entry.bytes > MAX_CARD_BYTES:
        raise DownloadError(
            f"the index gives {place} {entry.bytes} bytes, a card has at most {MAX_CARD_BYTES}"
        )
    data = _fetch_bytes(place, entry.bytes, entry.bytes)
    if sha256_of(data) != entry.sha256:
        raise DownloadError(
            f"{place} has sha256 {sha256_of(data)}, the index says {entry.sha256}: not the same "
            "checkpoint"
        )
    return data


def download(address: str, entry: IndexEntry | None, progress: Progress | None = None) -> Path:
    """Fetches a checkpoint into the cache, unless it is there.

    Its directory appears there when every file is complete and checked. Processes that ask for the
    same one wait for the first.

    Args:
        address: Of the checkpoint's directory.
        entry: Its row in the index, if it comes from one.
        progress: Called with the address of the weights, the bytes so far and all of them.

    Returns:
        The directory in the cache.

    Raises:
        DownloadError: If a file cannot be fetched or kept, or is not what card or index say.
        CheckpointError: If the checkpoint cannot be used.
    """
    if entry is not None and is_whole(cached_checkpoint(entry.sha256)):
        return cached_checkpoint(entry.sha256)
    card_data = fetch_card(address, entry)
    final = cached_checkpoint(sha256_of(card_data))
    if is_whole(final):
        with contextlib.suppress(OSError):  # what is there can be used, whoever may write there
            _remember(address, final)
        return final
    place = join(address, CARD)
    weights = weights_entry(parse_card(card_data, place), place)
    with _writing_to_cache(), one_at_a_time(_lock_of(final)):
        if not is_whole(final):
            _fetch_into(final, address, card_data, weights, progress)
        _remember(address, final)
    return final


def remove_cached(name: str) -> list[Path]:
    """Removes every copy of a checkpoint from the cache, damaged ones too.

    Returns:
        Where they were; empty if there was none.

    Raises:
        DownloadError: If the cache cannot be written.
    """
    rows = (index.checkpoints.get(name) for index in cached_indexes())
    places = {cached_checkpoint(row.sha256) for row in rows if row is not None}
    for path in (cache_directory() / "checkpoints").glob(f"*/{CARD}"):
        with contextlib.suppress(CheckpointError):  # a damaged one says no name
            if read_card(path.parent).name == name:
                places.add(path.parent)
    found = sorted(place for place in places if place.is_dir())
    for place in found:
        lock = _lock_of(place)
        with _writing_to_cache(), one_at_a_time(lock):
            shutil.rmtree(place)
            lock.unlink()
    return found


def is_whole(directory: Path) -> bool:
    """Whether a checkpoint in the cache is what it is filed under."""
    try:
        _check(directory)
    except CheckpointError:
        return False
    return True


def _check(directory: Path) -> None:
    from zoo.hub.io import check_checkpoint  # brings torch, which most commands do without

    check_checkpoint(directory)


def _fetch_into(
    final: Path, address: str, card_data: bytes, weights: FileEntry, progress: Progress | None
) -> None:
    staging = final.with_name(f"{final.name}.partial")
    try:
        shutil.rmtree(staging, ignore_errors=True)  # of a process that was killed
        staging.mkdir()
        _fetch_file(join(address, WEIGHTS), staging / WEIGHTS, weights, progress)
        write_file(staging / CARD, card_data)
        _check(staging)
        shutil.rmtree(final, ignore_errors=True)  # damaged, or it would have been kept
        staging.rename(final)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _remember(address: str, directory: Path) -> None:
    write_file(_address_path(address), f"{directory.name}\n".encode())


def _address_path(address: str) -> Path:
    return cache_directory() / "addresses" / f"{sha256_of(address.rstrip('/').encode())}.txt"


def _index_path(url: str) -> Path:
    return cache_directory() / "indexes" / f"{sha256_of(url.rstrip('/').encode())}.json"


def _lock_of(checkpoint: Path) -> Path:
    return checkpoint.with_name(f"{checkpoint.name}.lock")


@contextmanager
def _writing_to_cache() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DownloadError(
            f"the cache {cache_directory()} cannot be written: {error}; {CACHE_VARIABLE} names "
            "another place"
        ) from None


def _fetch_bytes(address: str, max_bytes: int, num_bytes: int | None) -> bytes:
    def attempt() -> bytes:
        data = b"".join(_chunks(address, max_bytes))
        _check_size(len(data), num_bytes)
        return data

    return _repeated(address, attempt)


def _fetch_file(address: str, path: Path, entry: FileEntry, progress: Progress | None) -> None:
    def attempt() -> str:
        sha256, received = hashlib.sha256(), 0
        with path.open("wb") as file:
            for chunk in _chunks(address, entry.bytes):
                file.write(chunk)
                sha256.update(chunk)
                received += len(chunk)
                if progress is not None:
                    progress(address, received, entry.bytes)
            file.flush()
            os.fsync(file.fileno())
        _check_size(received, entry.bytes)
        return sha256.hexdigest()

    found = _repeated(address, attempt)
    if found != entry.sha256:
        raise DownloadError(
            f"{address} has sha256 {found}, its card says {entry.sha256}: a wrong file"
        )


def _check_size(received: int, num_bytes: int | None) -> None:
    if num_bytes is not None and received != num_bytes:
        raise _Interrupted(f"ends after {received} of {num_bytes} bytes: truncated")


def _repeated(address: str, attempt: Callable[[], T]) -> T:
    """What an attempt gives; each starts anew, so that nothing of a broken one stays."""
    for number, delay in enumerate((*RETRY_DELAYS_S, None), start=1):
        try:
            return attempt()
        except _Interrupted as error:
            if delay is None:
                raise DownloadError(f"{address} {error} ({number} attempts)") from None
            logger.info("%s %s; attempt %d in %g s", address, error, number + 1, delay)
            time.sleep(delay)
    raise AssertionError("the last attempt returns or raises")


def _chunks(address: str, max_bytes: int) -> Iterator[bytes]:
    """The content of a file, piece by piece.

    Raises:
        DownloadError: If another attempt would not help.
        _Interrupted: If it might.
    """
    received = -1  # not answered yet
    # Every file system behind fsspec has errors of its own kinds.
    try:
        for chunk in _pieces(address, max_bytes):
            if received <= 0 and chunk.lstrip()[:9].lower().startswith(HTML):
                raise DownloadError(f"{address} is a web page, not the file")
            received = max(received, 0) + len(chunk)
            if received > max_bytes:
                raise DownloadError(f"{address} has more than the {max_bytes} bytes expected")
            yield chunk
    except (DownloadError, _Interrupted):
        raise
    except FileNotFoundError:
        raise MissingError(f"{address} does not exist") from None
    except ImportError as error:
        raise DownloadError(f"{address} needs another package: {error}") from None
    except Exception as error:
        status = status_of(error)
        cause = f"{type(error).__name__}: {error}".splitlines()[0].rstrip(": ")
        if status is not None:
            if status < 500 and status not in (408, 429):
                raise DownloadError(f"{address} is refused with status {status}") from None
            raise _Interrupted(f"is answered with status {status}") from None
        if _is_refusal(error):
            raise DownloadError(f"{address} cannot be reached: nobody listens there") from None
        if isinstance(error, (PermissionError, IsADirectoryError, NotADirectoryError, ValueError)):
            raise DownloadError(f"{address} cannot be read: {cause}") from None
        if received < 0:
            raise _Interrupted(f"cannot be reached: {cause}") from None
        raise _Interrupted(f"was interrupted after {received} bytes: {cause}") from None


def status_of(error: Exception) -> int | None:
    """The status that a server has answered with, if that is what an error says.

    aiohttp has it in `status`, the hub of Hugging Face in the answer that comes with its errors.
    """
    answer = getattr(error, "response", None)
    for status in (getattr(error, "status", None), getattr(answer, "status_code", None)):
        if isinstance(status, int):
            return status
    return None


def _is_refusal(error: BaseException | None) -> bool:
    """Whether nobody listens there: httpx, for one, wraps what the system says in an error."""
    while error is not None:
        if getattr(error, "errno", None) == errno.ECONNREFUSED:
            return True
        error = error.__cause__ or error.__context__
    return False


def _pieces(address: str, max_bytes: int) -> Iterator[bytes]:
    """What a reading thread gets, nothing at first: that the file is open.

    A read that never returns cannot be given up from inside.

    Raises:
        _Interrupted: If too little comes in time.
    """
    pieces: queue.Queue[bytes | Exception | None] = queue.Queue(maxsize=4)
    given_up = threading.Event()
    open_file = _opener(address, max_bytes)

    def read() -> None:
        try:
            with open_file() as file:
                piece: bytes | None = b""
                while piece is not None and not given_up.is_set():
                    pieces.put(piece)
                    piece = file.read(CHUNK_BYTES) or None
                pieces.put(None)
        except Exception as error:
            pieces.put(error)

    threading.Thread(target=read, daemon=True).start()
    received, in_span, deadline = 0, 0, time.monotonic() + STALL_S
    try:
        while True:
            try:
                piece = pieces.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise _Interrupted(
                    f"is too slow: {received} bytes, {in_span} of them in the last {STALL_S:g} s"
                ) from None
            if isinstance(piece, Exception):
                raise piece
            if piece is None:
                return
            received, in_span = received + len(piece), in_span + len(piece)
            if in_span >= STALL_S * MIN_BYTES_PER_S:
                in_span, deadline = 0, time.monotonic() + STALL_S
            yield piece
    finally:
        given_up.set()
        with contextlib.suppress(queue.Empty):  # it may wait for room
            while True:
                pieces.get_nowait()


def _opener(address: str, max_bytes: int) -> Callable[[], Any]:
    if is_elsewhere(address) and is_offline():
        raise DownloadError(
            f"{address} is not on this machine, and {OFFLINE_VARIABLE}=1 keeps from asking for it; "
            "unset that"
        )
    import fsspec  # type: ignore[import-untyped]  # only when something is fetched

    if not address.startswith(("http://", "https://")):
        # Kept instances keep listings, and an index may have changed since.
        file_system, path = fsspec.core.url_to_fs(readable(address), skip_instance_cache=True)
        return partial(file_system.open, path, "rb", block_size=BLOCK_BYTES)
    # One request from beginning to end, without one for the size before it.
    return partial(web(max_bytes).open, address, "rb", block_size=0, size=max_bytes)


def web(num_bytes: int) -> Any:
    """The file system of web servers, that takes its time for some bytes but not for ever."""
    import aiohttp
    import fsspec

    # Longer than the slowest server that is allowed takes: it ends what was given up.
    timeout = aiohttp.ClientTimeout(total=2 * STALL_S + num_bytes / MIN_BYTES_PER_S)
    return fsspec.filesystem(
        "http",
        client_kwargs={"timeout": timeout, "trust_env": True},
        skip_instance_cache=True,
    )
