"""`python -m zoo`, as it is used."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.conftest import MakeCheckpoint
from zoo.commands import zoo as cli
from zoo.hub.directory import read_card
from zoo.hub.export import export
from zoo.terminal import StoppedBySignal

Run = Callable[..., tuple[int, str, str]]
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


@pytest.mark.parametrize("command", [["list"], ["compare", *(f"{name}.linear" for name in KINDS)]])
def test_tables_fit_80_columns_with_whole_names(
    run: Run, location: Path, command: list[str]
) -> None:
    code, output, _ = run(*command, "--url", location)
    assert code == 0
    assert max(map(len, output.splitlines())) <= 80
    for name in KINDS:
        assert re.search(rf"^{name}\.linear .* 0\.\d", output, re.MULTILINE)
    assert "zero" in output


def test_a_wide_list_has_all_exact_algorithms_and_what_training_took(
    run: Run, location: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "100 columns show all" in run("list", "--url", location)[1]
    monkeypatch.setenv("COLUMNS", "100")
    _, output, _ = run("list", "--url", location)
    assert "episodes" in output
    assert "1 s" in output
    assert "100 columns" not in output
    for name in KINDS:
        assert re.search(rf"^{name}\.linear +\d", output, re.MULTILINE)


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
