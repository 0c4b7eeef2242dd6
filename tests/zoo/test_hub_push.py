"""Checkpoints to other places and back: local servers, file systems, repositories of commits."""

import inspect
import io
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import fsspec
import pytest
import torch
import yaml  # type: ignore[import-untyped]
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry as file_systems
from typer.testing import CliRunner

import zoo
from tests.conftest import MakeCheckpoint
from tests.servers import FileServer, serving
from zoo.commands import zoo as cli
from zoo.hub.addresses import hub_address, is_of_a_commit, of_revision
from zoo.hub.card import CheckpointError
from zoo.hub.export import export, stale_files
from zoo.hub.index import read_index
from zoo.hub.push import push

NAME, OTHER = "gd_ssm.test", "gd_ssm.other"
FILES = ["README.md", "card.json", "model.safetensors"]

pytestmark = pytest.mark.usefixtures("empty_cache")


def listed(directory: Path) -> Path:
    """A checkpoint with what an index says of it."""
    card = json.loads((directory / "card.json").read_text())
    card["data"]["function"] = {"name": "linear"}
    (directory / "card.json").write_text(json.dumps(card))
    return directory


@pytest.fixture
def checkpoint(make_checkpoint: MakeCheckpoint) -> Path:
    return listed(make_checkpoint())


@pytest.fixture
def other(checkpoint: Path, tmp_path: Path) -> Path:
    return export(checkpoint, OTHER, tmp_path / "others")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FileServer]:
    (tmp_path / "served").mkdir()
    with serving(tmp_path / "served") as server:
        yield server


def assert_same(loaded: Any, directory: Path) -> None:
    expected = zoo.load(directory).state_dict()
    assert loaded.state_dict().keys() == expected.keys()
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, expected[name])


def files_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if path.name != ".lock")


def front_matter(readme: str) -> Any:
    return yaml.safe_load(readme.split("---\n")[1])


def test_what_is_pushed_to_a_server_is_pulled_from_it(
    server: FileServer, checkpoint: Path, tmp_path: Path
) -> None:
    place = f"{server.url}/mine"
    assert push(checkpoint, place) == place
    assert files_in(tmp_path / "served" / "mine") == FILES
    assert_same(zoo.from_pretrained(place), checkpoint)
    readme = (tmp_path / "served" / "mine" / "README.md").read_text()
    assert f'zoo.load("{place}")' in readme
    assert front_matter(readme) == {
        "license": "apache-2.0",
        "library_name": "icl-zoo",
        "tags": ["gd_ssm", "in-context-learning", "linear"],
    }


def test_a_directory_of_checkpoints_on_a_server_gets_a_row_beside_the_others(
    server: FileServer, checkpoint: Path, other: Path, tmp_path: Path
) -> None:
    assert push(other, server.url, collection=True) == f"{server.url}/{OTHER}"
    assert push(checkpoint, server.url) == f"{server.url}/{NAME}"
    assert [*read_index(tmp_path / "served").checkpoints] == [OTHER, NAME]
    assert zoo.list_checkpoints(url=server.url) == [OTHER, NAME]
    assert_same(zoo.from_pretrained(NAME, url=server.url), checkpoint)


def test_what_is_there_is_replaced_on_demand_only(server: FileServer, checkpoint: Path) -> None:
    push(checkpoint, server.url)
    server.asked.clear()
    with pytest.raises(CheckpointError, match=r"/card.json exists; --replace replaces it$"):
        push(checkpoint, server.url)
    assert not any(request.startswith("PUT") for request in server.asked)
    push(checkpoint, server.url, replace=True)
    assert server.asked["PUT model.safetensors"] == 1


@pytest.mark.parametrize("collection", [False, True])
def test_a_replacement_that_breaks_off_is_seen_by_who_loads_and_mended_by_another_push(
    server: FileServer, checkpoint: Path, make_checkpoint: MakeCheckpoint, collection: bool
) -> None:
    place = push(checkpoint, server.url, collection)
    newer = listed(make_checkpoint())
    server.refused["PUT card.json"] = 503
    with pytest.raises(CheckpointError, match="the server answers with status 503"):
        push(newer, server.url, replace=True)
    with pytest.raises(CheckpointError, match="safetensors has sha256 .*, its card says .*: a wro"):
        zoo.from_pretrained(place)
    server.refused.clear()
    push(newer, server.url, replace=True)
    assert_same(zoo.from_pretrained(place), newer)


