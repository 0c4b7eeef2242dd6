"""What a shell does to a command: signals that end it, and streams that nobody reads any more."""

import contextlib
import errno
import io
import os
import signal
import sys
from collections.abc import Iterable
from types import FrameType
from typing import Any, NoReturn

ESCAPED = "backslashreplace"


class StoppedBySignal(BaseException):
    """A signal asks the command to end. Not an Exception, which libraries catch.

    Attributes:
        signum: The signal.
        step: Optimizer steps done and saved, None outside of training.
    """

    def __init__(self, signum: int, step: int | None = None) -> None:
        after = "" if step is None else f" after step {step}"
        super().__init__(f"stopped by {signal.Signals(signum).name}{after}")
        self.signum = signum
        self.step = step


def ending_signals() -> list[signal.Signals]:
    """Signals that a command ends at, with what it has saved.

    Ctrl-C, SIGTERM, SIGHUP of a terminal that is closed, unless it is ignored as under nohup, and
    in a SLURM job SIGUSR1, which says that its time is nearly over.
    """
    signals = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signals.append(signal.SIGHUP)
    if "SLURM_JOB_ID" in os.environ:
        signals.append(signal.SIGUSR1)
    return signals


def exit_on_signals() -> None:
    """From now on the first of `ending_signals` ends the process at once, with one line.

    For the time before anything has been done. An exception could be lost in what is imported then.
    """

    def end(signum: int, frame: FrameType | None) -> NoReturn:
        line = f"{StoppedBySignal(signum)} before anything was done\n"
        with contextlib.suppress(OSError):  # nobody reads it
            os.write(2, line.encode())
        os._exit(128 + signum)

    for each in ending_signals():
        signal.signal(each, end)


def raise_on_signals() -> None:
    """From now on the first of `ending_signals` raises `StoppedBySignal`; others are ignored then.

    A closed terminal sends SIGHUP twice, and the command may take a while to end.
    """
    signals = ending_signals()

    def stop(signum: int, frame: FrameType | None) -> NoReturn:
        for each in signals:
            signal.signal(each, signal.SIG_IGN)
        raise StoppedBySignal(signum)

    for each in signals:
        signal.signal(each, stop)


def outlive_readers() -> None:
    r"""From now on writing to stdout and stderr does not fail because of who reads them.

    What a terminal cannot show appears as an escape (`\xb1`). What nobody reads any more, since a
    pipe broke (`| head`) or a terminal was closed, is lost, and the command goes on.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed from the start
            setattr(sys, name, open(os.devnull, "w", errors=ESCAPED))  # noqa: SIM115
            continue
        raw = _Outliving(stream.fileno(), "w", closefd=False)
        setattr(
            sys,
            name,
            io.TextIOWrapper(
                raw if stream.write_through else io.BufferedWriter(raw),
                stream.encoding,
                ESCAPED,
                line_buffering=stream.line_buffering,
                write_through=stream.write_through,
            ),
        )


def refuse_what_is_no_text(typed: Iterable[str]) -> None:
    """Exits with one line where bytes of the command line or of a path are no text in this locale.

    Files are written in UTF-8, which Python's stand-ins for such bytes are not in: a run would be
    lost at its end.
    """
    for text in typed:
        try:
            text.encode()
        except UnicodeEncodeError:
            sys.exit(
                f"error: {text!a} is no text in this locale ({sys.getfilesystemencoding()}): "
                "set LC_ALL=C.UTF-8 or PYTHONUTF8=1"
            )


def plain_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    line: str | None = None,
) -> str:
    """What a warning looks like: where in the code it was given is nothing a user asks for."""
    return f"warning: {message}\n"


class _Outliving(io.FileIO):
    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO, errno.ECONNRESET):
                error.filename = "the output of this command"  # as for /dev/full
                raise
            return memoryview(data).nbytes
