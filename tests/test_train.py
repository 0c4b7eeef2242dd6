"""`python train.py` as a user runs it: real processes, real signals, real files."""

import csv
import io
import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import zoo
from datamodules import EpisodeDataModule, EpisodeSpec
from tests.forks import Forked
from tests.ranks import SETTINGS
from zoo.files import sole_writer
from zoo.hub.directory import read_card
from zoo.metrics.errors import half_squared_error, mean_interval
from zoo.terminal import plain_warning
from zoo.training.card import git_commit
from zoo.training.options import num_test_of
from zoo.training.rows import rows_of
from zoo.training.runs import read_runs

ROOT = Path(__file__).parents[1]
SMALL = [
    "trainer=cpu",
    "data.d_x=4",
    "data.num_context=5",
    "eval_episodes=200",
    "~callbacks.figures",
]
# Long enough to be caught in the middle, with a save and a validation well before the end.
LONG = [*SMALL, "max_steps=600", "val_every=50", "checkpoint_every=100"]


def command(*overrides: str) -> list[str]:
    return [sys.executable, "train.py", *overrides]


def start(*overrides: str, drawn: bool = False) -> Forked:
    return Forked(command(*overrides)[1:], ROOT, drawn=drawn)


def start_from_nothing(*overrides: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(*overrides),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def run(*overrides: str, expect: int = 0, drawn: bool = False) -> str:
    process = start(*overrides, drawn=drawn or expect == 1)  # what is refused comes to no figure
    output = process.communicate(timeout=300)
    assert process.returncode == expect, output
    return output


def stop_at(process: Forked, step: int, signum: signal.Signals) -> str:
    """Sends a signal soon after the line of a step was printed; returns all output."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith(f"step {step}/"):
            time.sleep(0.05)
            process.send_signal(signum)
            break
    lines += process.stdout.readlines()
    process.wait(timeout=120)
    return "".join(lines)


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    return load_file(run_dir / "checkpoint" / "model.safetensors")


def validated_steps(path: Path) -> list[int]:
    with path.open() as file:
        return [int(row["step"]) for row in csv.DictReader(file) if row["val/half_mse_query"]]


def read_columns(run_dir: Path, names: list[str]) -> dict[str, list[float]]:
    with (run_dir / "csv/version_0/metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name]) for row in rows if row[name]] for name in names}


def first_step(run_dir: Path) -> Any:
    return json.loads((run_dir / "metrics.json").read_text())["first_step_within_1_percent"]


def assert_same_bits(one: Path, two: Path) -> None:
    expected, found = weights(one), weights(two)
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert torch.equal(tensor, found[name]), name


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of `LONG` that nothing disturbed."""
    directory = tmp_path_factory.mktemp("runs") / "whole"
    run(*LONG, f"hydra.run.dir={directory}", drawn=True)
    return directory


def test_a_run_leaves_what_it_promises(whole_run: Path) -> None:
    names = {str(path.relative_to(whole_run)) for path in whole_run.rglob("*") if path.is_file()}
    expected = {
        "command.json",
        "config.yaml",
        "metrics.json",
        "checkpoint/model.safetensors",
        "checkpoint/card.json",
        "checkpoints/last.ckpt",
        "figures/learning_curve.png",
        "figures/weights.png",
        "csv/version_0/metrics.csv",
    }
    assert expected <= names
    assert not [name for name in names if "writing" in name]


def test_the_checkpoint_reproduces_its_card(whole_run: Path) -> None:
    model, card = zoo.load(whole_run / "checkpoint"), read_card(whole_run / "checkpoint")
    data = EpisodeDataModule(EpisodeSpec(**card.data), eval_episodes=200)
    test = data.test_episodes()
    with torch.no_grad():
        errors = half_squared_error(model.predict_query(test.x, test.y), test.target[:, -1])
    stated = card.metrics["test/half_mse_query"]
    assert mean_interval(errors).value == pytest.approx(stated.value, rel=1e-4)
    assert (stated.num_episodes, stated.eval_seed) == (200, 0)
    assert card.training.steps == 600
    assert card.training.episodes == 600 * 64
    assert card.data["d_x"] == 4


def test_metrics_and_card_hold_the_same_numbers(whole_run: Path) -> None:
    metrics = json.loads((whole_run / "metrics.json").read_text())
    card = read_card(whole_run / "checkpoint")
    for name, value in metrics["model"].items():
        assert card.metrics[name].value == value["value"]
    for name, values in metrics["references"].items():
        assert card.reference_metrics[name].value == values["test/half_mse_query"]["value"]
    assert metrics["steps"] == 600


def test_tensorboard_and_csv_hold_the_course_of_the_run(whole_run: Path) -> None:
    events = EventAccumulator(str(whole_run / "tensorboard"), {"images": 0, "scalars": 0})
    events.Reload()
    tags = events.Tags()
    assert {
        "train/half_mse_query",
        "val/half_mse_query",
        "val/ratio_to_gradient_descent",
        "alignment/prediction_difference",
        "alignment/model_difference",
        "alignment/cosine",
        "test/half_mse_query",
    } <= set(tags["scalars"])
    assert {"weights/beside_construction", "test/learning_curve"} <= set(tags["images"])
    final = [event for event in events.Scalars("test/half_mse_query")]
    assert [event.step for event in final] == [600]
    assert "_hparams_/session_start_info" in events.summary_metadata
    with (whole_run / "csv/version_0/metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len([row for row in rows if row["val/half_mse_query"]]) == 12


def test_warm_up_and_decay_really_happen(whole_run: Path) -> None:
    events = EventAccumulator(str(whole_run / "tensorboard"))
    events.Reload()
    for group, peak in [("decay", 3e-3), ("no_decay", 3e-3), ("ssm", 1e-3)]:
        rates = {
            event.step: event.value for event in events.Scalars(f"train/learning_rate/{group}")
        }
        assert rates[50] == pytest.approx(peak * 50 / 101)
        assert rates[150] == rates[300] == pytest.approx(peak)
        assert rates[450] == pytest.approx(peak * 151 / 300)
        assert rates[600] == pytest.approx(peak / 300)


def test_a_killed_run_resumes_to_the_same_bits(whole_run: Path, tmp_path: Path) -> None:
    directory = tmp_path / "killed"
    stop_at(start(*LONG, f"hydra.run.dir={directory}"), 250, signal.SIGKILL)
    assert not (directory / "checkpoint").exists()
    run(f"resume={directory}")
    assert_same_bits(whole_run, directory)
    typed = shlex.join(["python", *command(*LONG)[1:]])
    # Not how it went on, nor where it was written.
    assert read_card(directory / "checkpoint").command == typed
    # What was logged before the kill is still there, and nothing is missing after it.
    logged = [validated_steps(directory / f"csv/version_{n}/metrics.csv") for n in (0, 1)]
    assert sorted({*logged[0], *logged[1]}) == list(range(50, 601, 50))
    assert first_step(directory) == first_step(whole_run)


def test_a_run_killed_before_its_first_save_starts_again(whole_run: Path, tmp_path: Path) -> None:
    directory = tmp_path / "killed"
    stop_at(start(*LONG, f"hydra.run.dir={directory}"), 50, signal.SIGKILL)
    assert not (directory / "checkpoints/last.ckpt").exists()
    run(f"resume={directory}")
    assert_same_bits(whole_run, directory)


def test_ctrl_c_saves_says_how_to_resume_and_resumes_to_the_same_bits(
    whole_run: Path, tmp_path: Path
) -> None:
    directory = tmp_path / "interrupted"
    process = start(*LONG, f"hydra.run.dir={directory}")
    output = stop_at(process, 150, signal.SIGINT)
    assert process.returncode == 130, output
    hint = re.search(r"stopped by SIGINT after step (\d+); go on with\n  python (.*)", output)
    assert hint is not None, output
    assert 150 <= int(hint[1]) < 600
    assert "sweep" not in output
    moved = directory.rename(tmp_path / "moved")  # a run directory may move in between
    assert str(os.path.relpath(directory, ROOT)) in hint[2]
    run(f"resume={moved}")
    assert_same_bits(whole_run, moved)
    logged = [validated_steps(moved / f"csv/version_{n}/metrics.csv") for n in (0, 1)]
    assert [*logged[0], *logged[1]] == list(range(50, 601, 50))


def test_ctrl_c_in_a_sweep_says_how_all_of_it_goes_on(tmp_path: Path) -> None:
    process = start("-m", *LONG, "seed=0,1", f"hydra.sweep.dir={tmp_path}")
    output = stop_at(process, 50, signal.SIGINT)
    assert re.search(r"python \S*train.py resume=\S*/0\nor with all runs of the sweep by", output)


def test_a_pipe_that_breaks_loses_nothing(whole_run: Path, tmp_path: Path) -> None:
    process = start(*LONG, f"hydra.run.dir={tmp_path / 'run'}")  # stderr has the same pipe
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=300) == 0
    assert_same_bits(whole_run, tmp_path / "run")
    written, expected = ((d / "metrics.json").read_text() for d in (tmp_path / "run", whole_run))
    assert written == expected


def test_an_ascii_terminal_loses_nothing(
    whole_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "run"
    subprocess.run(["cp", "-r", whole_run, directory], check=True)
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    output, _ = start_from_nothing(f"resume={directory}").communicate(timeout=300)
    assert "0.5*MSE" in output
    assert (directory / "metrics.json").read_text() == (whole_run / "metrics.json").read_text()


def test_a_closed_terminal_saves_the_run(tmp_path: Path) -> None:
    steps = ["max_steps=1000000", "val_every=50", "checkpoint_every=50"]
    arguments = command(*SMALL, *steps, f"hydra.run.dir={tmp_path}")
    child, terminal = pty.fork()
    if child == 0:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # it is ignored if this is under nohup
        os.chdir(ROOT)
        os.execv(sys.executable, arguments)
    last, shown = tmp_path / "checkpoints/last.ckpt", b""
    while not last.exists():
        shown += os.read(terminal, 4096)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 128 + signal.SIGHUP, shown
    assert torch.load(last, weights_only=True)["global_step"] > 50
    assert not list(tmp_path.rglob("*.writing"))


def test_a_signal_after_the_last_step_says_how_to_go_on(tmp_path: Path) -> None:
    steps = ["max_steps=50", "val_every=50", "eval_episodes=20000"]  # whose measuring takes a while
    process = start(*SMALL[:3], *SMALL[4:], *steps, f"hydra.run.dir={tmp_path}")
    output = stop_at(process, 50, signal.SIGTERM)
    assert process.returncode == 128 + signal.SIGTERM, output
    assert re.search(r"stopped by SIGTERM.*; go on with\n  python .*resume=", output), output
    assert not (tmp_path / "metrics.json").exists()
    assert not list(tmp_path.rglob("*.writing"))


def test_a_run_is_not_written_through_a_link(whole_run: Path, tmp_path: Path) -> None:
    directory, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    subprocess.run(["cp", "-r", whole_run, directory], check=True)
    (directory / "figures").rename(elsewhere)
    (directory / "figures").symlink_to(elsewhere)
    before = {path: path.stat().st_mtime_ns for path in elsewhere.iterdir()}
    assert "figures is a symbolic link" in run(f"resume={directory}", expect=1)
    assert {path: path.stat().st_mtime_ns for path in elsewhere.iterdir()} == before


def test_runs_killed_at_random_moments_resume_to_the_same_bits() -> None:
    killed = subprocess.run(
        [sys.executable, "-m", "tests.kills", "--trials", "20", "--seed", "1"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert killed.returncode == 0, killed.stdout
    assert "20 of 20 killed runs ended bit-identical" in killed.stdout
    for kind in ("step", "save", "validation", "measuring", "export"):
        assert re.search(rf"[1-9]\d* killed in {kind}", killed.stdout), killed.stdout
    for name in ("SIGKILL", "SIGTERM", "SIGHUP", "SIGINT"):
        assert re.search(rf"[1-9]\d* by {name}", killed.stdout), killed.stdout


def test_a_damaged_checkpoint_is_named(whole_run: Path, tmp_path: Path) -> None:
    directory = tmp_path / "run"
    subprocess.run(["cp", "-r", whole_run, directory], check=True)
    last = directory / "checkpoints/last.ckpt"
    checkpoint = torch.load(last, weights_only=True)
    checkpoint["optimizer_states"][0]["state"] = {}
    without_moments = io.BytesIO()
    torch.save(checkpoint, without_moments)
    whole = last.read_bytes()
    for content in (b"", whole[:1000], b"nonsense", without_moments.getvalue()):
        last.write_bytes(content)
        output = run(f"resume={directory}", expect=1)
        assert "last.ckpt is damaged or not a checkpoint" in output
        assert "Traceback" not in output
    (directory / "config.yaml").write_text("seed: [")
    assert "config.yaml cannot be read" in run(f"resume={directory}", expect=1)
    (directory / "config.yaml").write_text("seed: 0")
    assert "'data' is missing" in run(f"resume={directory}", expect=1)


def test_sigterm_between_accumulated_batches_resumes_to_the_same_bits(tmp_path: Path) -> None:
    accumulated = [*LONG, "trainer.accumulate_grad_batches=2"]
    run(*accumulated, f"hydra.run.dir={tmp_path / 'whole'}")
    directory = tmp_path / "terminated"
    process = start(*accumulated, f"hydra.run.dir={directory}")
    output = stop_at(process, 150, signal.SIGTERM)
    assert process.returncode == 143, output
    assert "stopped by SIGTERM" in output
    run(f"resume={directory}")
    assert_same_bits(tmp_path / "whole", directory)


@pytest.fixture(scope="module")
def runs_of_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fifty steps of the same run in every way of `tests.ranks.SETTINGS`."""
    directory = tmp_path_factory.mktemp("ranks")
    ranks = [sys.executable, "-m", "tests.ranks", str(directory), "50"]
    subprocess.run(ranks, cwd=ROOT, check=True, timeout=300)
    return directory


OTHERS = [name for name in SETTINGS if name != "one"]


@pytest.mark.parametrize("name", OTHERS)
def test_all_ranks_and_accumulated_batches_see_the_global_batch_of_one(
    runs_of_ranks: Path, name: str
) -> None:
    for step in range(50):
        one, parts = (
            [torch.load(p) for p in sorted((runs_of_ranks / f"{n}-batches").glob(f"{step:04d}-*"))]
            for n in ("one", name)
        )
        num_ranks, num_accumulated, _ = SETTINGS[name]
        assert (len(one), len(parts)) == (1, num_ranks * num_accumulated)
        assert torch.equal(one[0], torch.cat(parts))


@pytest.mark.parametrize("name", OTHERS)
def test_all_ranks_and_accumulated_batches_learn_the_weights_of_one(
    runs_of_ranks: Path, name: str
) -> None:
    expected = weights(runs_of_ranks / "one")
    for parameter, tensor in weights(runs_of_ranks / name).items():
        torch.testing.assert_close(tensor, expected[parameter], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_logged_is_the_mean_over_ranks_and_accumulated_batches(
    runs_of_ranks: Path, name: str
) -> None:
    expected, found = (
        read_columns(runs_of_ranks / n, ["train/half_mse_query", "train/learning_rate/decay"])
        for n in ("one", name)
    )
    assert [len(column) for column in expected.values()] == [5, 5]
    for column, values in found.items():
        assert values == pytest.approx(expected[column], rel=1e-5)
    assert set(read_columns(runs_of_ranks / name, ["step"])["step"]) == {10, 20, 30, 40, 50}


def test_a_dead_rank_ends_the_others_with_a_message(tmp_path: Path) -> None:
    steps = ["trainer=ddp_cpu", "max_steps=1000000", f"hydra.run.dir={tmp_path}"]
    process = start_from_nothing(*LONG, *steps)  # it starts the other rank with its own words
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step 50/"):
            break
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    (rank_1,) = [int(c) for c in children if b"train.py" in Path(f"/proc/{c}/cmdline").read_bytes()]
    os.kill(rank_1, signal.SIGKILL)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1, output
    assert re.search(r"rank 0 has lost another rank.*go on with\n  python .*resume=", output, re.S)
    assert "Traceback" not in output


def test_two_processes_do_not_write_to_one_run(whole_run: Path) -> None:
    with sole_writer(whole_run):
        output = run(f"resume={whole_run}", expect=1)
    assert f"another process is writing to {whole_run}" in output
    with sole_writer(whole_run):  # the lock ended with the block before
        pass


def test_a_slurm_job_near_its_end_is_saved_requeued_and_goes_on_by_itself(
    whole_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(f"#!/bin/sh\necho $* >> {tmp_path}/asked\n")
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    arguments = [*LONG, f"hydra.run.dir={tmp_path / 'run'}"]
    output = stop_at(start(*arguments), 150, signal.SIGUSR1)
    assert "stopped by SIGUSR1" in output
    assert (tmp_path / "asked").read_text() == "requeue 7\n"
    run(*arguments)  # as SLURM does it: the same command under the same job id
    assert_same_bits(whole_run, tmp_path / "run")


def test_a_non_finite_loss_stops_the_run_with_the_step_and_keeps_the_weights(
    tmp_path: Path,
) -> None:
    output = run(*SMALL, "data.inputs.r=1e30", f"hydra.run.dir={tmp_path / 'run'}", expect=1)
    assert re.search(r"error: optimizer step 1: loss (inf|nan)", output), output
    assert not (tmp_path / "run" / "checkpoint").exists()


def test_a_run_that_diverges_later_keeps_its_last_finite_checkpoint(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    output = run(
        *SMALL,
        "optim.lr=1e12",
        "optim.warmup_steps=1000000",
        "max_steps=2000",
        "checkpoint_every=1",
        f"hydra.run.dir={directory}",
        expect=1,
    )
    step = re.search(r"error: optimizer step (\d+)", output)
    assert step is not None, output
    last = torch.load(directory / "checkpoints/last.ckpt", weights_only=True)
    assert last["global_step"] == int(step[1]) - 1
    assert all(tensor.isfinite().all() for tensor in last["state_dict"].values())
    (found,) = read_runs(directory)
    assert not found.finished
    assert found.diverged[""].startswith(step[0].removeprefix("error: "))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model=gd_smm"], "unknown model 'gd_smm'. Did you mean 'gd_ssm'"),
        (["+model.depth=2"], "unknown argument of gd_ssm 'depth'"),
        (["+data.nois=1"], "nois"),
        (["data.d_x=-1"], "d_x"),
        (["optim.lr=-1"], "lr"),
        (["batch_size=63", "trainer.accumulate_grad_batches=2"], "63 episodes.*multiple of 2"),
        (["trainer.step=graph"], "trainer.step=graph does not go with a CPU"),
        (["trainer.precision=16-mixed"], "trainer.precision=16-mixed needs a GPU"),
        (["trainer=ddp_cpu", "seeds=2"], "2 seeds or rates in one process need one device"),
        (["positions=first"], "'last' or 'all', got 'first'"),
        (["resume=runs/nowhere-at-all"], "is not a run directory"),
        (["data.distractors.count=11"], "distractors.count must be at most num_context"),
        (["data.num_context=1000000000"], "the numbers of one episode, got 20,000,000,020"),
        (["seed=abc"], "seed: .*integer, got 'abc'"),
        (["seed=-1"], "seed: .*greater than or equal to 0, got -1"),
        (["max_steps=1e3"], "max_steps: .*integer, got 1000.0"),
        (["val_every=0"], "val_every: .*greater than 0, got 0"),
        (["eval_episodes=1"], "eval_episodes: .*greater than or equal to 2, got 1"),
        (["++run_dir=somewhere"], "run_dir cannot be set, it follows from hydra.run.dir=DIRECTORY"),
        (["checkpoint_tag=a+b"], "checkpoint_tag: .*pattern.*got 'a\\+b'"),
        (["trainer.accumulate_grad_batches=0"], "accumulate_grad_batches: .*got 0"),
        (["callbacks.figures.every_n_steps=0"], "every_n_steps must be at least 1, got 0"),
        (["~optim.warmup_steps"], "'optim.warmup_steps' is missing"),
        (["+optim.warmup=1"], "'optim.warmup' is unknown"),
        (["trainer.accelerator=abc"], "trainer: .*abc"),
        (["+callbacks.a={_target_: no.such.Callback}"], "callbacks.a._target_: No module named"),
    ],
)
def test_what_a_user_got_wrong_is_said_without_a_trace(
    overrides: list[str], message: str, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    where = [] if overrides[0].startswith("resume") else [f"hydra.run.dir={run_dir}"]
    output = run(*overrides, *where, expect=1)
    assert re.search(message, output, re.DOTALL), output
    assert "Traceback" not in output
    assert "Error in call to target" not in output
    assert "fitting" not in output  # refused before all that takes long
    assert not run_dir.exists()
    assert not (ROOT / "runs" / "nowhere-at-all").exists()


@pytest.mark.parametrize(
    ("given", "message"), [("0", "greater than 0, got 0"), ("two", "a valid integer, got 'two'")]
)
def test_a_model_that_cannot_be_leaves_no_run_behind(
    given: str, message: str, tmp_path: Path
) -> None:
    output = run(f"model.num_steps={given}", f"hydra.run.dir={tmp_path}", expect=1)
    assert f"model.num_steps: Input should be {message}" in output
    assert not any(tmp_path.iterdir()) if tmp_path.exists() else True


@pytest.mark.parametrize("directory", ["/dev/null/run", "/proc/run"])
def test_a_run_directory_that_cannot_be_made_is_said_in_one_line(directory: str) -> None:
    output = run(*SMALL, f"hydra.run.dir={directory}", expect=1)
    assert output.count("\n") == 1
    assert output.startswith("error: the run directory cannot be made")


def test_resuming_refuses_what_conflicts_and_takes_more_steps(
    whole_run: Path, tmp_path: Path
) -> None:
    for override, key in [
        ("optim.lr=0.1", "optim.lr"),
        ("max_steps=100", "max_steps"),
        ("data=linear_scalar", "data.d_x"),
        ("experiment=large_start", "callbacks.figures._target_"),
        ("~callbacks.alignment", "callbacks.alignment._target_"),
    ]:
        output = run(f"resume={whole_run}", override, expect=1)
        assert f"resume: {key} = " in output
        assert f"conflicts with {key} = " in output
    assert "unknown setting 'foo'" in run(f"resume={whole_run}", "+foo=1", expect=1)
    output = run(*LONG, "seed=1", f"hydra.run.dir={whole_run}", expect=1)
    assert "holds another run" in output
    output = run(f"resume={whole_run}", f"hydra.run.dir={tmp_path / 'other'}", expect=1)
    assert "is also where the run goes on" in output
    longer = tmp_path / "longer"
    subprocess.run(["cp", "-r", whole_run, longer], check=True)
    # What the run was started with does not conflict with it.
    run(f"resume={longer}", "max_steps=650", "seed=0", "data.d_x=4", "~callbacks.figures")
    card = read_card(longer / "checkpoint")
    assert card.training.steps == 650
    first, then = card.command.split(" && ")
    assert first == read_card(whole_run / "checkpoint").command
    assert f"resume={longer} max_steps=650" in then
    assert OmegaConf.load(longer / "config.yaml").max_steps == 650


def test_a_default_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "runs").touch()  # as if it were read-only, which it is not for root
    words = [sys.executable, str(ROOT / "train.py"), *SMALL]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert done.stderr.startswith("error: the run directory cannot be made: ")


def test_a_warning_says_nothing_of_where_in_the_code_it_was_given() -> None:
    found = plain_warning("optimizer step 2: skipped", UserWarning, "rank_zero.py", 42)
    assert found == "warning: optimizer step 2: skipped\n"


def test_a_gpu_that_is_not_there_is_said_with_what_to_type(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    for choice in ("trainer=ddp", "trainer=gpu", "trainer=fsdp"):
        output = run(choice, f"hydra.run.dir={tmp_path / 'run'}", expect=1)
        assert re.search(r"needs a CUDA GPU.*trainer=cpu trains on the CPU", output), output
        assert "Error in call to target" not in output
        assert not (tmp_path / "run").exists()


def test_a_run_under_a_nasty_name_is_resumed_by_the_printed_command(tmp_path: Path) -> None:
    directory = tmp_path / "lr=0.1,[a] {b} ~é #'\"$c\\"
    short = [*SMALL, "max_steps=5", "val_every=5", "eval_episodes=20", "~callbacks.alignment"]
    run(*short, f"hydra.run.dir={directory}")
    run(f"resume={directory}", "max_steps=6")
    assert read_card(directory / "checkpoint").training.steps == 6
    output = run(*short, "seed=1", f"hydra.run.dir={directory}", expect=1)
    found = re.search(r"holds another run: (.*) goes on with it", output)
    assert found is not None, output
    command = f"{sys.executable} train.py {found[1]} max_steps=7"
    pasted = subprocess.run(["sh", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert pasted.returncode == 0, pasted.stderr
    assert read_card(directory / "checkpoint").training.steps == 7


def test_a_run_of_somebody_else_runs_none_of_its_code(whole_run: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    subprocess.run(["cp", "-r", whole_run, theirs], check=True)
    config = OmegaConf.load(theirs / "config.yaml")
    config.callbacks.bad = {"_target_": "os.mkdir", "path": str(tmp_path / "made")}
    config.allow_targets = ["os.mkdir"]
    OmegaConf.save(config, theirs / "config.yaml")
    output = run(f"resume={theirs}", expect=1)
    assert "would build os.mkdir" in output
    assert "'allow_targets=[os.mkdir]'" in output
    assert not (tmp_path / "made").exists()
    output = run(f"resume={theirs}", "allow_targets=[os.mkdir]", expect=1)  # that is what it does
    assert "callbacks.bad must be a Callback" in output
    assert (tmp_path / "made").exists()


def test_a_run_on_a_text_of_ones_own_asks_for_it_wherever_it_is_needed(tmp_path: Path) -> None:
    directory, text = tmp_path / "run", tmp_path / "my text.txt"
    text.write_bytes(b"To be, or not to be, that is the question. " * 50)
    tiny = ["model=mamba", "model.d_model=8", "model.num_layers=1", "positions=all"]
    short = ["data=text", "data.num_context=15", "trainer=cpu", "batch_size=4", "eval_episodes=20"]
    started = [*tiny, *short, "max_steps=2", "val_every=1", f"hydra.run.dir={directory}"]
    run(*started, f"text={text}")
    data = read_card(directory / "checkpoint").data["function"]
    assert (data["file"], data["num_bytes"]) == ("my text.txt", text.stat().st_size)
    assert str(text) not in (directory / "config.yaml").read_text()
    refused = "is not the one in the package: give the file again as text=FILE"
    assert refused in run(f"resume={directory}", "max_steps=3", expect=1)
    run(f"resume={directory}", "max_steps=3", f"text={text}")
    assert read_card(directory / "checkpoint").training.steps == 3

    def door(*words: str) -> str:
        process = Forked(words, ROOT)
        output = process.communicate(timeout=300)
        return f"{process.returncode} {output}"

    checkpoint = str(directory / "checkpoint")
    measured = ("-m", "zoo", "measure", checkpoint, "--episodes=20")
    assert refused in door(*measured)
    assert door(*measured, f"--text={text}")[0] == "0"
    evaluated = ("evaluate.py", f"predictors=['{checkpoint}']", "suite=[as_given]")
    place = f"hydra.run.dir={tmp_path / 'evaluation'}"
    assert refused in door(*evaluated, "num_episodes=20", place)
    assert door(*evaluated, "num_episodes=20", place, f"text={text}")[0] == "0"


def test_a_run_says_what_it_is_about_to_do(whole_run: Path, tmp_path: Path) -> None:
    short = [*SMALL, "max_steps=5", "val_every=5", "eval_episodes=20", "~callbacks.alignment"]
    output = run(*short, f"hydra.run.dir={tmp_path / 'run'}")
    for line in (
        "training from step 0 to 5, validating every 5",
        "measuring seed 0 on 20 test episodes",
    ):
        assert line in output


def test_a_multirun_of_several_ranks_is_refused_before_training(tmp_path: Path) -> None:
    where = f"hydra.sweep.dir={tmp_path}"
    output = run("-m", *SMALL[1:], "trainer=ddp_cpu", "seed=0,1", where, expect=1)
    for word in (
        "this trainer has 2",
        "seeds=8",
        "launcher=joblib",
        "launcher=submitit",
        "torchrun",
    ):
        assert word in output
    assert not list(tmp_path.rglob("config.yaml"))


def test_the_rates_of_a_multirun_are_compared_by_their_last_validation(tmp_path: Path) -> None:
    short = [*SMALL, "max_steps=5", "val_every=5", "eval_episodes=20", "~callbacks.alignment"]
    run("-m", *short, "optim.lr=0.1,0.001", "seed=0,1", f"hydra.sweep.dir={tmp_path}")
    trials = [trial for found in read_runs(tmp_path) for trial in found.trials]
    assert [(t.rate[0], t.seed) for t in trials] == [(0.1, 0), (0.1, 1), (0.001, 0), (0.001, 1)]
    for trial in trials:
        column = read_columns(trial.run, ["val/half_mse_query"])["val/half_mse_query"]
        assert trial.validation == column[-1]
    (row,) = rows_of(read_runs(tmp_path))
    means = {lr: sum(t.validation or 0.0 for t in trials if t.rate[0] == lr) for lr in (0.1, 0.001)}
    assert row.rate[0] == min(means, key=means.__getitem__)
    assert sorted(row.values("test/half_mse_query")) == [0, 1]


def test_the_seeds_of_one_run_are_put_together_as_its_summary_has_them(tmp_path: Path) -> None:
    short = [*SMALL, "max_steps=5", "val_every=5", "eval_episodes=20"]
    run(*short, "seeds=2", "trainer.log_every_n_steps=5", f"hydra.run.dir={tmp_path / 'run'}")
    group = "train/learning_rate/decay"  # under the name that it has with one seed
    assert read_columns(tmp_path / "run", [group])[group]
    (row,) = rows_of(read_runs(tmp_path))
    summary = json.loads((tmp_path / "run/metrics.json").read_text())["metrics"]
    found = summary["test/half_mse_query"]
    assert row.over_seeds("test/half_mse_query") == pytest.approx((found["mean"], found["ci95"]))
    assert [trial.seed for trial in row.trials] == [0, 1]
    assert all(trial.validation is not None for trial in row.trials)


def test_resuming_with_multirun_is_refused(whole_run: Path) -> None:
    where = f"hydra.sweep.dir={whole_run.parent / 'sweep'}"
    assert "without -m" in run("-m", f"resume={whole_run}", where, expect=1)


def test_training_on_all_positions_learns_them(tmp_path: Path) -> None:
    run(*SMALL, "positions=all", "max_steps=400", f"hydra.run.dir={tmp_path}")
    metrics: dict[str, Any] = json.loads((tmp_path / "metrics.json").read_text())
    untrained = metrics["references"]["zero"]["test/half_mse_all"]["value"]
    assert metrics["model"]["test/half_mse_all"]["value"] < 0.85 * untrained


def test_the_state_of_the_code_is_marked_where_it_differs_from_its_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*arguments: str) -> None:
        identity = ("-c", "user.name=a", "-c", "user.email=a@b")
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True)

    monkeypatch.setattr("zoo.training.card.ROOT", tmp_path)
    assert git_commit() is None
    (tmp_path / "a.py").write_text("one\n")
    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "a")
    clean = git_commit()
    assert clean is not None
    assert re.fullmatch("[0-9a-f]{40}", clean)
    states = []
    for name, text in (("a.py", "two\n"), ("a.py", "three\n"), ("new.py", "four\n")):
        (tmp_path / name).write_text(text)
        states.append(git_commit())
        assert re.fullmatch(f"{clean}-dirty-[0-9a-f]{{12}}", states[-1] or "")
    assert len({*states}) == 3
    git("add", ".")
    git("commit", "-q", "-m", "b")
    assert re.fullmatch("[0-9a-f]{40}", git_commit() or "")


@pytest.mark.parametrize(
    ("name", "arguments", "number"),
    [
        ("gd_ssm", {}, 10_000),
        ("gd_ssm", {"num_steps": 2}, 100_000),
        ("gd_ssm_features", {"num_steps": 4}, 100_000),
        ("linear_transformer", {}, 100_000),
        ("transformer", {}, 10_000),
    ],
)
def test_models_whose_mean_single_episodes_decide_are_tested_on_ten_times_as_many(
    name: str, arguments: dict[str, Any], number: int
) -> None:
    model = zoo.create_model(name, d_x=3, d_y=3, **arguments)
    assert num_test_of(10_000, model.heavy_tailed) == number
