"""Checkpoints to other places: repositories of Hugging Face, and whatever fsspec writes to."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from zoo.files import write_directory
from zoo.hub.addresses import HubAddress, hub_address, is_elsewhere, join, of_revision
from zoo.hub.card import SCHEMA_VERSION, CheckpointError
from zoo.hub.directory import CARD, WEIGHTS
from zoo.hub.download import OFFLINE_VARIABLE, exists, index_at, is_offline, status_of, web
from zoo.hub.export import README, Checked, Export, checked, export
from zoo.hub.index import INDEX, Index, index_bytes
from zoo.hub.pages import model_card


class UploadError(CheckpointError):
    """A place that a checkpoint could not be written to; the text says which and why."""


def push(directory: Path, target: str, collection: bool = False, replace: bool = False) -> str:
    """Copies a checkpoint to another place, once it is checked: card, weights and README.

    Where the target has an `index.json`, it is a directory of checkpoints: the checkpoint gets one
    in it that has its name, and a row in the index. Any other target becomes the checkpoint's own
    directory. A repository of Hugging Face gets one commit, which fails if another one came in
    between. Elsewhere the files appear together where the file system knows transactions, else one
    by one, the weights before the card and the index last. If that fails with `replace`, a card may
    be left whose weights are others; loading says so, and another push mends it.

    Args:
        directory: Of the checkpoint.
        target: A path or an address, such as `hf://USER/REPOSITORY`, which is made if need be.
        collection: Whether the target is a directory of checkpoints even if there is no index yet.
        replace: Whether files that are there may be replaced.

    Returns:
        The address of the checkpoint.

    Raises:
        CheckpointError: If the checkpoint cannot be used, if there is one at the target, or if that
            cannot be read or written.
        OSError: If a directory of this machine cannot be written.
    """
    made = checked(Export(directory))
    if not is_elsewhere(target):
        return str(_push_here(directory, made, _path(target), collection, replace))
    if is_offline():
        raise UploadError(f"{target} is not on this machine, and {OFFLINE_VARIABLE}=1; unset that")
    parts = hub_address(target)
    if parts is not None:
        return _push_to_hub(made, parts, collection, replace)
    place, files = _files(made, target, target, collection, replace)
    with _writing_to(target):
        _write(target, files)
    return place


def _push_to_hub(made: Checked, parts: HubAddress, collection: bool, replace: bool) -> str:
    target = str(parts)
    name, kind = parts.repository, {"datasets/": "dataset", "spaces/": "space"}.get(parts.kind)
    revision = parts.revision.replace("%2F", "/") or None
    with _writing_to(target):
        import huggingface_hub  # an extra

        api = huggingface_hub.HfApi()
        is_new = not api.repo_exists(name, repo_type=kind)
        if is_new and revision is not None:
            raise UploadError(
                f"{target} names a revision, and {parts.repository} is not there yet: push to it "
                "without one, which makes it"
            )
        if is_new:
            api.create_repo(name, repo_type=kind, exist_ok=True)
        head = api.repo_info(name, repo_type=kind, revision=revision).sha or ""
    # What is there is read in the commit that the new one follows.
    seen = of_revision(str(parts._replace(revision="")), head)
    place, files = _files(made, target, seen, collection, replace)
    with _writing_to(target):
        api.create_commit(
            name,
            operations=[
                huggingface_hub.CommitOperationAdd(join(parts.path, file).lstrip("/"), data)
                for file, data in files.items()
            ],
            repo_type=kind,
            commit_message=f"{made.card.name}, pushed by icl-zoo",
            revision=revision,
            parent_commit=head,
        )
    return place


def _push_here(
    directory: Path, made: Checked, target: Path, collection: bool, replace: bool
) -> Path:
    if not target.is_dir() and (target.exists() or target.is_symlink()):
        raise UploadError(f"{target} is a file, and a checkpoint is a directory")
    if collection or (target / INDEX).is_file():
        return export(directory, None, target, replace)
    found = sorted(path.name for path in target.iterdir()) if target.is_dir() else []
    if found and not replace:
        raise UploadError(f"{target} has {found[0]}; --replace replaces a checkpoint there")
    others = [name for name in found if name not in (WEIGHTS, README, CARD)]
    if others:
        raise UploadError(f"{target} has {others[0]}, so it is no directory of a checkpoint")
    write_directory(target, _of_checkpoint(made, ""))
    return target


def _of_checkpoint(made: Checked, address: str) -> dict[str, bytes]:
    readme = model_card(made.card, address).encode()
    # Who finds a card in a new place finds the rest.
    return {WEIGHTS: made.weights, README: readme, CARD: made.data}


def _files(
    made: Checked, target: str, seen: str, collection: bool, replace: bool
) -> tuple[str, dict[str, bytes]]:
    """The address of the checkpoint, and what is to be written, by its path in the target.

    Args:
        made: The checkpoint.
        target: Where to.
        seen: Where what is there now is read.
        collection: As in `push`.
        replace: As in `push`.
    """
    index = index_at(seen)
    if collection and index is None:
        index = Index(schema_version=SCHEMA_VERSION, checkpoints={})
    name = made.card.name
    folder, place = ("", target) if index is None else (f"{name}/", join(target, name))
    files = {folder + file: data for file, data in _of_checkpoint(made, place).items()}
    for file in (folder + CARD, folder + README):
        if not replace and exists(join(seen, file)):
            raise UploadError(f"{join(target, file)} exists; --replace replaces it")
    if index is not None:
        rows = index.checkpoints | {name: made.entry}
        files[INDEX] = index_bytes(
            Index(schema_version=SCHEMA_VERSION, checkpoints=dict(sorted(rows.items())))
        )
    return place, files


def _write(target: str, files: dict[str, bytes]) -> None:
    import fsspec  # type: ignore[import-untyped]  # as for downloads

    if target.startswith(("http://", "https://")):
        for name, data in files.items():
            web(len(data)).pipe_file(join(target, name), data)
        return
    file_system, path = fsspec.core.url_to_fs(target, skip_instance_cache=True)
    with file_system.transaction:
        for name, data in files.items():
            place = join(path, name)
            file_system.makedirs(place.rpartition("/")[0], exist_ok=True)
            with file_system.open(place, "wb") as file:
                file.write(data)


@contextmanager
def _writing_to(target: str) -> Iterator[None]:
    try:
        yield
    except UploadError:
        raise
    except ImportError as error:
        raise UploadError(f"{target} needs another package: {error}") from None
    except Exception as error:  # every file system has errors of its own kinds
        status = status_of(error)
        answer = f"the server answers with status {status}" if status is not None else ""
        cause = f"{type(error).__name__}: {error}".splitlines()[0].rstrip(": ")
        raise UploadError(f"{target} cannot be written: {answer or cause}") from None


def _path(target: str) -> Path:
    if "://" not in target:
        return Path(target)
    import fsspec

    return Path(fsspec.core.url_to_fs(target)[1])
