"""What is typed after train.py is read as typed, and what is printed can be typed."""

import hashlib
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from zoo.commands.resolvers import register_resolvers
from zoo.training.directory import CONFIG, config_of_run, save_config
from zoo.training.overrides import (
    as_override,
    check_mode,
    check_resume,
    check_sweep,
    literal,
    parse,
    quote_paths,
    typed_keys,
    typed_path,
    typed_resume,
)

CONFIGS = Path(__file__).parents[2] / "configs"
register_resolvers()
SHELLS = [shell for shell in ("sh", "bash", "zsh") if shutil.which(shell)]
NAMES = [
    *("lr=0.1,seed=3", "=a", "-a", "--help", "+a", "~a", "@a", "%a", "!a", "#a", ".a", "a:b;c|d&e"),
    *("[a]", "{a}", "{a: 1}", "(a)", "<a>", "[", "}", "*", "?", "???", "a b", " a", "a ", "\ta"),
    *("it's", 'say "a"', "'", '"', "`a`", "$(a)", "$HOME", "a$", "$$", "${a}", "a${b", "$\\{a}"),
    *("a\\", "\\a", "a\\\\b", '\\"', "\\'", '\\\\"', "\\${a}", "\\\\${a}", "${now:%Y}", "a\nb"),
    *(
        "ä",
        "日本",
        "1",
        "1e5",
        "true",
        "null",
        "None",
        "nan",
        "1,2",
        "range(3)",
        "glob(a)",
        "a\\,b",
    ),
]


def words_of(command: str, shell: str) -> list[str]:
    script = f"for word in {command}; do printf '%s\\0' \"$word\"; done"
    run = subprocess.run([shell, "-c", script], capture_output=True, check=True)
    return run.stdout.decode().split("\0")[:-1]


def value_of(override: str) -> Any:
    return OmegaConf.create([parse(override).value()])[0]


@pytest.mark.parametrize("shell", SHELLS)
def test_a_printed_command_means_the_directory_when_it_is_pasted(shell: str) -> None:
    for name in NAMES:
        for path in (Path(name), Path("runs") / name):
            command = typed_resume("train.py", path, ["a.B", "c.D"])
            python, script, resume, allowed = words_of(command, shell)
            assert (python, script) == ("python", "train.py")
            assert Path(value_of(resume)) == path, command
            assert value_of(allowed) == ["a.B", "c.D"]
            (shown,) = words_of(typed_path(path), shell)
            assert Path(shown) == path
            assert shown[0] not in "-=+~@"  # an option, or a pattern of zsh


def test_a_plain_path_is_printed_as_it_is() -> None:
    assert (
        typed_resume("train.py", "runs/2026-11-27_00")
        == "python train.py resume=runs/2026-11-27_00"
    )


def test_a_run_is_resumed_by_its_path_as_it_stands(tmp_path: Path) -> None:
    for name in NAMES:
        run_dir = tmp_path / name
        run_dir.mkdir()
        (run_dir / CONFIG).touch()
        for prefix in ("", "+", "++"):
            (argument,) = quote_paths([f"{prefix}resume={run_dir}"], CONFIG)
            assert value_of(argument) == str(run_dir)
            assert argument.startswith(f"{prefix}resume=")
        quoted = [as_override("resume", str(run_dir))]
        assert quote_paths(quoted, CONFIG) == quoted  # as it was printed
        check_resume(quoted, CONFIG)


def test_a_text_is_named_by_its_path_as_it_stands(tmp_path: Path) -> None:
    for name in NAMES:
        path = tmp_path / name
        path.touch()
        (argument,) = quote_paths([f"text={path}"], CONFIG)
        assert value_of(argument) == str(path)
        command = typed_resume("train.py", "runs/a", text=str(path))
        *_, named = words_of(command, "sh")
        assert Path(value_of(named)).resolve() == path
    as_typed = ["text=null", "text=nothing.txt"]
    assert quote_paths(as_typed, CONFIG) == as_typed