@pytest.mark.parametrize(
    ("refused", "status", "message"),
    [
        ("GET index.json", 500, r"index.json is answered with status 500 \(1 attempts\)"),
        ("GET card.json", 403, "card.json is refused with status 403"),
        ("PUT model.safetensors", 403, "cannot be written: the server answers with status 403"),
        ("PUT model.safetensors", 405, "cannot be written: the server answers with status 405"),
    ],
)
def test_a_server_that_refuses_is_named_before_there_is_a_card(
    server: FileServer, checkpoint: Path, tmp_path: Path, refused: str, status: int, message: str
) -> None:
    server.refused[refused] = status
    with pytest.raises(CheckpointError, match=message):
        push(checkpoint, server.url)
    assert files_in(tmp_path / "served") == []


def test_a_server_that_is_away_is_named(server: FileServer, checkpoint: Path) -> None:
    server.shutdown()
    server.server_close()
    with pytest.raises(CheckpointError, match="index.json cannot be reached"):
        push(checkpoint, server.url)


def test_a_directory_here_is_a_place_as_well(checkpoint: Path, other: Path, tmp_path: Path) -> None:
    for number, target in enumerate((tmp_path / "a", (tmp_path / "b").as_uri())):
        assert push(checkpoint, str(target)) == str(tmp_path / "ab"[number])
        assert files_in(tmp_path / "ab"[number]) == FILES
    with pytest.raises(CheckpointError, match="a has README.md; --replace replaces a checkpoint"):
        push(other, str(tmp_path / "a"))
    push(other, str(tmp_path / "a"), replace=True)
    assert zoo.load(tmp_path / "a").card.name == OTHER
    push(checkpoint, str(tmp_path / "c"), collection=True)
    push(other, str(tmp_path / "c"))
    assert [*read_index(tmp_path / "c").checkpoints] == [OTHER, NAME]
    assert stale_files(tmp_path / "c") == {}


def test_a_directory_of_other_things_is_never_replaced(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "mother.txt").write_text("Dear")
    with pytest.raises(CheckpointError, match="has mother.txt, so it is no directory of a check"):
        push(checkpoint, str(tmp_path / "letters"), replace=True)
    assert files_in(tmp_path / "letters") == ["mother.txt"]


class Breaking(MemoryFileSystem):
    """A file system with transactions in which the third file cannot be written."""

    protocol = "breaking"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    opened = 0

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        if mode == "wb":
            type(self).opened += 1
            if type(self).opened == 3:
                raise OSError(28, "No space left on device")
        return super()._open(path, mode, **options)


def test_files_appear_together_or_not_at_all_where_there_are_transactions(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsspec.register_implementation("breaking", Breaking, clobber=True)
    monkeypatch.setattr(Breaking, "store", {})
    monkeypatch.setattr(Breaking, "opened", 0)
    with pytest.raises(CheckpointError, match="cannot be written: OSError: .*No space left"):
        push(checkpoint, "breaking://zoo/mine")
    assert Breaking.store == {}
    push(checkpoint, "breaking://zoo/mine")
    assert sorted(place.rpartition("/")[2] for place in Breaking.store) == FILES
    assert_same(zoo.from_pretrained("breaking://zoo/mine"), checkpoint)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("gopher://host/x", "cannot be read: ValueError: Protocol not known: gopher"),
        ("hf://user/zoo", "hf://user/zoo needs another package: .*huggingface_hub"),
    ],
)
def test_a_place_that_is_none_is_named(
    checkpoint: Path, target: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match=message):
        push(checkpoint, target)


