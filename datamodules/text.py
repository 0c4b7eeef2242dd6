"""Bytes of a text, the next one to be predicted."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from datamodules.family import Drawn, Family, SymbolFamily, one_hot
from datamodules.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

    from datamodules.stream import Generators, Split

# The text in the package; its source and license stand beside it.
SHIPPED = Path(__file__).parent / "texts" / "python_reference.txt"
SHIPPED_SHA256 = "354c91a562653ffb60b62bc63026d15c066fd193bdf98b5c600312e048ef3d0f"
SHIPPED_BYTES = 373_961
# How bytes are shown that are printed as nothing.
SPACES = {ord(" "): "\u2423", ord("\n"): "\\n", ord("\t"): "\\t"}
# n-grams counted in so many random bytes, of which hardly two contexts are the same, take 3 GB.
MOST_BYTES = 2**25

# In tenths: training reads the first eight, validation and what is fitted to episodes the next.
_STRETCHES: dict[Split, tuple[int, int]] = {
    "train": (0, 8),
    "val": (8, 9),
    "tune": (8, 9),
    "test": (9, 10),
}
# Texts by their hashes: those that a user named in this process.
_opened: dict[str, bytes] = {}
# Hashes of files by path, size and time of change: several parts of a command ask for the same one.
_hashes: dict[tuple[Path, int, int], str] = {}


class Text(SymbolFamily):
    """The next byte of a text, at every position of a window.

    Windows are uniformly drawn: for training from the first eight tenths of the text, for
    validation from the ninth, for tests from the last; none reaches into another stretch.

    A spec names a text by its hash and never says where it is, as specs stand in the cards of
    strangers. The text is the one in this package, unless a user names a file: see `open_text`.

    Attributes:
        file: What the text is called.
        sha256: Hash of its bytes, in hexadecimal.
        num_bytes: How many there are.
    """

    name: Literal["text"] = "text"
    file: Annotated[str, Field(min_length=1, max_length=255)] = SHIPPED.name
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] = SHIPPED_SHA256
    num_bytes: Annotated[int, Field(ge=1, le=MOST_BYTES)] = SHIPPED_BYTES

    beside: ClassVar[tuple[str, ...]] = ("fitted_ngrams", "context_ngrams")

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(map(_shown, range(256)))

    @property
    def symbols(self) -> tuple[str, ...]:
        return self.classes

    @property
    def most_length(self) -> int:
        return self.num_bytes // 10 - 1

    def check(self, d_x: int, d_y: int, lengths: Collection[int]) -> None:
        longest = max(lengths)
        if longest > self.most_length:
            raise ValueError(
                f"windows of {longest:,} bytes need a text of at least {10 * (longest + 1):,}, "
                f"{self.file} has {self.num_bytes:,}"
            )
        super().check(d_x, d_y, lengths)

    def prepare(self) -> None:
        self.content()

    def content(self) -> bytes:
        """The whole text.

        Raises:
            ValueError: If it is not at hand, or is not the one that the hash stands for.
        """
        found = _opened.get(self.sha256)
        if found is None and self.sha256 == SHIPPED_SHA256:
            found = _shipped()
        if found is None:
            raise ValueError(
                f"the text {self.file} with sha256 {self.sha256} is not the one in the package: "
                "give the file again as text=FILE"
            )
        if len(found) != self.num_bytes:
            raise ValueError(f"text {self.file} has {len(found)} bytes, got {self.num_bytes}")
        return found

    def tensors(self, d_x: int, d_y: int) -> dict[str, Tensor]:
        """The bytes that training reads, uint8 (num_bytes,)."""
        return {"text": stretch_of(self, "train", "cpu")}

    def draw(self, batch: int, length: int, d_x: int, d_y: int, generators: Generators) -> Drawn:
        inputs = generators("inputs")
        stretch = stretch_of(self, generators.split, str(inputs.device))
        num_windows = len(stretch) - length
        start = torch.randint(num_windows, (batch, 1), generator=inputs, device=inputs.device)
        window = stretch[start + torch.arange(length + 1, device=inputs.device)].long()
        x, target = one_hot(window[:, :-1], d_x), one_hot(window[:, 1:], d_y)
        return Drawn(x, target, latents={"start": start[:, 0]})


@lru_cache(maxsize=8)
def stretch_of(family: Text, split: Split, device: str) -> Tensor:
    """The bytes that a split is drawn from, uint8 (num_bytes,)."""
    content = family.content()
    first, last = (len(content) * tenth // 10 for tenth in _STRETCHES[split])
    return torch.frombuffer(bytearray(content[first:last]), dtype=torch.uint8).to(device)


def open_text(path: str | Path) -> Text:
    """Reads a text that a user names; from then on its hash stands for it in this process.

    Args:
        path: Of a file. Only what a user typed, never what a card or a configuration says.

    Returns:
        The family of its windows.

    Raises:
        ValueError: If it cannot be read.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise ValueError(f"text {path} is no file")
        stat = path.stat()
        if stat.st_size > MOST_BYTES:
            raise ValueError(f"text {path} must have at most {MOST_BYTES:,} bytes")
        version = path.absolute(), stat.st_size, stat.st_mtime_ns
        content = _opened.get(_hashes.get(version, "")) or path.read_bytes()
    except OSError as error:
        raise ValueError(f"text {path} cannot be read: {error.strerror}") from None
    if not content:
        raise ValueError(f"text {path} is empty")
    if version not in _hashes:
        _hashes[version] = hashlib.sha256(content).hexdigest()
    sha256 = _hashes[version]
    _opened[sha256] = content
    return Text(file=path.name, sha256=sha256, num_bytes=len(content))


def check_text_is_read(path: str | None, function: Family) -> None:
    """Raises ValueError if a user names a text and episodes have nothing to do with texts."""
    if path is not None and not isinstance(function, Text):
        raise ValueError(f"text={path} is read by data=text, got function {function.name}")


@lru_cache
def _shipped() -> bytes:
    content = SHIPPED.read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 != SHIPPED_SHA256:
        raise ValueError(f"{SHIPPED} has sha256 {sha256}, the one of this version {SHIPPED_SHA256}")
    return content


def _shown(byte: int) -> str:
    return SPACES.get(byte) or (chr(byte) if 32 < byte < 127 else f"\\x{byte:02x}")
