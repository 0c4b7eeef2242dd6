"""Files and directories that are there as a whole or not at all, and who may write them."""

import hashlib
import io
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Of a clone; an installed package has neither.
ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs"
# How directories end whose name is not yet, or no longer, that of what they hold.
WRITING, REPLACED = STAGING = (".writing", ".replaced")


def write_file(path: Path, data: bytes) -> None:
    """Writes a file as `writing` does."""
    with writing(path) as file:
        file.write(data)


@contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """A file that is there whole once the block ends, and not at all if that raises.

    Nothing is written through a symbolic link: one that has the name is replaced.

    Raises:
        IsADirectoryError: If the name is that of a directory.
        FileExistsError: If it is that of a device, a pipe or a socket, or of a link to one.
        OSError: If it cannot be written.
    """
    if path.is_dir() and not path.is_symlink():
        raise IsADirectoryError(f"{path} is a directory, not a file to be written")
    if path.exists() and not path.is_dir() and not path.is_file():
        raise FileExistsError(f"{path} is no file that can be replaced")
    path.parent.mkdir(parents=True, exist_ok=True)
    # A file made anew ("x"), under a name that nobody can have made a link of.
    partial = path.with_name(f"{path.name}.{secrets.token_hex(8)}{WRITING}")
    try:
        with partial.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # on the disk before it is renamed
        partial.replace(path)
    except OSError as error:
        if error.filename is None and error.errno is not None:  # a full disk has no name of a file
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        partial.unlink(missing_ok=True)


def write_directory(directory: Path, files: dict[str, bytes]) -> None:
    """Writes a directory of these files as a whole or not at all, in the place of what is there.

    Raises:
        OSError: If it cannot be written; what stood there before stays.
    """
    staging = directory.with_name(f"{directory.name}{WRITING}")
    replaced = directory.with_name(f"{directory.name}{REPLACED}")
    try:
        _remove(staging)
        if replaced.exists() and not directory.exists():  # a process was killed between two renames
            replaced.rename(directory)
        _remove(replaced)
        staging.mkdir(parents=True)
        for name, data in files.items():
            write_file(staging / name, data)
        if directory.exists():
            directory.rename(replaced)
        try:
            staging.rename(directory)
        except BaseException:  # a signal as well
            if replaced.exists():
                replaced.rename(directory)
            raise
    finally:
        _remove(staging)
    _remove(replaced)


def write_json(path: Path, content: Any) -> None:
    """Writes plain data as JSON, whole or not at all."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a text, whole or not at all."""
    write_file(path, text.encode())


def write_figure(
    path: Path, figure: "Figure", dpi: float | None = None, metadata: dict[str, Any] | None = None
) -> None:
    """Writes a figure in the format that its path ends with, whole or not at all."""
    content = io.BytesIO()
    figure.savefig(content, format=path.suffix[1:], dpi=dpi or "figure", metadata=metadata)
    write_file(path, content.getvalue())


def remove_half_written(run_dir: Path) -> None:
    """Removes files that a killed process was writing; for the only one that writes now."""
    for path in run_dir.rglob(f"*{WRITING}"):
        if path.is_file():
            path.unlink()


def refuse_links(*paths: Path) -> None:
    """Raises ValueError if one of these is a symbolic link, or a directory that holds one.

    Lightning and TensorBoard would write through it.
    """
    for path in paths:
        for found in (path, *path.rglob("*")):
            if found.is_symlink():
                raise ValueError(
                    f"{found} is a symbolic link to {os.readlink(found)}: nothing is written "
                    "through links here. Remove it"
                )


@contextmanager
def sole_writer(run_dir: Path) -> Iterator[None]:
    """Keeps other processes out of a run directory; ends with the process, however that ends.

    If nothing was written, the directory is removed.

    Raises:
        ValueError: If another process writes there.
    """
    from filelock import FileLock, Timeout  # not for reading a checkpoint

    lock = FileLock(run_dir / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(
            f"another process is writing to {run_dir}; wait until it has ended, or stop it"
        ) from None
    try:
        yield
    finally:
        if [path.name for path in run_dir.iterdir()] == [".lock"]:
            (run_dir / ".lock").unlink()  # while it is held; who waits for it sees that it is gone
        lock.release()
        with suppress(OSError):  # not empty
            run_dir.rmdir()


@contextmanager
def one_at_a_time(lock: Path) -> Iterator[None]:
    """Processes wait for each other here; one that fails leaves no lock and no empty directory.

    Args:
        lock: A file, made with the directories above it.
    """
    from filelock import FileLock  # not for reading a checkpoint

    above = [path for path in lock.parents if not path.exists()]
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        try:
            yield
        except BaseException:
            lock.unlink(missing_ok=True)  # while it is held; who waits for it sees that it is gone
            for path in above:
                with suppress(OSError):  # not empty
                    path.rmdir()
            raise


def sha256_of(data: bytes) -> str:
    """The SHA-256 hash of data, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def _remove(directory: Path) -> None:
    """A directory with what is in it, or a link to one."""
    if directory.is_symlink():
        directory.unlink()
    shutil.rmtree(directory, ignore_errors=True)
