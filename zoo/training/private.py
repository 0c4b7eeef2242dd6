"""What is used of Lightning, torch and TensorBoard without being promised, with the versions seen.

`zoo/training/checkpointing.py` also knows the names in the state of Lightning 2.6's loops, and
`zoo/training/sharding.py` sets `_data_parallel_size` of its `ModelParallelStrategy`.
"""

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
from lightning.fabric.strategies.launchers.subprocess_script import _ChildProcessObserver
from lightning.pytorch.utilities import rank_zero_only
from tensorboard.compat.proto.summary_pb2 import Summary
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter


def rank_of_process() -> int:
    """The rank of this process, before there is a trainer too; Lightning 2.6."""
    rank: int = getattr(rank_zero_only, "rank", 0)
    return rank


def delay_forced_end(seconds: float) -> None:
    """Leaves rank 0 time to end by itself once another rank has died; Lightning 2.6.

    Every five seconds Lightning looks at the processes that it started, and if one of them has died
    it kills them all, its own first of all: whatever was about to be said or saved would be lost.
    Here the kill comes later, for a rank that hangs.
    """

    def end_later(end: Callable[[], None]) -> None:
        time.sleep(seconds)
        end()

    for thread in threading.enumerate():
        if isinstance(thread, _ChildProcessObserver) and "_terminate_all" not in vars(thread):
            end = partial(end_later, thread._terminate_all)
            thread._terminate_all = end  # type: ignore[method-assign]


def add_summary(writer: SummaryWriter, summary: Summary) -> None:
    """Writes what `SummaryWriter` has no method for; torch 2.13."""
    writer._get_file_writer().add_summary(summary)


def foreach_copy(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Copies tensors into others in a few kernels; torch 2.11 and 2.13."""
    torch._foreach_copy_(list(targets), list(sources))
