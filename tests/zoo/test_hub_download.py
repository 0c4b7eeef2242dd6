"""Checkpoints from elsewhere: the right one, or an error that says what is wrong."""

import json
import math
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

import zoo
from tests.conftest import MakeCheckpoint
from tests.forks import CONTEXT
from zoo.files import sha256_of
from zoo.hub import download as downloads
from zoo.hub.addresses import readable
from zoo.hub.card import CheckpointError
from zoo.hub.directory import read_card
from zoo.hub.download import DownloadError, cache_directory
from zoo.hub.export import export, write_generated
from zoo.hub.find import find_card, find_checkpoint
from zoo.hub.io import check_checkpoint, save_checkpoint

NAME = "gd_ssm.test"
# How long tests wait for a server. A sound answer must come in it on a machine that is busy.
SHORT_S = 2.0
Answer = Callable[[SimpleHTTPRequestHandler, bytes], None]


class Server(ThreadingHTTPServer):
    """A file server whose answers can be replaced, by the end of the path."""

    faults: dict[str, list[Answer]]
    asked: Counter[str]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(SimpleHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        name = self.path.rsplit("/", 1)[-1]
        self.server.asked[name] += 1
        faults = self.server.faults.get(name)
        if faults:
            content = Path(self.translate_path(self.path)).read_bytes()
            (faults.pop(0) if len(faults) > 1 else faults[0])(self, content)
        else:
            super().do_GET()

    def log_message(self, format: str, *args: Any) -> None:
        pass


def whole(handler: SimpleHTTPRequestHandler, content: bytes, length: int | None = None) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(content) if length is None else length))
    handler.end_headers()
    handler.wfile.write(content)


