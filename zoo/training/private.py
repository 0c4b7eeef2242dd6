"""What is used of Lightning, torch and TensorBoard without being promised, with the versions seen.

`zoo/training/checkpointing.py` also knows the names in the state of Lightning 2.6's loops, and
`zoo/training/sharding.py` sets `_data_parallel_size` of its `ModelParallelStrategy`.
"""

from collections.abc import Sequence

import torch
from lightning.pytorch.utilities import rank_zero_only
from tensorboard.compat.proto.summary_pb2 import Summary
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter


def rank_of_process() -> int:
    """The rank of this process, before there is a trainer too; Lightning 2.6."""
    rank: int = getattr(rank_zero_only, "rank", 0)
    return rank


def add_summary(writer: SummaryWriter, summary: Summary) -> None:
    """Writes what `SummaryWriter` has no method for; torch 2.13."""
    writer._get_file_writer().add_summary(summary)


def foreach_copy(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Copies tensors into others in a few kernels; torch 2.11 and 2.13."""
    torch._foreach_copy_(list(targets), list(sources))
