"""`python -m zoo`, as it is used."""

import importlib
import json
import re
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.conftest import MakeCheckpoint
from zoo.commands import zoo as cli
from zoo.hub.directory import read_card
from zoo.hub.export import export
from zoo.hub.find import find_card
from zoo.terminal import StoppedBySignal

Run = Callable[..., tuple[int, str, str]]
SHIPPED = Path(__file__).parents[1] / "checkpoints"
KINDS = {
    "gd_ssm": {},
    "linear_transformer": {},
    "transformer": {"d_model": 8, "num_layers": 1, "num_heads": 1},
}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs a command in a terminal of 80 columns: exit code, output, errors."""
    monkeypatch.setenv("ICL_ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("ICL_ZOO_URL", raising=False)
    monkeypatch.setattr(cli, "CHECKPOINTS", tmp_path / "none")
    monkeypatch.setattr("zoo.hub.find.CHECKPOINTS", tmp_path / "none")

    def run(*arguments: object) -> tuple[int, str, str]:
        result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.stdout, result.stderr

    return run


def describe(checkpoint: Path, **changes: Any) -> None:
    card = json.loads((checkpoint / "card.json").read_text())
    card["data"]["function"] = {"name": "linear"}
    card |= changes
    (checkpoint / "card.json").write_text(json.dumps(card))


@pytest.fixture
def location(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> Path:
    """Checkpoints of three architectures, exported as from runs."""
    for number, (architecture, arguments) in enumerate(KINDS.items()):
        checkpoint = make_checkpoint(architecture, **arguments)
        metric = {"value": 0.5 - number / 10, "ci95": 0.01, "num_episodes": 100, "eval_seed": 0}
        describe(checkpoint, metrics={"test/half_mse_query": metric})
        export(checkpoint, f"{architecture}.linear", tmp_path / "location")
    return tmp_path / "location"


def test_list_sorts_and_filters(run: Run, location: Path) -> None:
    def names(*options: str) -> list[str]:
        code, output, _ = run("list", "--url", location, "--json", *options)
        assert code == 0
        return [row["name"] for row in json.loads(output)]

    everything = [f"{name}.linear" for name in sorted(KINDS)]
    assert names() == everything
    assert names("--sort", "error") == [f"{name}.linear" for name in reversed(KINDS)]
    assert names("--sort", "error", "--reverse") == [f"{name}.linear" for name in KINDS]
    assert names("--architecture", "transformer") == ["transformer.linear"]
    assert names("*transformer*") == everything[1:]
    nothing = ("gd_ssm*", "--architecture", "transformer")
    assert names(*nothing) == []
    assert run("list", "--url", location, *nothing)[1] == "none of 3 checkpoints matches\n"
    for option, given, allowed in (
        ("--architecture", "lstm", ", ".join(sorted(KINDS))),
        ("--family", "sine", "linear"),
    ):
        code, output, errors = run("list", "--url", location, "--json", option, given)
        assert (code, output) == (1, "")
        assert errors == f"error: {option} must be one of {allowed}, got {given!r}\n"


def test_a_list_takes_parts_of_names_and_patterns(run: Run, location: Path) -> None:
    def names(*patterns: str) -> list[str]:
        _, output, _ = run("list", "--url", location, "--json", *patterns)
        return [row["name"] for row in json.loads(output)]

    assert names("former") == ["linear_transformer.linear", "transformer.linear"]
    assert names("transformer*") == ["transformer.linear"]
    assert names("gd_", "transformer.*") == ["gd_ssm.linear", "transformer.linear"]
    assert names("LSTM") == []


LONG = "online_learner.linear_drift_gated_linear_attention"


def renamed(location: Path, name: str) -> None:
    """Puts a checkpoint of another name beside those of a location, unchecked, and lists it."""
    index = json.loads((location / "index.json").read_text())
    index["checkpoints"][name] = index["checkpoints"]["gd_ssm.linear"]
    (location / "index.json").write_text(json.dumps(index))


def test_a_list_has_a_line_for_each_checkpoint_with_its_whole_name(
    run: Run, location: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    renamed(location, LONG)
    for width in ("80", "100", "160"):
        monkeypatch.setenv("COLUMNS", width)
        code, output, _ = run("list", "--url", location)
        lines = output.splitlines()
        assert code == 0
        assert max(map(len, lines)) <= int(width)
        for name in (*(f"{kind}.linear" for kind in KINDS), LONG):
            (line,) = [line for line in lines if line.split()[:1] == [name]]
            assert re.search(r" 0\.\d+ ", line)
        assert ("seconds" in output) == (width == "160")


def test_a_comparison_fits_80_columns_with_whole_names(run: Run, location: Path) -> None:
    names = [f"{name}.linear" for name in KINDS]
    code, output, _ = run("compare", *names, "--url", location)
    assert code == 0
    assert max(map(len, output.splitlines())) <= 80
    for name in (*names, "zero"):
        assert re.search(rf"^{name} +0\.\d", output, re.MULTILINE)


@pytest.mark.parametrize(
    "command",
    [
        ["list"],
        ["compare", "*"],
        ["show", "gd_ssm.linear_two_steps"],  # a heavy tail and long names
        ["show", "gated_delta_net.linear_noisy"],  # a long word
    ],
)
def test_what_is_shipped_fits_80_columns_with_whole_names(run: Run, command: list[str]) -> None:
    _, output, _ = run("list", "--url", SHIPPED, "--json")
    checkpoints = [row["name"] for row in json.loads(output)]
    if command[0] == "show":
        _, output, _ = run(*command, "--url", SHIPPED, "--json")
        card = json.loads(output)
        names = [*card["metrics"], *card["reference_metrics"], card["command"].split()[-1]]
    else:
        command, names = [command[0], *(checkpoints if "*" in command else [])], checkpoints
    code, output, _ = run(*command, "--url", SHIPPED)
    assert code == 0
    assert max(map(len, output.splitlines())) <= 80
    words = set(output.split())
    assert [name for name in names if name not in words] == []
    if command == ["list"]:
        assert " error " in output.splitlines()[0]


def test_a_card_is_shown_without_saying_the_rates_twice() -> None:
    card = find_card("transformer.linear@1")
    training = cli.sections_of(card)["training"]
    assert "0.001 (0.2122), 0.003 (0.1888)" in training["seeds, rates"]
    assert not [name for name in training if "rates." in name]
    assert {"optimizer.lr", "optimizer.ssm_lr", "schedule.convergence.fall"} <= training.keys()


@pytest.mark.parametrize("command", ["list", "show", "compare", "runs", "remove"])
def test_no_word_of_a_help_is_broken(run: Run, command: str) -> None:
    code, output, _ = run(command, "--help")
    assert code == 0
    assert max(map(len, output.splitlines())) <= 80
    if command == "list":
        assert {f"{key}," for key in cli.SORT_KEYS if key != "time"} <= set(output.split())


def test_a_checkpoint_is_compared_once_and_another_of_its_name_as_it_was_typed(
    run: Run, location: Path, make_checkpoint: MakeCheckpoint
) -> None:
    def rows(*names: object) -> list[str]:
        code, output, _ = run("compare", "--url", location, "--json", *names)
        assert code == 0
        return [row["name"] for found in json.loads(output) for row in found["rows"]]

    same = location / "gd_ssm.linear"
    assert rows("gd_ssm.linear", same, "gd_ssm.linear") == ["zero", "gd_ssm.linear"]
    other = make_checkpoint("gd_ssm", scale_Q=0.5)
    metric = {"value": 0.3, "ci95": 0.01, "num_episodes": 100, "eval_seed": 0}
    describe(other, name="gd_ssm.linear", metrics={"test/half_mse_query": metric})
    assert rows("gd_ssm.linear", other) == ["zero", str(other), "gd_ssm.linear"]


def test_compare_puts_the_exact_algorithms_in_their_place(run: Run, location: Path) -> None:
    describe(location / "gd_ssm.linear", reference_metrics={})
    export(location / "gd_ssm.linear", "gd_ssm.linear", location, replace=True)
    names = [f"{name}.linear" for name in KINDS]
    code, output, _ = run("compare", "--url", location, "--json", *names)
    assert code == 0
    (comparison,) = [c for c in json.loads(output) if len(c["rows"]) == 4]
    assert [row["name"] for row in comparison["rows"]] == ["zero", *reversed(names)]
    assert comparison["rows"][0]["checkpoint"] is None


def test_show_prints_the_card(run: Run, location: Path) -> None:
    code, output, _ = run("show", "gd_ssm.linear", "--url", location, "--json")
    assert code == 0
    assert output == json.dumps(json.loads(output), indent=2) + "\n"
    assert json.loads(output)["command"] == "python train.py"
    _, output, _ = run("show", location / "gd_ssm.linear")
    assert "python train.py" in output
    assert "zero (exact)" in output


def test_show_has_everything_that_a_card_has(run: Run, location: Path) -> None:
    describe(
        location / "gd_ssm.linear",
        versions={"torch": "2.13.0"},
        notes="of no use",
        curves={"model": [{"value": 0.125, "ci95": None}, None]},
    )
    card = read_card(location / "gd_ssm.linear")
    _, output, _ = run("show", location / "gd_ssm.linear")
    assert max(map(len, output.splitlines())) <= 80
    text = " ".join(output.split())
    for title in ("model:", "episodes:", "training:", "origin:", "error after 0, 1, ... examples:"):
        assert title in text
    for field in (
        *("d_x 3 d_y 3", "function.name linear", "seed 0", "torch 2.13.0", "notes of no use"),
        *(f"sha256 {card.files['model.safetensors'].sha256}", "model 0.125 -", "steps 1 of 64"),
        *(f"parameters {card.num_parameters:,}", f"created {card.created:%Y-%m-%d}"),
        *("test/half_mse_query 0.5", "license Apache-2.0", card.paper, "commit unknown"),
    ):
        assert field in text, field


def entries_below(directory: Path) -> list[Path]:
    return sorted(directory.rglob("*")) if directory.exists() else []


def test_removing_takes_a_checkpoint_out_of_the_cache_and_leaves_the_others(
    run: Run, location: Path, tmp_path: Path
) -> None:
    assert run("download", "gd_ssm.linear", "transformer.linear", "--url", location)[0] == 0
    places = {path.parent for path in tmp_path.glob("cache/checkpoints/*/card.json")}
    (gone,) = [place for place in places if read_card(place).name == "gd_ssm.linear"]
    (gone / "card.json").write_text("damaged")
    code, output, _ = run("remove", "gd_ssm.linear")
    assert (code, output) == (0, f"removed {gone}\n")
    assert {path for path in (tmp_path / "cache/checkpoints").iterdir() if path.is_dir()} == (
        places - {gone}
    )
    code, _, errors = run("remove", "gd_ssm.linear")
    assert (code, errors.count("\n"), "neither the cache nor" in errors) == (1, 1, True)


def test_removing_from_a_directory_renews_its_index(run: Run, location: Path) -> None:
    code, output, _ = run("remove", "gd_ssm.linear", "--directory", location)
    assert (code, output) == (0, f"removed {location / 'gd_ssm.linear'}\n")
    assert not (location / "gd_ssm.linear").exists()
    assert run("index", "--directory", location, "--check")[0] == 0
    assert "gd_ssm.linear" not in json.loads((location / "index.json").read_text())["checkpoints"]
    for name in ("gd_ssm.linear", "..", "../location/transformer.linear"):
        before = entries_below(location)
        assert run("remove", name, "--directory", location)[0] == 1
        assert entries_below(location) == before


def git(directory: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    subprocess.run(["git", "-C", str(directory), *identity, *arguments], check=True)


def test_what_git_tracks_is_removed_by_force_alone_and_an_export_that_changes_it_warns(
    run: Run, location: Path, make_checkpoint: MakeCheckpoint
) -> None:
    git(location, "init", "-q")
    git(location, "add", "index.json", "gd_ssm.linear")
    checkpoint = make_checkpoint()
    describe(checkpoint)
    with pytest.warns(UserWarning, match="files that git tracks have changed: index.json; --dir"):
        export(checkpoint, "gd_ssm.mine", location)
    git(location, "rm", "-q", "-f", "--cached", "index.json")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        export(checkpoint, "gd_ssm.more", location)
    code, _, errors = run("remove", "gd_ssm.linear", "--directory", location)
    assert (code, "git tracks" in errors, "--force" in errors) == (1, True, True)
    assert (location / "gd_ssm.linear").is_dir()
    assert run("remove", "gd_ssm.mine", "--directory", location)[0] == 0
    assert run("remove", "gd_ssm.linear", "--directory", location, "--force")[0] == 0
    assert not (location / "gd_ssm.linear").exists()


@pytest.mark.parametrize("protocol", ["http", "hf"])
@pytest.mark.parametrize(
    "command",
    [
        ["list", "--url"],
        ["show", "gd_ssm.x", "--url"],
        ["download", "gd_ssm.x", "--url"],
        ["push", "gd_ssm.x"],
    ],
)
def test_a_refused_connection_is_one_line_at_once_and_leaves_nothing(
    run: Run,
    command: list[str],
    protocol: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("no_proxy", "*")
    # What is imported takes its time on a busy machine.
    importlib.import_module("fsspec.implementations.http")
    if protocol == "hf":
        hub = pytest.importorskip("huggingface_hub")
        hub.HfFileSystem(skip_instance_cache=True)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"  # where nobody listens
        for server in (url, url.replace("127.0.0.1", "localhost")):
            if protocol == "hf":
                monkeypatch.setattr(hub.constants, "ENDPOINT", server)
            start = time.monotonic()
            code, output, errors = run(*command, "hf://user/zoo" if protocol == "hf" else server)
            assert time.monotonic() - start < 2
            assert (code, output, errors.count("\n")) == (1, "", 1)
            assert "cannot be reached: nobody listens there" in errors
    assert entries_below(tmp_path / "cache") == []


def test_failed_calls_leave_nothing_behind(
    run: Run, location: Path, make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    broken = location / "transformer.linear"
    (broken / "model.safetensors").write_bytes(b"x")
    assert run("download", str(broken.as_uri()))[0] == 1
    assert entries_below(tmp_path / "cache") == []
    taken = make_checkpoint("transformer", **KINDS["transformer"])
    describe(taken, data={"d_x": 3, "d_y": 3, "num_context": 6})
    assert run("export", taken, "transformer.x", "--directory", tmp_path / "a" / "b")[0] == 1
    assert not (tmp_path / "a").exists()
    before = entries_below(location)
    assert run("download", "gd_ssm.nothing", "--url", location)[0] == 1
    assert run("remove", "gd_ssm.nothing", "--directory", location)[0] == 1
    assert run("measure", tmp_path / "nowhere")[0] == 1
    assert entries_below(location) == before
    assert not (tmp_path / "nowhere").exists()


def test_download_then_verify(run: Run, location: Path, tmp_path: Path) -> None:
    assert run("verify") == (0, "", "")
    code, output, _ = run("download", "gd_ssm.linear", "transformer.linear", "--url", location)
    assert code == 0
    assert all(Path(line.split()[1]).is_dir() for line in output.splitlines())
    code, output, _ = run("verify")
    assert (code, output.count(": ok\n")) == (0, 2)
    cached = next((tmp_path / "cache" / "checkpoints").glob("*/model.safetensors"))
    cached.write_bytes(cached.read_bytes()[:-1])
    code, output, _ = run("verify")
    assert (code, output.count(": ok\n"), output.count("truncated or altered")) == (1, 1, 1)
    assert run("verify", location / "s5.linear")[0] == 1


def test_verify_passes_over_what_is_being_written(
    run: Run, make_checkpoint: MakeCheckpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = make_checkpoint()
    monkeypatch.setattr(cli, "CHECKPOINTS", checkpoint.parent)
    checkpoint.with_name("gd_ssm.next.writing").mkdir()
    code, output, _ = run("verify")
    assert (code, output) == (0, "gd_ssm.test: ok\n")


def test_export_renews_the_index_and_refuses_a_taken_name(
    run: Run, make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    checkpoint, target = make_checkpoint(), tmp_path / "target"
    describe(checkpoint)
    export_command = ("export", checkpoint, "gd_ssm.again", "--directory", target)
    assert run(*export_command)[0] == 0
    assert read_card(target / "gd_ssm.again").name == "gd_ssm.again"
    files = sorted(path.name for path in (target / "gd_ssm.again").iterdir())
    assert files == ["README.md", "card.json", "model.safetensors"]
    assert "gd_ssm.again" in json.loads((target / "index.json").read_text())["checkpoints"]
    assert run("index", "--directory", target, "--check")[0] == 0
    code, _, errors = run(*export_command)
    assert (code, "exists" in errors) == (1, True)
    assert run(*export_command, "--replace")[0] == 0
    describe(target / "gd_ssm.again", notes="changed")
    code, output, _ = run("index", "--directory", target, "--check")
    assert (code, output.count("stale")) == (1, 2)
    assert run("index", "--directory", target)[0] == 0
    assert run("index", "--directory", target, "--check")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "gd_ssm.nothing"], "is a name, and no checkpoint is known by it"),
        (["download", "gd_ssm.linear"], "where from"),
        (["show", "./nowhere"], "is not a directory with a card.json"),
        (["list", "--url", "./nowhere"], "index.json does not exist"),
        (["export", "./nowhere", "gd_ssm.x"], "is not a directory with a card.json"),
        (["export", "CHECKPOINT", "s5.linear"], "is named gd_ssm.TAG, got 's5.linear'"),
        (["export", "CHECKPOINT", "gd_ssm./../x"], "is not a name"),
        (["export", "CHECKPOINT", "gd_ssm.x"], "data must say function.name"),
    ],
)
def test_an_error_is_one_line(
    run: Run,
    make_checkpoint: MakeCheckpoint,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    checkpoint = str(make_checkpoint())
    monkeypatch.chdir(tmp_path)
    arguments = [checkpoint if argument == "CHECKPOINT" else argument for argument in arguments]
    code, output, errors = run(*arguments)
    assert (code, output, errors.count("\n")) == (1, "", 1)
    assert message in errors


def test_an_untrusted_text_cannot_steer_the_terminal(
    run: Run, make_checkpoint: MakeCheckpoint
) -> None:
    checkpoint = make_checkpoint()
    describe(checkpoint, **{"\x1b[2J\n[red]": 1})
    code, _, errors = run("show", checkpoint)
    assert (code, errors.count("\n"), "\x1b" in errors) == (1, 1, False)


def test_an_interrupted_command_ends_quietly(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(url: str | None) -> None:
        raise StoppedBySignal(signal.SIGTERM)

    monkeypatch.setattr(cli, "known_checkpoints", interrupted)
    assert run("list") == (143, "", "stopped by SIGTERM\n")


def test_a_reader_that_goes_away_ends_the_command_quietly(location: Path, tmp_path: Path) -> None:
    command = f"{sys.executable} -m zoo list --json --url {location} | true"
    shell = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert "Traceback" not in shell.stderr
    assert "error" not in shell.stderr
