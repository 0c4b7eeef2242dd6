"""Where the course of a run is written for TensorBoard."""

import re
from collections.abc import Mapping
from pathlib import Path

from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.tensorboard import SummaryWriter

OF_AN_ALGORITHM = re.compile(r"val/[a-z_]+_(query|all)/.+")


class TensorBoard(TensorBoardLogger):
    """Lightning's logger without its chart of epochs: episodes are drawn on the fly.

    What replicas log under a prefix, such as `seed_3/` or `lr_0.001/seed_3/`, is written to a
    directory of that name without it: curves lie on each other, as those of runs side by side.
    Validation losses of algorithms are left to `ReferenceMonitor`, which draws them once.

    Args:
        directory: Holds the event files.
    """

    def __init__(self, directory: str) -> None:
        super().__init__(directory, name=None, version="", default_hp_metric=False)
        self._writers: dict[str, SummaryWriter] = {}

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        of_all: dict[str, float] = {}
        for name, value in metrics.items():
            prefix, own_name = split(name)
            if prefix:
                self.writer(prefix).add_scalar(own_name, value, step)
            elif name != "epoch" and not OF_AN_ALGORITHM.fullmatch(name):
                of_all[name] = value
        super().log_metrics(of_all, step)

    def writer(self, prefix: str) -> SummaryWriter:
        """Of what is logged under a prefix, itself without one."""
        if not prefix:
            of_the_run: SummaryWriter = self.experiment
            return of_the_run
        if prefix not in self._writers:
            self._writers[prefix] = SummaryWriter(str(Path(self.log_dir) / prefix))
        return self._writers[prefix]

    def finalize(self, status: str) -> None:
        try:
            super().finalize(status)
            for writer in self._writers.values():
                writer.flush()
        except OSError as error:
            # A signal that came while the file was being closed; what the system refuses, such as
            # a full disk, has a number.
            if status == "success" or error.errno is not None:
                raise


def split(name: str) -> tuple[str, str]:
    """The prefix of a replica in a name, empty if there is none, and the rest."""
    found = re.fullmatch(r"((?:lr_[^/]+/)?seed_\d+)/(.+)", name)
    return (found[1], found[2]) if found else ("", name)
