"""Addresses of checkpoints, and of directories of them: paths, and what fsspec reads."""

import re
from typing import NamedTuple

# A branch, a tag or a commit, as git allows them, but for what is rare in names.
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+/-]{0,199}")
_HUGGING_FACE = re.compile(
    r"hf://(?!buckets/)(?P<kind>datasets/|spaces/)?(?P<repository>[^/@]+/[^/@]+)"
    r"(?:@(?P<revision>refs/(?:convert|pr)/[^/]+|[^/]+))?(?:/(?P<path>.*))?"
)


class HubAddress(NamedTuple):
    """An address in a repository of Hugging Face, `hf://USER/REPOSITORY@REVISION/PATH`.

    Attributes:
        kind: `datasets/` or `spaces/`; empty for models.
        repository: `USER/REPOSITORY`.
        revision: As it is written, a `/` in it perhaps as `%2F`; empty for the newest of `main`.
        path: In the repository; empty for all of it.
    """

    kind: str
    repository: str
    revision: str
    path: str

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return f"hf://{self.kind}{self.repository}{revision}/{self.path}".rstrip("/")


def hub_address(address: str) -> HubAddress | None:
    """The parts of an address at Hugging Face; None for others, and for buckets, of one version."""
    found = _HUGGING_FACE.fullmatch(address)
    return HubAddress(**found.groupdict("")) if found else None


def join(address: str, name: str) -> str:
    """The address of something in a directory."""
    return f"{address.rstrip('/')}/{name}"


def is_elsewhere(address: str) -> bool:
    """Whether a file system other than that of this machine is asked for it."""
    return "://" in address and not address.startswith(("file://", "local://"))


def of_revision(address: str, revision: str) -> str:
    """An address at Hugging Face that names a revision.

    Args:
        address: `hf://USER/REPOSITORY` or further inside.
        revision: A branch, a tag or a commit.

    Raises:
        ValueError: If the address is another, or names another revision, or if that is none.
    """
    if not _REVISION.fullmatch(revision):
        raise ValueError(f"revision must be a branch, a tag or a commit, got {revision!r}")
    parts = hub_address(address)
    if parts is None:
        raise ValueError(
            f"revision={revision!r} goes with an address hf://USER/REPOSITORY, got {address!r}"
        )
    quoted = revision.replace("/", "%2F")
    if parts.revision not in ("", quoted, revision):
        raise ValueError(f"{address} names another revision than revision={revision!r}")
    return str(parts._replace(revision=quoted))


def is_of_a_commit(address: str) -> bool:
    """Whether what is there can never change."""
    parts = hub_address(address)
    return parts is not None and re.fullmatch("[0-9a-f]{40}", parts.revision) is not None


def readable(address: str) -> str:
    """The address as fsspec reads it: its revision is named where an `@` follows further on.

    Before January 2026 huggingface_hub took what follows the first `@` of a path for a revision.
    """
    parts = hub_address(address)
    if parts is None or parts.revision or "@" not in parts.path:
        return address
    return str(parts._replace(revision="main"))
