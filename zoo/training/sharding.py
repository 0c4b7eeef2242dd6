"""Parameters, gradients and optimizer state divided among the ranks (FSDP2)."""

from datetime import timedelta

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor


class FullyShardedStrategy(ModelParallelStrategy):
    """FSDP2 over all ranks; the checkpoint of a run is one file, as with any other strategy.

    Args:
        timeout: How long a rank waits for the others before it gives up.
    """

    def __init__(self, timeout: timedelta) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False, timeout=timeout)

    def setup_environment(self) -> None:
        """Makes the mesh: every rank takes its own rows of the batch."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()


def shard(module: nn.Module, mesh: DeviceMesh) -> None:
    """Divides the parameters of a module, in place; they come together for its `training_step`.

    They do so all at once: predictors use parameters outside of the `forward` of their parts, where
    parts that are divided by themselves would not notice.
    """
    fully_shard(module, mesh=mesh, reshard_after_forward=False)
    register_fsdp_forward_method(module, "training_step")


def full(tensor: Tensor) -> Tensor:
    """A tensor that may be divided among the ranks, whole; all of them have to ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gather(module: nn.Module) -> None:
    """Keeps all parameters of a divided module on every rank, until `scatter`."""
    if isinstance(module, FSDPModule):
        with torch.inference_mode(False):  # what that mode makes could not be trained on afterwards
            module.unshard()


def scatter(module: nn.Module) -> None:
    """Divides the parameters of a module among the ranks again, after `gather`."""
    if isinstance(module, FSDPModule):
        with torch.inference_mode(False):
            module.reshard()
