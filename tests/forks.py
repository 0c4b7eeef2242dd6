"""Commands in processes of their own that are forked from one that has imported what they need.

Importing Lightning takes longer than a short training. Only packages of others are imported before:
the code of the project is imported in each process, by the file that is named. What a command does
before torch is imported, and with what environment, is a matter of `tests/test_doors.py`, where
processes start from nothing.
"""

import gc
import multiprocessing
import os
import runpy
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
# Of commands that train. What is not installed is left out.
PRELOADED = [
    *("torch", "lightning.pytorch", "torchmetrics", "torch.utils.tensorboard", "psutil"),
    *("hydra", "omegaconf", "pydantic", "rich.progress", "typer", "safetensors.torch"),
    *("matplotlib.figure", "matplotlib.backends.backend_agg", "fsspec", "filelock"),
    *("hydra._internal.hydra", "hydra.core.hydra_config", "lightning.pytorch.loggers"),
    "tensorboard.compat.proto.event_pb2",
]
# What puts figures of a run together, and what draws them.
OF_FIGURES = [
    *("learning_curve_figure", "thumbnail_curve_figure", "weights_figure", "lay_out_as"),
    *("thumbnail_weights_figure", "write_figure"),
]
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(PRELOADED)


class Forked:
    """A process of `python WORDS` in a session of its own, used as one of `subprocess.Popen`.

    Args:
        words: What is typed behind `python`: a file or `-m` and a module, then its arguments.
        cwd: Where.
        environment: None for that of this process.
        drawn: Whether figures of a training are made, which is most of a short one.

    Attributes:
        stdout: What it prints, errors included.
        returncode: None while it runs.
    """

    def __init__(
        self,
        words: Sequence[str],
        cwd: Path,
        environment: Mapping[str, str] | None = None,
        drawn: bool = True,
    ) -> None:
        reading, writing = CONTEXT.Pipe(duplex=False)
        given = os.environ if environment is None else environment
        arguments = (writing, list(words), str(cwd), dict(given), drawn)
        self._process = CONTEXT.Process(target=_become, args=arguments)
        self._process.start()
        writing.close()
        self.stdout = os.fdopen(os.dup(reading.fileno()), encoding="utf-8")
        reading.close()

    @property
    def returncode(self) -> int | None:
        """The status with which it ended, negative where a signal ended it."""
        return self._process.exitcode

    def send_signal(self, signum: int) -> None:
        """Sends it a signal."""
        assert self._process.pid is not None
        os.kill(self._process.pid, signum)

    def wait(self, timeout: float) -> int:
        """Waits until it has ended; returns its status."""
        self._process.join(timeout)
        assert self.returncode is not None, f"it has not ended after {timeout} s"
        return self.returncode

    def communicate(self, timeout: float) -> str:
        """What it still prints until it has ended."""
        with self.stdout:
            output = self.stdout.read()
        self.wait(timeout)
        return output


def draw_nothing(replace: Callable[[Any, str, Any], None]) -> None:
    """Has trainings in this process make no figures.

    Args:
        replace: Sets an attribute of a module or class, as `setattr` does.
    """
    for name in ("zoo.training.write", "zoo.training.callbacks.figures"):
        module = import_module(name)
        for function in OF_FIGURES:
            if hasattr(module, function):
                replace(module, function, _nothing)
    replace(import_module("torch.utils.tensorboard").SummaryWriter, "add_figure", _nothing)


def _nothing(*_: Any, **__: Any) -> None:
    pass


def _become(
    writing: Connection, words: list[str], cwd: str, environment: dict[str, str], drawn: bool
) -> None:
    gc.freeze()
    os.setsid()
    for descriptor in (1, 2):
        os.dup2(writing.fileno(), descriptor)
    writing.close()
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    # Of the project is imported what is in that directory, not what this process has.
    sys.path = [cwd, *(path for path in sys.path if path != str(ROOT))]
    for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
        del sys.modules[name]
    if not drawn:
        draw_nothing(setattr)
    if words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = words
        runpy.run_path(words[0], run_name="__main__")
