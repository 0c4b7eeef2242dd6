"""Where the course of a run is written for TensorBoard."""

from collections.abc import Mapping

from lightning.pytorch.loggers import TensorBoardLogger


class TensorBoard(TensorBoardLogger):
    """Lightning's logger without its chart of epochs: episodes are drawn on the fly.

    Args:
        directory: Holds the event files.
    """

    def __init__(self, directory: str) -> None:
        super().__init__(directory, name=None, version="", default_hp_metric=False)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        super().log_metrics({n: v for n, v in metrics.items() if n != "epoch"}, step)