@dataclass
class Repository:
    """Commits, each with all its files, and what names point at which."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        before = self.commits.get(self.names.get(branch, ""), {})
        sha = f"{len(self.commits) + 1:040x}"
        self.commits[sha] = before | files
        self.names[branch] = sha
        return sha

    def at(self, revision: str) -> dict[str, bytes]:
        return self.commits[self.names.get(revision, revision)]


class HuggingFace:
    """What huggingface_hub does, as far as it is used here."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.reads = 0

    def repo_exists(self, repo_id: str, repo_type: str | None) -> bool:
        return repo_id in self.repositories

    def create_repo(self, repo_id: str, repo_type: str | None, exist_ok: bool) -> None:
        assert exist_ok
        if repo_id.startswith("somebody/"):
            raise PermissionError("403 Forbidden: you have no rights\nto create it")
        self.repositories[repo_id] = Repository()
        self.repositories[repo_id].commit({".gitattributes": b""})

    def repo_info(self, repo_id: str, repo_type: str | None, revision: str | None) -> Any:
        repository = self.repositories[repo_id]
        if revision is not None and revision not in repository.names:
            raise ValueError(f"404 Revision {revision} not found")
        return SimpleNamespace(sha=repository.names[revision or "main"])

    def create_commit(
        self,
        repo_id: str,
        repo_type: str | None,
        revision: str | None,
        operations: list[Any],
        commit_message: str,
        parent_commit: str,
    ) -> None:
        repository, branch = self.repositories[repo_id], revision or "main"
        if repository.names[branch] != parent_commit:
            raise ValueError("412 Precondition Failed: the branch has changed")
        repository.commit({one.path_in_repo: one.path_or_fileobj for one in operations}, branch)


class CommitOperationAdd:
    """A file of a commit."""

    def __init__(self, path_in_repo: str, path_or_fileobj: bytes) -> None:
        self.path_in_repo, self.path_or_fileobj = path_in_repo, path_or_fileobj


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> HuggingFace:
    hub = HuggingFace()

    class HfFileSystem(fsspec.AbstractFileSystem):  # type: ignore[misc]
        protocol = "hf"

        def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
            hub.reads += 1
            parts = hub_address(f"hf://{path}")
            assert parts is not None
            try:
                files = hub.repositories[parts.repository].at(parts.revision or "main")
                return io.BytesIO(files[parts.path])
            except KeyError:
                raise FileNotFoundError(path) from None

    package: Any = ModuleType("huggingface_hub")
    package.HfApi, package.CommitOperationAdd = lambda: hub, CommitOperationAdd
    monkeypatch.setitem(sys.modules, "huggingface_hub", package)
    monkeypatch.setitem(file_systems, "hf", HfFileSystem)
    return hub


def test_huggingface_hub_takes_what_its_double_takes() -> None:
    real = pytest.importorskip("huggingface_hub")
    for name in ("repo_exists", "create_repo", "repo_info", "create_commit"):
        taken = inspect.signature(getattr(HuggingFace, name)).parameters
        inspect.signature(getattr(real.HfApi, name)).bind(**dict.fromkeys(taken))
    inspect.signature(real.CommitOperationAdd).bind("card.json", b"")
    assert "sha" in inspect.get_annotations(real.ModelInfo)


class HfHubHTTPError(OSError):
    """As of the hub: the status is that of the answer."""

    def __init__(self, status: int) -> None:
        super().__init__("a long page of what went wrong")
        self.response = SimpleNamespace(status_code=status)


def refuse(status: int, *arguments: Any, **options: Any) -> None:
    raise HfHubHTTPError(status)


