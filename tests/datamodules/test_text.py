"""Windows of a text, and which files are read for it."""

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules import EpisodeSpec, create_sampler, text
from datamodules.stream import Generators, Split
from datamodules.text import SHIPPED, Text, open_text, stretch_of

STRETCHES: dict[Split, tuple[int, int]] = {
    "train": (0, 8),
    "val": (8, 9),
    "tune": (8, 9),
    "test": (9, 10),
}


@pytest.fixture(autouse=True)
def nothing_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "_opened", {})
    monkeypatch.setattr(text, "_hashes", {})


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A text of 1,003 bytes in which two neighbouring bytes say where they are."""
    path = tmp_path / "own.txt"
    path.write_bytes(bytes(b for i in range(502) for b in (i // 2 % 256, 128 + i % 64))[:1003])
    return path


def spec_of(family: Text, num_context: int = 15) -> EpisodeSpec:
    return EpisodeSpec(num_context=num_context, function=family.model_dump())


@pytest.mark.parametrize("split", STRETCHES)
@pytest.mark.parametrize("is_own", [False, True])
def test_windows_are_of_the_stretch_of_their_split_and_targets_the_next_bytes(
    split: Split, is_own: bool, own: Path
) -> None:
    spec = spec_of(open_text(own) if is_own else Text())
    content = (own if is_own else SHIPPED).read_bytes()
    first, last = (len(content) * tenth // 10 for tenth in STRETCHES[split])
    episodes, latents = create_sampler(spec).sample(
        2000, Generators(0, split, 0, "cpu"), latents=True
    )
    assert episodes.scored.all()
    for x, target, start in zip(
        episodes.x.argmax(2).tolist(),
        episodes.target.argmax(2).tolist(),
        latents["start"].tolist(),
        strict=True,
    ):
        window = content[first:last][start : start + 17]
        assert bytes(x) == window[:-1]
        assert bytes(target) == window[1:]
    if is_own and split != "train":  # few, and all are drawn, the last one too
        assert latents["start"].unique().tolist() == [*range(last - first - 16)]


def test_stretches_are_disjoint_and_cover_the_text(own: Path) -> None:
    family = open_text(own)
    parts = [stretch_of(family, split, "cpu") for split in ("train", "val", "test")]
    assert bytes(torch.cat(parts).tolist()) == own.read_bytes()
    assert torch.equal(stretch_of(family, "tune", "cpu"), parts[1])
    assert torch.equal(family.tensors(256, 256)["text"], parts[0])


def test_the_shipped_text_is_the_one_that_every_card_means() -> None:
    content = SHIPPED.read_bytes()
    family = Text()
    assert hashlib.sha256(content).hexdigest() == family.sha256
    assert (family.file, family.num_bytes) == (SHIPPED.name, len(content))
    assert 100_000 < len(content) < 1_000_000
    assert "PYTHON SOFTWARE FOUNDATION LICENSE" in (SHIPPED.parent / "NOTICE").read_text()


def test_a_shipped_text_that_was_changed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged = tmp_path / "damaged.txt"
    damaged.write_bytes(SHIPPED.read_bytes()[:-1] + b"!")
    monkeypatch.setattr(text, "SHIPPED", damaged)
    text._shipped.cache_clear()
    with pytest.raises(ValueError, match="damaged.txt has sha256 [0-9a-f]{64}, the one of this"):
        create_sampler(spec_of(Text()))
    text._shipped.cache_clear()


def test_a_text_of_ones_own_is_named_by_its_hash_and_read_where_it_was_opened(own: Path) -> None:
    family = open_text(own)
    assert family.sha256 == hashlib.sha256(own.read_bytes()).hexdigest()
    assert (family.file, family.num_bytes) == ("own.txt", 1003)
    plain = spec_of(family).model_dump()
    assert str(own) not in str(plain)
    own.write_bytes(b"changed" * 1000)  # what was opened stays what it was
    x = create_sampler(plain).sample(3, Generators(0, "train", 0, "cpu")).x
    assert x.shape == (3, 16, 256)


def test_a_spec_whose_text_nobody_named_is_refused_before_anything_is_drawn(own: Path) -> None:
    plain = spec_of(open_text(own)).model_dump()
    text._opened.clear()  # as in another process
    spec = EpisodeSpec(**plain)  # data, which can be looked at
    refused = r"own.txt with sha256 .* give the file again as text=FILE"
    with pytest.raises(ValueError, match=refused) as refusal:
        create_sampler(spec)
    assert "\n" not in str(refusal.value)
    open_text(own)
    create_sampler(spec)


def test_a_text_with_another_hash_or_size_is_not_taken_for_the_one_of_a_spec(own: Path) -> None:
    plain = spec_of(open_text(own)).model_dump()
    with pytest.raises(ValueError, match="own.txt has 1003 bytes, got 999"):
        create_sampler({**plain, "function": {**plain["function"], "num_bytes": 999}})
    own.write_bytes(own.read_bytes() + b".")
    text._opened.clear()
    open_text(own)
    with pytest.raises(ValueError, match="is not the one in the package"):
        create_sampler(plain)


@pytest.mark.parametrize("path", ["/etc/passwd", "own.txt"])
def test_a_card_cannot_name_a_file(path: str) -> None:
    function = Text().model_dump() | {"path": path}
    with pytest.raises(ValueError, match="path\n.*Extra inputs are not permitted"):
        EpisodeSpec(num_context=15, function=function)
    # What looks like one is only what the text is called.
    spec = EpisodeSpec(num_context=15, function={"name": "text", "file": path, "sha256": "0" * 64})
    with pytest.raises(ValueError, match="is not the one in the package"):
        create_sampler(spec)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"sha256": "abc"}, "sha256"),
        ({"sha256": "A" * 64}, "sha256"),
        ({"num_bytes": 0}, "num_bytes"),
        ({"num_bytes": 2**40}, "num_bytes"),
        ({"file": ""}, "file"),
    ],
)
def test_specs_of_no_text_are_refused(part: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EpisodeSpec(num_context=15, function={"name": "text", **part})


def test_a_text_that_is_too_short_for_its_windows_is_refused(own: Path) -> None:
    family = open_text(own)
    spec = spec_of(family, num_context=98)  # a tenth has 100 bytes, a window one more than shown
    assert create_sampler(spec).sample(2, Generators(0, "val", 0, "cpu")).x.shape[1] == 99
    refused = "windows of 100 bytes need a text of at least 1,010, own.txt has 1,003"
    with pytest.raises(ValueError, match=refused):
        spec_of(family, num_context=99)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "empty.txt").touch()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link.txt").symlink_to(tmp_path / "nothing")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.txt", "missing.txt is no file"),
        ("", "is no file"),
        ("pipe", "pipe is no file"),
        ("link.txt", "link.txt is no file"),
        ("empty.txt", "empty.txt is empty"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line(files: Path, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as refusal:
        open_text(files / name)
    assert "\n" not in str(refusal.value)


def test_a_text_is_read_once_until_it_changes(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = open_text(own)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", lambda _: pytest.fail("read again"))
        assert open_text(own) == first
    own.write_bytes(own.read_bytes()[:-1] + b"!")
    os.utime(own, ns=(0, 0))
    assert open_text(own).sha256 != first.sha256


def test_a_file_that_cannot_be_opened_or_is_too_large_is_refused(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", denied)
        with pytest.raises(ValueError, match="own.txt cannot be read: Permission denied"):
            open_text(own)
    monkeypatch.setattr(text, "MOST_BYTES", 1000)
    with pytest.raises(ValueError, match="own.txt must have at most 1,000 bytes"):
        open_text(own)