def cut(handler: SimpleHTTPRequestHandler, content: bytes) -> None:
    """The connection ends in the middle of the file."""
    whole(handler, content[: len(content) // 2], len(content))


def truncated(handler: SimpleHTTPRequestHandler, content: bytes) -> None:
    """A sound answer with half a file in it."""
    whole(handler, content[: len(content) // 2])


def longer(handler: SimpleHTTPRequestHandler, content: bytes) -> None:
    whole(handler, content + b"x")


def altered(handler: SimpleHTTPRequestHandler, content: bytes) -> None:
    whole(handler, content[:-1] + bytes([content[-1] ^ 1]))


def web_page(handler: SimpleHTTPRequestHandler, content: bytes) -> None:
    whole(handler, b"<!DOCTYPE html><title>Oops</title>" + b" " * len(content))


def trickle(handler: SimpleHTTPRequestHandler, content: bytes) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    for i in range(len(content)):
        try:
            handler.wfile.write(content[i : i + 1])
        except OSError:
            return
        time.sleep(0.02)


def stalled(handler: SimpleHTTPRequestHandler, content: bytes) -> None:
    whole(handler, content[:10], len(content))
    time.sleep(2 * SHORT_S)


def drip(handler: SimpleHTTPRequestHandler, piece: bytes) -> None:
    """The same piece again and again, for longer than is waited."""
    for _ in range(round(2 * SHORT_S / 0.05)):
        try:
            handler.wfile.write(piece)
        except OSError:
            return
        time.sleep(0.05)


def slow_headers(handler: SimpleHTTPRequestHandler, content: bytes) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    drip(handler, b"x: y\r\n")


def slow_extension(handler: SimpleHTTPRequestHandler, content: bytes) -> None:
    """A chunk whose size comes with more and more beside it."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;")
    drip(handler, b"x")


def fast_then_slow(handler: SimpleHTTPRequestHandler, content: bytes) -> None:
    whole(handler, content[: len(content) - 100], len(content))
    drip(handler, b" ")


def status(code: int) -> Answer:
    return lambda handler, content: handler.send_error(code)


def endless(handler: SimpleHTTPRequestHandler, content: bytes) -> None:
    """An answer of unknown length that does not end by itself."""
    handler.send_response(200)
    handler.end_headers()
    try:
        while True:
            handler.wfile.write(b" " * 2**16)
    except OSError:
        return


def then_right(*answers: Answer) -> list[Answer]:
    return [*answers, whole]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(downloads, "RETRY_DELAYS_S", (0.0, 0.0, 0.0))
    monkeypatch.setenv("ICL_ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv("ICL_ZOO_URL", raising=False)


@pytest.fixture
def served(make_checkpoint: MakeCheckpoint) -> Path:
    """A directory of one checkpoint, as it is put on a server."""
    directory = make_checkpoint().parent
    edit(directory / NAME / "card.json", lambda c: c["data"].update(function={"name": "linear"}))
    write_generated(directory)
    return directory


@pytest.fixture
def server(served: Path) -> Iterator[Server]:
    server = Server(("127.0.0.1", 0), partial(Handler, directory=str(served)))
    server.faults, server.asked = {}, Counter()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def cached_files() -> list[str]:
    """What the cache holds of checkpoints, but for the locks."""
    places = (cache_directory() / "checkpoints").rglob("*")
    return sorted(path.name for path in places if path.is_file() and path.suffix != ".lock")


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_a_name_is_fetched_once_and_then_needs_no_server(
    server: Server, served: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert zoo.list_checkpoints(url=server.url) == [NAME]
    expected = zoo.load(served / NAME).state_dict()
    for place in (server.url, server.url + "/"):
        loaded = zoo.load(NAME, url=place).state_dict()
        assert all(torch.equal(loaded[name], tensor) for name, tensor in expected.items())
    assert server.asked["model.safetensors"] == 1
    assert cached_files() == ["card.json", "model.safetensors"]
    for file in ("index.json", "card.json", "model.safetensors"):
        server.faults[file] = [status(500)]
    zoo.load(NAME, url=server.url)
    zoo.load(NAME)  # known from the index in the cache
    monkeypatch.setenv("ICL_ZOO_URL", server.url)
    zoo.load(NAME, dtype=torch.float64)


def test_an_address_and_a_path_serve_as_well(server: Server, served: Path) -> None:
    zoo.load(f"{server.url}/{NAME}")
    zoo.load(NAME, url=str(served))
    zoo.load(NAME, url=served.as_uri())
    assert server.asked["model.safetensors"] == 1  # the cache goes by content


def test_a_name_with_a_seed_is_fetched_as_any_other(server: Server, served: Path) -> None:
    other = export(served / NAME, f"{NAME}@0", served)
    zoo.load(f"{NAME}@0", url=server.url)
    zoo.load(f"{server.url}/{NAME}@0")
    zoo.load(f"{NAME}@0", url=served.as_uri())
    assert find_checkpoint(f"{NAME}@0") == downloads.cached_checkpoint(
        sha256_of((other / "card.json").read_bytes())
    )
    with pytest.raises(ValueError, match=rf"'{NAME}@1'. Did you mean '{NAME}@0' or '{NAME}'\?"):
        zoo.load(f"{NAME}@1", url=server.url)
    with pytest.raises(ValueError, match=rf"'gd_ssm.tst'. Did you mean '{NAME}'\?"):
        zoo.load("gd_ssm.tst", url=server.url)


@pytest.mark.parametrize(
    ("address", "read"),
    [
        ("hf://user/zoo/gd_ssm.a@1/card.json", "hf://user/zoo@main/gd_ssm.a@1/card.json"),
        ("hf://datasets/user/zoo/c/a.b@1/x", "hf://datasets/user/zoo@main/c/a.b@1/x"),
        ("hf://user/zoo@v2/gd_ssm.a@1/card.json", "hf://user/zoo@v2/gd_ssm.a@1/card.json"),
        ("hf://user/zoo/gd_ssm.a/card.json", "hf://user/zoo/gd_ssm.a/card.json"),
        ("hf://buckets/user/zoo/gd_ssm.a@1/x", "hf://buckets/user/zoo/gd_ssm.a@1/x"),
        ("s3://bucket/zoo/gd_ssm.a@1/card.json", "s3://bucket/zoo/gd_ssm.a@1/card.json"),
    ],
)
def test_a_seed_in_an_address_is_not_taken_for_a_revision(address: str, read: str) -> None:
    assert readable(address) == read


def test_the_card_comes_without_the_weights(server: Server) -> None:
    assert find_card(NAME, server.url).name == NAME
    assert "model.safetensors" not in server.asked


@pytest.mark.parametrize(
    ("file", "answers", "message"),
    [
        ("index.json", [status(404)], "index.json does not exist"),
        ("index.json", [status(403)], "index.json is refused with status 403"),
        ("index.json", [status(500)], r"index.json is answered with status 500 \(4 attempts\)"),
        ("index.json", [web_page], "index.json is a web page"),
        ("index.json", [cut], "index.json was interrupted after"),
        ("index.json", [truncated], "index.json is not JSON"),
        ("index.json", [endless], "index.json has more than the 10000000 bytes"),
        ("card.json", [status(404)], "card.json does not exist"),
        ("card.json", [truncated], r"card.json ends after \d+ of \d+ bytes: truncated"),
        ("card.json", [longer], r"card.json has more than the \d+ bytes expected"),
        ("card.json", [altered], "card.json has sha256 .*the index says"),
        ("card.json", [web_page], "card.json is a web page"),
        ("model.safetensors", [status(404)], "model.safetensors does not exist"),
        ("model.safetensors", [status(503)], "model.safetensors is answered with status 503"),
        ("model.safetensors", [cut], r"model.safetensors was interrupted after \d+ bytes"),
        ("model.safetensors", [truncated], r"model.safetensors ends after \d+ of .*truncated"),
        ("model.safetensors", [longer], "model.safetensors has more than"),
        ("model.safetensors", [endless], "model.safetensors has more than"),
        ("model.safetensors", [altered], "model.safetensors has sha256 .*a wrong file"),
        ("model.safetensors", [web_page], "model.safetensors is a web page"),
    ],
    ids=lambda value: value[0].__name__ if isinstance(value, list) else None,
)
def test_a_fault_of_the_server_is_named_and_leaves_nothing(
    server: Server, file: str, answers: list[Answer], message: str
) -> None:
    server.faults[file] = answers
    with pytest.raises(CheckpointError, match=message):
        zoo.load(NAME, url=server.url)
    assert cached_files() == []
    server.faults.clear()
    zoo.load(NAME, url=server.url)


@pytest.mark.parametrize("answer", [status(500), cut, truncated], ids=["500", "cut", "truncated"])
@pytest.mark.parametrize("file", ["card.json", "model.safetensors"])
def test_what_may_pass_is_tried_again_from_the_beginning(
    server: Server, file: str, answer: Answer
) -> None:
    server.faults[file] = then_right(answer, answer)
    zoo.load(NAME, url=server.url)
    assert server.asked[file] == 3
    assert cached_files() == ["card.json", "model.safetensors"]


@pytest.mark.parametrize(
    ("file", "answer"),
    [
        *(("card.json", answer) for answer in (trickle, stalled, slow_headers, slow_extension)),
        ("index.json", trickle),
        ("model.safetensors", trickle),
    ],
)
def test_a_server_that_sends_too_little_is_given_up_whatever_it_sends(
    server: Server, monkeypatch: pytest.MonkeyPatch, file: str, answer: Answer
) -> None:
    zoo.list_checkpoints(url=server.url)  # what is imported then takes its time
    monkeypatch.setattr(downloads, "STALL_S", SHORT_S)
    monkeypatch.setattr(downloads, "RETRY_DELAYS_S", ())
    server.faults[file] = [answer]
    with pytest.raises(DownloadError, match=rf"{file} is too slow: \d+ bytes, \d+ of them in the"):
        zoo.load(NAME, url=server.url)
    assert cached_files() == []


def test_a_server_that_slows_down_is_given_up(
    server: Server, served: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo.list_checkpoints(url=server.url)
    monkeypatch.setattr(downloads, "STALL_S", SHORT_S)
    monkeypatch.setattr(downloads, "RETRY_DELAYS_S", ())
    edit(served / NAME / "card.json", lambda card: card.update(notes="x" * 500_000))
    server.faults["card.json"] = [fast_then_slow]  # on the average it is fast enough
    with pytest.raises(DownloadError, match=r"card.json is too slow: [45]\d{5} bytes, \d+ of them"):
        zoo.load(f"{server.url}/{NAME}")


def test_places_that_are_none_are_named(server: Server, tmp_path: Path) -> None:
    url = server.url
    server.shutdown()
    server.server_close()
    for place, message in [
        (url, "index.json cannot be reached"),
        (str(tmp_path / "nowhere"), "nowhere/index.json does not exist"),
        ("gopher://host", "cannot be read: ValueError: Protocol not known: gopher"),
    ]:
        with pytest.raises(DownloadError, match=message):
            zoo.load(NAME, url=place)


def test_unknown_names_come_with_the_near_ones(server: Server) -> None:
    with pytest.raises(ValueError, match=r"no checkpoint 'gd_ssm.tst'. Did you mean 'gd_ssm.test'"):
        zoo.load("gd_ssm.tst", url=server.url)
    for name in ("..", "gd_ssm", "gd_ssm..", "GD_SSM.test", "gd_ssm.test\n", ""):
        with pytest.raises(ValueError, match="is a name, and no checkpoint is known by it"):
            zoo.load(name, url=server.url)
    assert server.asked["card.json"] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda i: i.update(schema_version=3), "schema_version 3, newer than 2"),
        (lambda i: i.update(schema_version="2"), "schema_version: Input should be a valid int"),
        (
            lambda i: i["checkpoints"].update({"../x": i["checkpoints"][NAME]}),
            "String should match",
        ),
        (lambda i: i["checkpoints"].update({"/etc.x": i["checkpoints"][NAME]}), "should match"),
        (lambda i: i["checkpoints"].update({"a.b/../..": i["checkpoints"][NAME]}), "should match"),
        (lambda i: i["checkpoints"][NAME].update(sha256="../../x"), "sha256: String should match"),
        (lambda i: i["checkpoints"][NAME].update(bytes=10**12), "a card has at most 1000000"),
        (lambda i: i["checkpoints"][NAME].update(url="http://x"), "url: Extra inputs"),
        (lambda i: i["checkpoints"][NAME].update(family="\x1b[2J"), "family: String should match"),
        (lambda i: i.pop("checkpoints"), "checkpoints: Field required"),
        (lambda i: i["checkpoints"][NAME].update(noise=math.inf), "Infinity is no number"),
    ],
)
def test_a_hostile_index_is_refused(
    server: Server, served: Path, change: Callable[[Any], Any], message: str
) -> None:
    edit(served / "index.json", change)
    with pytest.raises(CheckpointError, match=message):
        zoo.load(NAME, url=server.url)
    assert cached_files() == []


def test_a_card_that_asks_for_too_much_is_refused_before_the_weights(
    server: Server, served: Path
) -> None:
    entry = ("files", "model.safetensors")
    edit(served / NAME / "card.json", lambda card: card[entry[0]][entry[1]].update(bytes=2**40))
    with pytest.raises(CheckpointError, match="has 1099511627776 bytes, at most 1073741824"):
        zoo.load(f"{server.url}/{NAME}")
    assert server.asked["model.safetensors"] == 0


def test_an_unusable_checkpoint_does_not_enter_the_cache(server: Server, served: Path) -> None:
    sizes = {"d_x": 4}
    edit(
        served / NAME / "card.json",
        lambda card: card.update(model_args=card["model_args"] | sizes, data=card["data"] | sizes),
    )
    with pytest.raises(CheckpointError, match="has shape"):
        zoo.load(f"{server.url}/{NAME}")
    assert cached_files() == []


def test_a_new_version_under_an_old_name_stands_beside_the_old_one(
    server: Server, served: Path
) -> None:
    zoo.load(NAME, url=server.url)
    edit(served / NAME / "card.json", lambda card: card.update(notes="again"))
    write_generated(served)
    assert find_card(NAME, server.url).notes == ""
    assert find_card(f"{server.url}/{NAME}").notes == "again"


def test_a_damaged_copy_in_the_cache_is_fetched_again(server: Server) -> None:
    directory = find_checkpoint(NAME, server.url)
    (directory / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="truncated or altered"):
        zoo.load(directory)
    assert find_checkpoint(f"{server.url}/{NAME}") == directory
    zoo.load(directory)


@pytest.mark.parametrize("file", ["card.json", "model.safetensors"])
@pytest.mark.parametrize("content", [b"", b"half", None], ids=["empty", "truncated", "missing"])
def test_a_damaged_copy_is_fetched_again_by_its_name_or_said(
    server: Server, monkeypatch: pytest.MonkeyPatch, file: str, content: bytes | None
) -> None:
    directory = find_checkpoint(NAME, server.url)
    (directory / file).unlink()
    if content is not None:
        (directory / file).write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{directory}.*(altered|truncated|has no)"):
        zoo.load(NAME)
    monkeypatch.setenv("ICL_ZOO_URL", server.url)
    zoo.load(NAME)
    assert server.asked[file] == 2
    monkeypatch.delenv("ICL_ZOO_URL")
    zoo.load(NAME)


def test_a_rewritten_pair_in_the_cache_is_refused(server: Server, tmp_path: Path) -> None:
    directory = find_checkpoint(NAME, server.url)
    model = zoo.load(directory)
    with torch.no_grad():
        next(model.parameters()).zero_()
    card = read_card(directory).model_dump()
    for field in ("schema_version", "num_parameters", "dtype", "files"):
        del card[field]
    save_checkpoint(tmp_path / "other", model, card)
    for path in (tmp_path / "other").iterdir():
        path.replace(directory / path.name)
    for act in (zoo.load, find_card, find_checkpoint):
        with pytest.raises(CheckpointError, match=r"card.json has sha256 [0-9a-f]{64}: altered"):
            act(NAME)
    for act in (zoo.load, check_checkpoint):
        with pytest.raises(CheckpointError, match=r"card.json has sha256 [0-9a-f]{64}: altered"):
            act(directory)
    # A link has the name that it is filed under, whatever that of its target is.
    directory.rename(tmp_path / "elsewhere")
    directory.symlink_to(tmp_path / "elsewhere")
    for act in (zoo.load, check_checkpoint):
        with pytest.raises(CheckpointError, match=r"card.json has sha256 [0-9a-f]{64}: altered"):
            act(directory)
    directory.unlink()
    assert find_checkpoint(NAME, server.url) == directory
    assert next(zoo.load(NAME).parameters()).any()


def test_the_card_is_that_of_the_name_asked_for(
    server: Server, served: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = "gd_ssm.other"
    (served / NAME).rename(served / other)
    edit(served / "index.json", lambda i: i["checkpoints"].update({other: i["checkpoints"][NAME]}))
    message = "gd_ssm.other was asked for, and its card is that of gd_ssm.test"
    for _ in range(2):  # from the server, then from the cache
        for act in (zoo.load, find_card, find_checkpoint):
            with pytest.raises(CheckpointError, match=message):
                act(other, url=server.url)
    monkeypatch.setattr("zoo.hub.find.CHECKPOINTS", served)
    with pytest.raises(CheckpointError, match=message):
        zoo.load(other)
    zoo.load(served / other)
    zoo.load(f"{server.url}/{other}")


def test_what_a_killed_process_left_is_no_checkpoint(server: Server) -> None:
    directory = find_checkpoint(NAME, server.url)
    directory.rename(directory.with_name(f"{directory.name}.partial"))
    (directory.with_name(f"{directory.name}.partial") / "model.safetensors").write_bytes(b"half")
    assert find_checkpoint(NAME, server.url) == directory
    assert cached_files() == ["card.json", "model.safetensors"]


def test_interrupting_leaves_nothing(server: Server) -> None:
    def press(address: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        find_checkpoint(NAME, server.url, press)
    assert cached_files() == []


def test_a_cache_that_cannot_be_written_is_named(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ICL_ZOO_CACHE", str(tmp_path / "file"))
    with pytest.raises(DownloadError, match="file cannot be written: .*ICL_ZOO_CACHE names"):
        zoo.load(NAME, url=server.url)


def test_a_full_disk_is_named_and_leaves_nothing(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    zoo.list_checkpoints(url=server.url)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DownloadError, match="cannot be written: .*No space left"):
        zoo.load(f"{server.url}/{NAME}")
    assert cached_files() == []


def load_into(cache: str, url: str) -> None:
    os.environ |= {"ICL_ZOO_CACHE": cache, "no_proxy": "*"}
    zoo.load(NAME, url=url)


def test_eight_processes_download_once(server: Server) -> None:
    def slow(handler: SimpleHTTPRequestHandler, content: bytes) -> None:
        time.sleep(0.5)
        whole(handler, content)

    server.faults["model.safetensors"] = [slow]
    arguments = (str(cache_directory()), server.url)
    processes = [CONTEXT.Process(target=load_into, args=arguments) for _ in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 8
    assert server.asked["card.json"] > 1, "they did not meet"
    assert server.asked["model.safetensors"] == 1
    assert cached_files() == ["card.json", "model.safetensors"]


def test_the_shipped_checkpoint_comes_before_the_cache(
    server: Server, served: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zoo.hub.find.CHECKPOINTS", served)
    assert zoo.list_checkpoints() == [NAME]
    assert zoo.list_checkpoints("transformer*") == []
    assert find_checkpoint(NAME) == served / NAME
    assert find_checkpoint(NAME, server.url) != served / NAME
