"""Commands outlive their readers, and end at signals."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from zoo import terminal
from zoo.files import ROOT
from zoo.terminal import StoppedBySignal, ending_signals, raise_on_signals

# Loaded from its file: the package would bring torch, which takes seconds.
PRINT = f"""
import importlib.util
import sys
from rich.console import Console
spec = importlib.util.spec_from_file_location("terminal", {terminal.__file__!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
module.outlive_readers()
for _ in range(1_000):
    print("± " * 100)
Console().print("─ ± é \\udcff")
print("± all of it was printed", file=sys.stderr)
"""


def shell(line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", line],
        env={**os.environ, "PYTHON": sys.executable, "PRINT": PRINT, **environment},
        capture_output=True,
        text=True,
        errors="replace",
    )


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("reader", ["| head -1", ">&-"])
def test_a_command_goes_on_when_nobody_reads_it(reader: str, unbuffered: str) -> None:
    done = shell(f'$PYTHON -c "$PRINT" {reader}', PYTHONUNBUFFERED=unbuffered)
    assert (done.returncode, done.stderr) == (0, "± all of it was printed\n")


def test_a_closed_stderr_does_not_matter_either() -> None:
    assert shell('$PYTHON -c "$PRINT" 2>&1 | head -1').returncode == 0
    assert shell('$PYTHON -c "$PRINT" > /dev/null 2>&-').returncode == 0


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_no_encoding_makes_output_fail(encoding: str) -> None:
    done = shell('$PYTHON -c "$PRINT" 2>/dev/null', PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr
    assert ("\\xb1" in done.stdout) == (encoding == "ascii")
    assert "\\udcff" in done.stdout


def test_a_full_disk_behind_the_output_is_still_an_error() -> None:
    done = shell('$PYTHON -c "$PRINT" > /dev/full')
    assert done.returncode != 0
    assert "No space left on device: 'the output of this command'" in done.stderr


@pytest.mark.parametrize("command", ["$ROOT/train.py max_steps=1", "-m zoo export"])
def test_a_path_that_is_no_text_in_the_locale_is_refused_at_the_start(
    command: str, tmp_path: Path
) -> None:
    place = tmp_path / "lä"
    place.mkdir()
    ascii_locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONPATH": str(ROOT), "ROOT": str(ROOT)}
    for line in (f"$PYTHON {command} {place}", f"cd {place} && $PYTHON {command}"):
        done = shell(line, **ascii_locale)
        assert done.returncode == 1
        assert re.fullmatch(
            r"error: '.*l\\udcc3\\udca4' is no text in this locale \(ascii\): "
            r"set LC_ALL=C.UTF-8 or PYTHONUTF8=1\n",
            done.stderr,
        )
    assert not list(place.iterdir())


@pytest.fixture
def handlers() -> Iterator[None]:
    """Puts the handlers of all signals back."""
    before = {signum: signal.getsignal(signum) for signum in (*ending_signals(), signal.SIGHUP)}
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_the_first_signal_is_raised_and_others_are_ignored(name: str, handlers: None) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    raise_on_signals()
    with pytest.raises(StoppedBySignal, match=f"stopped by {name}$") as stopped:
        os.kill(os.getpid(), signal.Signals[name])
    assert stopped.value.signum == signal.Signals[name]
    assert not isinstance(stopped.value, Exception)  # which libraries catch
    for other in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
        os.kill(os.getpid(), other)


def test_hangups_are_ignored_under_nohup(handlers: None) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    assert signal.SIGHUP not in ending_signals()
    raise_on_signals()
    os.kill(os.getpid(), signal.SIGHUP)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    assert signal.SIGHUP in ending_signals()
