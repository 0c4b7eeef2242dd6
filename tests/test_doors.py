"""What every command does before anything slow is imported: help, refusals, signals."""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml  # type: ignore[import-untyped]
from typer.core import TyperGroup

from zoo.commands.composing import composed
from zoo.commands.explained import COLUMN, FOLLOWS, explained, groups_of, help_of
from zoo.commands.zoo import app
from zoo.files import CONFIGS, ROOT
from zoo.terminal import StoppedBySignal

DOORS = ("train", "evaluate", "reproduce")
# Ends the process where torch is imported, so that what is there before is done without it.
WITHOUT_TORCH = "raise SystemExit('torch was imported')"


@pytest.fixture
def instead_of_torch(tmp_path: Path) -> Path:
    """A file that is imported in the place of torch, and of all that needs it."""
    path = tmp_path / "instead" / "torch.py"
    path.parent.mkdir()
    path.write_text(WITHOUT_TORCH)
    return path


def door(
    command: str, *arguments: str, instead: Path, cwd: Path
) -> subprocess.CompletedProcess[str]:
    words = ["-m", "zoo"] if command == "zoo" else [str(ROOT / f"{command}.py")]
    return subprocess.run(
        [sys.executable, *words, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": f"{instead.parent}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
    )


def replace(instead: Path, *names: str) -> None:
    """Has these packages end the process instead of torch."""
    for name in names:
        instead.with_name(f"{name}.py").write_text(f"raise SystemExit('{name} was imported')")
    instead.unlink()


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        ("train", "model=gdssm", "unknown model 'gdssm'. Did you mean 'gd_ssm'"),
        ("train", "modl=gd_ssm", "unknown setting 'modl'. Did you mean 'model'?"),
        ("train", "model.lr=3", "unknown setting of model 'lr'. Did you mean 'optim.lr'?"),
        ("train", "experiment=nope", "unknown experiment 'nope'. Known: "),
        ("train", "data.inputs=gausian", "unknown data/inputs 'gausian'. Did you mean 'gaussian'"),
        ("train", "data/inputs=gausian", "unknown data/inputs 'gausian'. Did you mean 'gaussian'"),
        ("train", "data=houses.csv", "data=houses.csv: data names a kind of episodes, no file; a"),
        ("evaluate", "data=./my/houses.csv", "data=./my/houses.csv: data names a kind of episodes"),
        ("train", "data=/my/houses.csv", "data=/my/houses.csv: data names a kind of episodes"),
        ("train", "data.inputs=gaussian", "chosen with data/inputs=gaussian"),
        ("train", "trainer.acelerator=cpu", "of trainer 'acelerator'. Did you mean 'accelerator'?"),
        ("train", "~modl", "unknown setting 'modl'. Did you mean 'model'?"),
        ("train", "+maxsteps=3", "unknown setting 'maxsteps'. Did you mean 'max_steps'?"),
        ("train", "suite=noise", "unknown group 'suite'. Known: "),
        ("train", "model.name=gdssm", "unknown model 'gdssm'. Did you mean 'gd_ssm'"),
        ("train", "gd_ssm", "'gd_ssm' is no setting, which is NAME=VALUE"),
        ("train", "model.num_steps=[", "'model.num_steps=[' cannot be read: "),
        ("reproduce", "figure=a,b", "several figures are typed 'figure=[a,b]'"),
        ("train", "model=s5,mamba", "several values take several runs, python train.py -m"),
        ("train", "data.curriculum.dims=3", "data.curriculum has no settings, it is None"),
        ("train", "resume=nowhere", "resume: nowhere is not a run directory"),
        ("train", "-m model=s5,mambo", "unknown model 'mambo'. Did you mean 'mamba"),
        ("train", "-m model=glob(*) data.nois=1,2", "setting of data 'nois'. Did you mean 'noise'"),
        ("train", "--cfg job modl=s5", "unknown setting 'modl'. Did you mean 'model'?"),
        ("train", "--help modl=s5", "unknown setting 'modl'. Did you mean 'model'?"),
        ("train", "max_steps=abc", "max_steps: Input should be a valid integer, got 'abc'"),
        ("train", "batch_size=0 seed=-1", "seed: "),
        ("train", "optim.lr=fast", "optim.lr: Input should be a valid number"),
        ("train", "trainer.precision=64", "trainer.precision: Input should be '32-true', "),
        ("train", "positions=none", "positions: Input should be 'last' or 'all', got 'none'"),
        ("train", "checkpoint_tag=a/b", "checkpoint_tag: "),
        (
            "train",
            "data.num_context=-1",
            "data.num_context: Input should be greater than 0, got -1",
        ),
        ("train", "data.d_x=abc", "data.d_x: Input should be a valid integer, got 'abc'"),
        ("train", "data.function.name=linar", "data.function.name: unknown name 'linar'. Did you"),
        ("train", "data.inputs.name=gaussia", "data.inputs.name: unknown name 'gaussia'. Did you"),
        ("train", "data.inputs.r=x", "data.inputs.r: Input should be a valid number, got 'x'"),
        ("train", "data.distractors.count=11", "data: distractors.count must be at most num_con"),
        ("train", "data.outliers.probability=2", "data.outliers.probability: Input should be less"),
        ("train", "data=classification data.noise=1", "data: labels are classes: use label_flip"),
        (
            "train",
            "data=linear_curriculum data.d_x=30 data.curriculum.dims.end=7",
            "data: curriculum.dims must end at d_x = 30, got 7",
        ),
        (
            "train",
            "data=recall data/inputs=gaussian",
            "data: function recall takes no inputs, got g",
        ),
        (
            "train",
            "data=recall data.num_context=3",
            "data: num_context follows from function recall",
        ),
        (
            "train",
            "data=parity data.d_x=10",
            "data: d_x follows from function word_problem and is 3",
        ),
        (
            "train",
            "data=parity data.noise=1.0",
            "data: function word_problem takes no noise, got 1.",
        ),
        ("train", "data=parity data.function.group=Z0", "data.function.group: group must be Z2 to"),
        ("train", "data=text text=nothing.txt", "text nothing.txt is no file"),
        ("evaluate", "data=text text=nothing.txt", "text nothing.txt is no file"),
        ("train", f"text={ROOT / 'LICENSE'}", "is read by data=text, got function linear"),
        (
            "evaluate",
            f"data=linear text={ROOT / 'LICENSE'}",
            "is read by data=text, got function li",
        ),
        ("train", "data=text +data.function.path=a", "'data.function.path' is unknown"),
        ("evaluate", "data=linear data.noise=-1", "data.noise: Input should be greater than or eq"),
        (
            "evaluate",
            "data=linear data.inputs.r=x",
            "data.inputs.r: Input should be a valid number",
        ),
        ("evaluate", "data=linear data.distractors.count=11", "data: distractors.count must be at"),
        ("evaluate", "suites.input_scale.axis=3", "suites.input_scale.axis: Input should be a val"),
        (
            "evaluate",
            "suite=noise +suites.noise.settings.other={set:{nois:1}}",
            "suites.noise.settings.other.set: nois is no part of episodes, which have d_x, ",
        ),
        ("evaluate", "num_episodes=few", "num_episodes: Input should be a valid integer"),
        ("evaluate", "fit_on=all", "fit_on: Input should be 'setting' or 'base', got 'all'"),
        ("evaluate", "suite=[]", "suites"),
        ("reproduce", "quick=maybe", "quick: Input should be a valid boolean, got 'maybe'"),
        ("reproduce", "side_by_side=0", "side_by_side: Input should be greater than 0, got 0"),
        ("evaluate", "suite=nois", "unknown suite 'nois'. Did you mean 'noise'?"),
        ("evaluate", "suite=[nois]", "unknown suite 'nois'. Did you mean 'noise'?"),
        ("evaluate", "data.noise=3", "data.noise: choose data first, data=NAME of "),
        ("evaluate", "predictors=[ridg]", "'ridg' is neither a solver nor a checkpoint: "),
        ("evaluate", "predictors=[{name:ridg}]", "unknown solver 'ridg'. Did you mean 'ridge'?"),
        ("evaluate", "imitates=[ridg]", "unknown solver 'ridg'. Did you mean 'ridge'?"),
        ("evaluate", "compare_with=ridg", "'ridg' is neither a solver nor a checkpoint: "),
        ("reproduce", "study=papr", "unknown study 'papr'. Did you mean 'paper'?"),
        ("reproduce", "quik=true", "unknown setting 'quik'. Did you mean 'quick'?"),
        (
            "zoo",
            "lst",
            "No such command 'lst'. Did you mean 'list'? python -m zoo --help says more",
        ),
        ("zoo", "show", "Missing argument 'name'. python -m zoo show --help says more"),
        ("zoo", "list --sort x", "Invalid value for '--sort': 'x' is not one of 'name', 'family'"),
        ("zoo", "list --srt x", "No such option: --srt"),
        ("zoo", "show gd_ssm.linea", "no checkpoint is known by it. Did you mean 'gd_ssm.linear'"),
    ],
)
def test_what_is_unknown_is_refused_in_one_line_without_torch_or_files(
    command: str, arguments: str, message: str, instead_of_torch: Path, tmp_path: Path
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    done = door(command, *arguments.split(), instead=instead_of_torch, cwd=here)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert not [*here.iterdir()]


def test_a_push_to_where_nobody_listens_ends_before_torch_is_imported(
    instead_of_torch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "*")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        target = f"http://127.0.0.1:{closed.getsockname()[1]}"
        done = door("zoo", "push", "gd_ssm.linear", target, instead=instead_of_torch, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "cannot be reached: nobody listens there" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("recipe=transformer model.d_model=abc", "model.d_model: Input should be a valid integer"),
        ("recipe=transformer model.num_heads=5", "num_heads must divide d_model = 48, got 5"),
        ("+model.depth=2", "model: unknown argument of gd_ssm 'depth'"),
        ("model=hybrid model.blocks=[mambo]", "model: blocks[0]: unknown block 'mambo'. Did you"),
        ("recipe=mamba model.tokens=pairs", "tokens=pairs is trained with positions=last, got all"),
        ("model=gd_ssm_embedded data=classification", "does not predict classes, as data asks for"),
        (
            "recipe=transformer data=automaton model.max_context=64",
            "learned positions reach to length 65 (max_context = 64 and the query), got 256",
        ),
    ],
)
def test_a_model_that_there_is_not_is_refused_without_lightning(
    arguments: str, message: str, instead_of_torch: Path, tmp_path: Path
) -> None:
    replace(instead_of_torch, "lightning", "torchmetrics", "matplotlib", "tensorboard")
    done = door("train", *arguments.split(), instead=instead_of_torch, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), done.stderr
    assert done.stderr.startswith("error: ")
    assert message in done.stderr