@pytest.mark.parametrize("status", [401, 403])
def test_what_the_hub_refuses_is_said_by_its_status_at_once(
    hub: HuggingFace, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    push(checkpoint, "hf://user/zoo")
    monkeypatch.setattr(hub, "create_commit", partial(refuse, status))
    with pytest.raises(CheckpointError, match=f"the server answers with status {status}$"):
        push(checkpoint, "hf://user/zoo", replace=True)
    monkeypatch.setattr(file_systems["hf"], "_open", partial(refuse, status))
    with pytest.raises(CheckpointError, match=f"card.json is refused with status {status}$"):
        zoo.from_pretrained("hf://user/zoo")


def test_the_hub_has_the_status_in_its_answer() -> None:
    errors = pytest.importorskip("huggingface_hub.errors")
    assert "response" in inspect.signature(errors.HfHubHTTPError).parameters


def test_a_repository_is_made_and_gets_one_commit(hub: HuggingFace, checkpoint: Path) -> None:
    assert push(checkpoint, "hf://user/zoo") == "hf://user/zoo"
    repository = hub.repositories["user/zoo"]
    assert len(repository.commits) == 2, "one of them makes the repository"
    assert sorted(repository.at("main")) == [".gitattributes", *FILES]
    assert_same(zoo.from_pretrained("hf://user/zoo"), checkpoint)
    with pytest.raises(CheckpointError, match=r"zoo/card.json exists; --replace replaces it$"):
        push(checkpoint, "hf://user/zoo")
    push(checkpoint, "hf://user/zoo", replace=True)


def test_a_repository_of_checkpoints_gets_the_row_in_the_same_commit(
    hub: HuggingFace, checkpoint: Path, other: Path
) -> None:
    assert push(checkpoint, "hf://user/zoo/all", collection=True) == f"hf://user/zoo/all/{NAME}"
    push(other, "hf://user/zoo/all")
    assert len(hub.repositories["user/zoo"].commits) == 3
    assert zoo.list_checkpoints(url="hf://user/zoo/all") == [OTHER, NAME]
    assert_same(zoo.from_pretrained(OTHER, url="hf://user/zoo/all"), other)


def test_a_commit_in_between_is_not_overwritten(
    hub: HuggingFace, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def index_at(url: str) -> None:
        hub.repositories["user/zoo"].commit({"card.json": b"of somebody else"})

    monkeypatch.setattr("zoo.hub.push.index_at", index_at)
    message = "hf://user/zoo cannot be written: ValueError: 412 .* the branch has changed"
    with pytest.raises(CheckpointError, match=message):
        push(checkpoint, "hf://user/zoo")
    assert hub.repositories["user/zoo"].at("main")["card.json"] == b"of somebody else"


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("hf://somebody/zoo", "zoo cannot be written: PermissionError: 403 .* no rights$"),
        ("hf://user/zoo@nope", "zoo@nope cannot be written: ValueError: 404 Revision nope"),
        ("hf://user/new@v1", "^hf://user/new@v1 names a revision, and user/new is not there yet"),
    ],
)
def test_a_repository_that_refuses_is_named_and_none_is_made(
    hub: HuggingFace, checkpoint: Path, target: str, message: str
) -> None:
    hub.create_repo("user/zoo", None, exist_ok=True)
    with pytest.raises(CheckpointError, match=message):
        push(checkpoint, target)
    assert [*hub.repositories] == ["user/zoo"]


@pytest.fixture
def versions(hub: HuggingFace, checkpoint: Path, other: Path) -> Repository:
    """A repository of which v1 is one checkpoint, and main another."""
    push(checkpoint, "hf://user/zoo")
    repository = hub.repositories["user/zoo"]
    repository.names |= {"v1": repository.names["main"], "feature/x": repository.names["main"]}
    push(other, "hf://user/zoo", replace=True)
    return repository


def test_a_revision_pins_the_version(versions: Repository) -> None:
    for revision, name in (
        (None, OTHER),
        ("main", OTHER),
        ("v1", NAME),
        (versions.names["v1"], NAME),
    ):
        assert zoo.from_pretrained("hf://user/zoo", revision=revision).card.name == name
    assert zoo.from_pretrained("hf://user/zoo@v1").card.name == NAME
    assert zoo.from_pretrained("hf://user/zoo@v1", revision="v1").card.name == NAME