def test_a_new_directory_may_have_any_name() -> None:
    for name in ("runs/lr=0.1,seed=3", "runs/a=b", "runs/[a]", "runs/it's"):
        (argument,) = quote_paths([f"hydra.run.dir={name}"], CONFIG)
        assert value_of(argument) == name
    as_typed = ["hydra.run.dir=runs/${now:%Y}", "hydra.run.dir='runs/a=b'", "seed=0", "-m"]
    assert quote_paths(as_typed, CONFIG) == as_typed


@pytest.mark.parametrize("given", ["resume=", "resume=''", "resume=a=b", "++resume=nowhere"])
def test_what_is_no_run_is_not_resumed(given: str) -> None:
    with pytest.raises(ValueError, match="is not a run directory"):
        check_resume([given], CONFIG)
    check_resume(["resume=null", "seed=0"], CONFIG)


def composed(overrides: list[str], run_dir: Path, resume: bool) -> DictConfig:
    place = [as_override("run_dir", str(run_dir)), "checkpoint_tag=tag"]
    if resume:
        place.append(as_override("resume", str(run_dir)))
    with initialize_config_dir(version_base="1.3", config_dir=str(CONFIGS)):
        return compose("train", [*place, *overrides])


# Of a run, no value the default.
STARTED = [
    *("max_steps=1600", "optim.lr=0.1", "trainer=cpu", "trainer.devices=2", "data=linear_scalar"),
    *("data.d_x=4", "model.num_steps=2", "optim.clip_norm=null", "~callbacks.figures", "seed=5"),
]


@pytest.fixture
def started(tmp_path: Path) -> Path:
    run_dir = tmp_path / "a=b ${c}"
    run_dir.mkdir()
    save_config(composed(STARTED, run_dir, resume=False), run_dir)
    return run_dir


def resumed(run_dir: Path, *overrides: str) -> DictConfig:
    config = composed(list(overrides), run_dir, resume=True)
    return config_of_run(config, typed_keys([*overrides, "resume=x"]))


@pytest.mark.parametrize(
    ("typed", "key", "one", "other"),
    [
        # What the defaults are as well.
        ("max_steps=1500", "max_steps", "1500", "1600"),
        ("optim.lr=0.003", "optim.lr", "0.003", "0.1"),
        ("trainer.devices=1", "trainer.devices", "1", "2"),
        ("data.d_x=10", "data.d_x", "10", "4"),
        ("++data.d_x=10", "data.d_x", "10", "4"),
        ("data={d_x: 10}", "data.d_x", "10", "4"),
        ("data=linear", "data.d_x", "10", "4"),
        ("data/inputs=gaussian", "data.inputs.name", "gaussian", "uniform"),
        ("model=gd_ssm", "model.num_steps", "1", "2"),
        ("trainer=auto", "trainer.accelerator", "cpu", "cpu|cuda"),
        ("optim=adamw", "optim.clip_norm", "1.0", "None"),
        ("recipe=gd_ssm", "callbacks.figures._target_", ".*", r"\(nothing\)"),
        ("callbacks=default", "callbacks.figures._target_", ".*", r"\(nothing\)"),
        ("seed=0", "seed", "0", "5"),
        # What they are not.
        ("callbacks.alignment=null", "callbacks.alignment", "None", r"\(nothing\)"),
        ("~callbacks.alignment", "callbacks.alignment._target_", r"\(nothing\)", ".*"),
        ("~trainer", "trainer._target_", r"\(nothing\)", ".*"),
        ("+data.noises=[1,2]", "data.noises", r"\[1, 2\]", r"\(nothing\)"),
        ("max_steps=null", "max_steps", "None", "1600"),
        ("data.d_y=${data.num_context}", "data.d_y", "10", "1"),
    ],
)
def test_resuming_refuses_what_was_typed_and_conflicts(
    started: Path, typed: str, key: str, one: str, other: str
) -> None:
    if typed == "trainer=auto":
        key, one, other = "trainer.devices", "1", "2"
    with pytest.raises(ValueError, match=rf"resume: {key} = {one} conflicts with {key} = {other}"):
        resumed(started, typed)


