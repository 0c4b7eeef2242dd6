"""Without a network, and with a cache that cannot be written: what is there is used."""

import io
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import zoo
from tests.conftest import MakeCheckpoint
from tests.servers import FileServer, serving
from zoo.commands import zoo as cli
from zoo.hub.card import CheckpointError
from zoo.hub.download import cache_directory
from zoo.hub.export import write_generated
from zoo.hub.find import find_card

NAME = "gd_ssm.test"

pytestmark = pytest.mark.usefixtures("empty_cache")


@pytest.fixture
def served(make_checkpoint: MakeCheckpoint) -> Path:
    """A directory of one checkpoint, as it is put on a server."""
    directory = make_checkpoint().parent
    card = json.loads((directory / NAME / "card.json").read_text())
    card["data"]["function"] = {"name": "linear"}
    (directory / NAME / "card.json").write_text(json.dumps(card))
    write_generated(directory)
    return directory


@pytest.fixture
def server(served: Path) -> Iterator[FileServer]:
    with serving(served) as server:
        yield server


@pytest.fixture(params=["argument", "variable"])
def load_offline(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Loads without the network, as either of two ways says so."""

    def load(given: str | Path, url: str | None = None) -> Any:
        with monkeypatch.context() as patch:
            if request.param == "variable":
                patch.setenv("ICL_ZOO_OFFLINE", "1")
            return zoo.from_pretrained(given, url=url, local_files_only=request.param == "argument")

    return load


def test_what_was_fetched_loads_offline_by_name_and_by_address(
    server: FileServer, load_offline: Any
) -> None:
    address = f"{server.url}/{NAME}"
    zoo.from_pretrained(NAME, url=server.url)
    zoo.from_pretrained(address)
    server.asked.clear()
    assert load_offline(NAME).card.name == NAME
    assert load_offline(NAME, server.url).card.name == NAME
    assert load_offline(address).card.name == NAME
    assert load_offline(f"{address}/").card.name == NAME
    assert not server.asked


def test_what_is_on_this_machine_loads_offline(served: Path, load_offline: Any) -> None:
    assert load_offline("gd_ssm.linear").card.name == "gd_ssm.linear"
    assert load_offline(served / NAME).card.name == NAME
    assert load_offline((served / NAME).as_uri()).card.name == NAME
    assert load_offline(NAME, str(served)).card.name == NAME


def test_what_is_not_here_is_named_with_what_to_do(server: FileServer, load_offline: Any) -> None:
    address = f"{server.url}/{NAME}"
    by_name, by_address = (NAME, server.url, f"{NAME} --url {server.url}"), (address, None, address)
    for given, url, asked in (by_name, by_address):
        with pytest.raises(CheckpointError) as caught:
            load_offline(given, url)
        message = str(caught.value)
        assert f"is not in the cache {cache_directory()}, or damaged there, and " in message
        assert message.endswith(f"fetch it first: python -m zoo download {asked}")
        assert "local_files_only=True keeps" in message or "ICL_ZOO_OFFLINE=1 keeps" in message
        assert "\n" not in message
    assert not server.asked


def test_a_damaged_copy_is_not_used_offline(server: FileServer, load_offline: Any) -> None:
    address = f"{server.url}/{NAME}"
    zoo.from_pretrained(address)
    (weights,) = cache_directory().glob("checkpoints/*/model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="or damaged there"):
        load_offline(address)
    zoo.from_pretrained(address)
    load_offline(address)


def test_commands_ask_nobody_offline(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*arguments: str) -> tuple[int, str, str]:
        result = CliRunner().invoke(cli.app, [*arguments])
        return result.exit_code, result.stdout, result.stderr

    monkeypatch.setenv("ICL_ZOO_OFFLINE", "1")
    for command in (["list"], ["show", NAME], ["download", NAME], ["compare", NAME]):
        code, _, errors = run(*command, "--url", server.url)
        assert (code, errors.count("\n"), "ICL_ZOO_OFFLINE=1" in errors) == (1, 1, True), command
    assert not server.asked
    monkeypatch.setenv("ICL_ZOO_OFFLINE", "0")
    assert run("download", NAME, "--url", server.url)[0] == 0
    server.asked.clear()
    monkeypatch.setenv("ICL_ZOO_OFFLINE", "1")
    for command in (["list"], ["show", NAME], ["download", NAME], ["compare", NAME]):
        assert run(*command, "--url", server.url)[0] == 0, command
    assert not server.asked
    monkeypatch.setenv("ICL_ZOO_OFFLINE", "yes")
    assert run("show", NAME)[2] == "error: ICL_ZOO_OFFLINE must be 0 or 1, got 'yes'\n"


@pytest.fixture
def read_only(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From the call on nothing can be written to the cache, not even by root."""

    def refuse(path: Any) -> None:
        if isinstance(path, str | Path) and Path(path).is_relative_to(cache_directory()):
            raise OSError(30, "Read-only file system", str(path))

    def guarded(function: Any, writes: Callable[..., bool]) -> Any:
        def call(path: Any, *arguments: Any, **options: Any) -> Any:
            if writes(*arguments, **options):
                refuse(path)
            return function(path, *arguments, **options)

        return call

    def start() -> None:
        for name in ("mkdir", "rename", "replace", "unlink", "rmdir"):
            monkeypatch.setattr(os, name, guarded(getattr(os, name), lambda *a, **o: True))
        to_write = os.O_WRONLY | os.O_RDWR | os.O_CREAT
        monkeypatch.setattr(os, "open", guarded(os.open, lambda flags, *a, **o: flags & to_write))
        in_mode = guarded(io.open, lambda mode="r", *a, **o: bool({*mode} & {*"wxa+"}))
        monkeypatch.setattr(io, "open", in_mode)

    return start


def test_what_is_cached_loads_from_a_read_only_cache(
    server: FileServer, read_only: Callable[[], None]
) -> None:
    zoo.from_pretrained(NAME, url=server.url)
    read_only()
    for given, url in ((NAME, server.url), (NAME, None), (f"{server.url}/{NAME}", None)):
        assert zoo.from_pretrained(given, url=url).card.name == NAME
        assert zoo.from_pretrained(given, url=url, local_files_only=True).card.name == NAME
    assert find_card(f"{server.url}/{NAME}").name == NAME


def test_a_read_only_cache_is_named_with_the_variable(
    server: FileServer, read_only: Callable[[], None]
) -> None:
    read_only()
    for given, url in ((NAME, server.url), (f"{server.url}/{NAME}", None)):
        with pytest.raises(CheckpointError) as caught:
            zoo.from_pretrained(given, url=url)
        message = str(caught.value)
        assert message.startswith(f"the cache {cache_directory()} cannot be written: ")
        assert "Read-only file system" in message
        assert message.endswith("; ICL_ZOO_CACHE names another place")
        assert "\n" not in message