def test_a_revision_pins_the_index_that_a_name_is_in(
    hub: HuggingFace, checkpoint: Path, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(checkpoint, "hf://user/all", collection=True)
    repository = hub.repositories["user/all"]
    repository.names["v1"] = repository.names["main"]
    push(other, "hf://user/all")
    monkeypatch.setattr("zoo.hub.find.CHECKPOINTS", checkpoint.parent)
    monkeypatch.setenv("ICL_ZOO_URL", "hf://user/all")
    assert zoo.from_pretrained(NAME, revision="v1").card.name == NAME
    assert hub.reads > 0, "the one beside the code is of no revision"
    assert zoo.from_pretrained(OTHER, revision="main").card.name == OTHER
    with pytest.raises(ValueError, match=r"hf://user/all@v1 has no checkpoint 'gd_ssm.other'"):
        zoo.from_pretrained(OTHER, revision="v1", url="hf://user/all")


def test_what_a_commit_has_is_fetched_once(hub: HuggingFace, versions: Repository) -> None:
    commit = versions.names["v1"]
    zoo.from_pretrained("hf://user/zoo", revision=commit)
    reads = hub.reads
    zoo.from_pretrained("hf://user/zoo", revision=commit)
    assert hub.reads == reads
    zoo.from_pretrained("hf://user/zoo", revision="v1")
    assert hub.reads > reads, "a tag may move"


@pytest.mark.parametrize(
    ("given", "revision", "message"),
    [
        ("hf://user/zoo", "nope", "hf://user/zoo@nope/card.json does not exist"),
        ("hf://user/zoo", "", "revision must be a branch, a tag or a commit, got ''"),
        ("hf://user/zoo", "v1@x y", "revision must be a branch, a tag or a commit, got 'v1@x y'"),
        ("hf://user/zoo@v2", "v1", "hf://user/zoo@v2 names another revision than revision='v1'"),
        ("https://host/zoo", "v1", "goes with an address hf://USER/REPOSITORY, got 'https://host"),
        ("hf://buckets/user/zoo", "v1", "goes with an address hf://USER/REPOSITORY, got 'hf://b"),
        ("./gd_ssm.linear", "v1", "goes with an address hf://USER/REPOSITORY, got './gd_ssm.l"),
        ("gd_ssm.linear", "v1", "goes with an address hf://USER/REPOSITORY, got 'gd_ssm.linear'"),
    ],
)
def test_a_revision_of_nothing_is_refused_in_one_line(
    versions: Repository, given: str, revision: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        zoo.from_pretrained(given, revision=revision)
    assert "\n" not in str(caught.value)


def test_a_branch_with_a_slash_is_quoted_in_the_address() -> None:
    address = of_revision("hf://user/zoo/all", "feature/x")
    assert address == "hf://user/zoo@feature%2Fx/all"
    assert of_revision("hf://user/zoo@refs/pr/1/all", "refs/pr/1").endswith("%2F1/all")
    assert not is_of_a_commit(address)
    assert is_of_a_commit(of_revision("hf://datasets/user/zoo", "a" * 40))


def test_the_command_pushes_and_says_in_one_line_why_not(
    server: FileServer, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*arguments: str) -> tuple[int, str, str]:
        result = CliRunner().invoke(cli.app, ["push", str(checkpoint), *arguments])
        return result.exit_code, result.stdout, result.stderr

    assert run(server.url, "--collection") == (0, f"{server.url}/{NAME}\n", "")
    code, output, errors = run(server.url)
    assert (code, output, errors.count("\n")) == (1, "", 1)
    assert errors.endswith(f"{NAME}/card.json exists; --replace replaces it\n")
    assert run(server.url, "--replace")[0] == 0
    monkeypatch.setenv("ICL_ZOO_OFFLINE", "1")
    code, _, errors = run(server.url, "--replace")
    assert (code, errors.count("\n"), "ICL_ZOO_OFFLINE=1; unset that" in errors) == (1, 1, True)


@pytest.mark.parametrize("collection", [False, True])
@pytest.mark.parametrize("replace", [False, True])
def test_a_file_is_never_replaced_by_a_directory(
    checkpoint: Path, tmp_path: Path, collection: bool, replace: bool
) -> None:
    mine, link = tmp_path / "mine.csv", tmp_path / "link.csv"
    mine.write_text("a,b")
    link.symlink_to(mine)
    for target in (mine, link):
        with pytest.raises(CheckpointError, match=f"{target.name} is a file, and a checkpoint"):
            push(checkpoint, str(target), collection=collection, replace=replace)
    assert mine.read_text() == "a,b"
    assert link.is_symlink()
    assert sorted(path.name for path in tmp_path.glob("*.csv*")) == ["link.csv", "mine.csv"]