def test_resuming_takes_what_the_run_has_and_more_steps(started: Path) -> None:
    own = OmegaConf.to_container(OmegaConf.load(started / CONFIG))
    for typed in ([], STARTED, ["data.d_y=1"], ["max_steps=1600"], ["optim.lr=1e-1"]):
        config = resumed(started, *typed)
        assert config.run_dir == config.resume == str(started)
        assert {k: config[k] for k in ("seed", "max_steps", "optim")} == {
            k: own[k]
            for k in ("seed", "max_steps", "optim")  # type: ignore[index, call-overload]
        }
    assert resumed(started, "max_steps=1601").max_steps == 1601


def test_a_run_on_a_text_of_ones_own_keeps_its_hash_and_never_its_path(tmp_path: Path) -> None:
    path, run_dir = tmp_path / "own.txt", tmp_path / "run"
    path.write_bytes(b"To be or not to be. " * 500)
    run_dir.mkdir()
    typed = ["data=text", as_override("text", str(path))]
    save_config(composed(typed, run_dir, resume=False), run_dir)
    text = (run_dir / CONFIG).read_text()
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert f"sha256: {sha256}" in text
    assert str(path) not in text
    other = tmp_path / "other.txt"
    other.write_bytes(b"That is the question. " * 500)
    for again in ([], ["text=null"], typed, [as_override("text", str(other))]):
        config = resumed(run_dir, *again)
        assert config.data.function.sha256 == sha256
        assert config.text == (value_of(again[-1]) if again else None)
    with pytest.raises(ValueError, match="resume: data.function.* conflicts with"):
        resumed(run_dir, "data=text", as_override("text", str(other)))


@pytest.mark.parametrize(
    "given",
    [
        *("hparams_search=optuna", "launcher=joblib", "hydra/launcher=joblib", "hydra.sweep.dir=a"),
        *("hydra/sweeper=optuna", "hydra.sweeper.max_batch_size=2", "+hparams_search=optuna"),
    ],
)
def test_what_is_for_several_runs_is_refused_for_one(given: str) -> None:
    with pytest.raises(ValueError, match="for several runs, and this is one: python train.py -m "):
        check_mode([given], multirun=False)
    check_mode([given, "hparams_search=null"], multirun=True)
    with pytest.raises(ValueError, match="for one run; with -m: hydra.sweep.dir=DIRECTORY"):
        check_mode(["hydra.run.dir=a"], multirun=True)
    check_mode(["hydra.run.dir=a", "launcher=null", "seed=0"], multirun=False)


def test_a_setting_that_a_swept_choice_brings_is_asked_for_with_what_to_type() -> None:
    swept = "recipe=transformer,mamba"
    with pytest.raises(ValueError, match=r"\+\+model.num_layers=2 is taken for every run"):
        check_sweep(["-m", swept, "model.num_layers=2"], CONFIGS)
    for arguments in (
        [swept, "model.num_layers=2"],
        ["-m", swept, "++model.num_layers=2"],
        ["-m", swept, "model.num_layers=2,4"],
        ["-m", swept, "model=mamba", "model.num_layers=2"],
        ["-m", swept, "optim.lr=0.1", "data.inputs.r=2", "hydra.sweep.dir=a", "resume=null"],
        ["-m", "seed=0,1", "optim.lr=0.1"],
    ):
        check_sweep(arguments, CONFIGS)


def test_a_literal_is_the_value_of_its_setting() -> None:
    for text in NAMES:
        if text != "???":  # OmegaConf: no value
            assert OmegaConf.create({"a": literal(text)}).a == text