def test_an_evaluation_needs_no_lightning(instead_of_torch: Path, tmp_path: Path) -> None:
    replace(instead_of_torch, "lightning", "torchmetrics")
    words = "data=linear data.d_x=2 suite=learning_curve num_episodes=10 predictors=[zero]"
    done = door("evaluate", *words.split(), instead=instead_of_torch, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("arguments", ["verify gd_ssm.linear", "show gd_ssm.linear"])
def test_a_checkpoint_is_checked_without_frameworks(
    arguments: str, instead_of_torch: Path, tmp_path: Path
) -> None:
    replace(instead_of_torch, "lightning", "torchmetrics", "matplotlib", "tensorboard")
    done = door("zoo", *arguments.split(), instead=instead_of_torch, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("command", "arguments", "part"),
    [
        ("train", "--help", "max_steps=1500"),
        ("train", "model=s5 -h", "model.d_state="),
        ("train", "model=hybrid model.blocks=[{s5:{d_state:8}}] -h", "blocks=[{s5: {d_state: 8}}]"),
        ("evaluate", "--help", "num_episodes=10000"),
        ("reproduce", "--help", "side_by_side=2"),
        ("zoo", "", "compare"),
        ("zoo", "--help", "compare"),
        ("zoo", "list --help", "--sort"),
        ("zoo", "list", "gd_ssm.linear"),
        ("zoo", "compare gd_ssm.linear", "gradient"),
        ("zoo", "show gd_ssm.linear", "python train.py"),
    ],
)
def test_help_and_lists_need_no_torch(
    command: str, arguments: str, part: str, instead_of_torch: Path, tmp_path: Path
) -> None:
    done = door(command, *arguments.split(), instead=instead_of_torch, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert part in done.stdout


def test_what_is_not_refused_goes_on_to_the_work(instead_of_torch: Path, tmp_path: Path) -> None:
    for command in DOORS:
        done = door(command, instead=instead_of_torch, cwd=tmp_path)
        assert "torch was imported" in done.stderr, done.stderr


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("command", [*DOORS, "zoo"])
def test_a_signal_during_the_imports_ends_with_one_line(
    command: str, signum: signal.Signals, instead_of_torch: Path, tmp_path: Path
) -> None:
    if command == "zoo":  # which has no torch to import here
        instead_of_torch = instead_of_torch.rename(instead_of_torch.with_name("typer.py"))
    # Caught by what imports it, as by libraries that look whether another one works.
    wait = f"try:\n    os.kill(os.getpid(), {signum:d})\n    time.sleep(60)\n"
    instead_of_torch.write_text(f"import os, time\n{wait}except BaseException:\n    pass\n")
    done = door(command, instead=instead_of_torch, cwd=tmp_path)
    assert done.returncode == 128 + signum
    assert done.stderr == f"{StoppedBySignal(signum)} before anything was done\n"
    assert done.stdout == ""


def test_the_comments_of_a_file_are_read(tmp_path: Path) -> None:
    (tmp_path / "below.yaml").write_text("# Below.\nbelow: 1   # from below\nboth: 1  # below\n")
    (tmp_path / "inside.yaml").write_text("it: 1   # inside\n")
    (tmp_path / "file.yaml").write_text(
        """# @package _global_
# python train.py experiment=file
# What the file
# is for.
defaults:
  - below
  - _self_
  - inside@part.there
  - model: s5   # a group
# Explained
# above.
first: 1
second: a#b   # on its line
              # and the next
# not of second
third: 3

# not of fourth

fourth: 4
part:
  # within
  inner: {a: 1}
  other: 2    # unit
both: 2       # own
"""
    )
    assert explained(tmp_path / "file.yaml") == (
        "What the file is for.",
        {
            "below": "from below",
            "both": "own",
            "defaults.model": "a group",
            "first": "Explained above.",
            "second": "on its line and the next",
            "third": "not of second",
            "part.inner": "within",
            "part.other": "unit",
            "part.there.it": "inside",
        },
        "_global_",
    )


def leaves(content: dict[str, Any], above: str = "") -> set[str]:
    """Dotted names of all values of a file that can be set."""
    found = set()
    for key, value in content.items():
        if key in ("defaults", "_target_"):
            continue
        of_dict = isinstance(value, dict) and not any("." in name for name in value)
        found |= leaves(value, f"{above}{key}.") if of_dict else {f"{above}{key}"}
    return found


# What these set is explained where it is set first.
SETS = {"recipe", "experiment", "suite"}
GROUPS = {group for command in DOORS for group in groups_of(command)} - SETS | {"data/inputs"}
FILES = [path for group in sorted(GROUPS) for path in sorted((CONFIGS / group).glob("*.yaml"))]


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_setting_of_a_file_is_explained(path: Path) -> None:
    names = leaves(yaml.safe_load(path.read_text()))
    names -= {name for name in names if name.rpartition(".")[2] == "name"} - {"csv.name"}
    assert names <= explained(path).settings.keys()
    assert explained(path).purpose or path.stem == "default"


@pytest.mark.parametrize("command", DOORS)
def test_every_setting_and_group_of_a_command_is_explained(command: str) -> None:
    path = CONFIGS / f"{command}.yaml"
    texts = explained(path).settings
    own = {name for name in leaves(yaml.safe_load(path.read_text())) if name[:6] != "hydra."}
    assert own - FOLLOWS <= texts.keys()
    lines = help_of(command, composed(command, [])).splitlines()
    for line, after in zip(lines, [*lines[1:], ""], strict=True):
        if re.fullmatch(r"  \w+(\.\w+)+(=\S*)?", line):  # too long for more on its line
            assert after.startswith(" " * COLUMN), f"{line.strip()} is not explained"
        if line.partition("=")[0] in groups_of(command):
            assert re.match("  (?!others:)", after), f"{line} is not explained"


def test_every_argument_and_option_of_the_zoo_is_explained() -> None:
    zoo = typer.main.get_command(app)
    assert isinstance(zoo, TyperGroup)
    for name, command in zoo.commands.items():
        assert command.help, name
        for parameter in command.params:
            assert getattr(parameter, "help", None), f"{name}: {parameter.name}"


def test_help_shows_what_is_chosen() -> None:
    text = help_of("train", composed("train", ["model=s5", "max_steps=7", "data.inputs.r=2"]))
    assert "max_steps=7 " in text
    assert "model=s5\n" in text
    assert "model.d_state=" in text
    assert "model.scale_Q=" not in text  # of gd_ssm
    assert "data.inputs.r=2" in text
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("command", DOORS)
def test_arithmetic_is_settled_before_torch_is_imported(
    command: str, instead_of_torch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    instead_of_torch.write_text(
        "import os; raise SystemExit(os.environ.get('MKL_CBWR', 'nothing settled'))"
    )
    monkeypatch.delenv("MKL_CBWR", raising=False)
    done = door(command, instead=instead_of_torch, cwd=tmp_path)
    assert done.stderr == "AUTO,STRICT\n"
