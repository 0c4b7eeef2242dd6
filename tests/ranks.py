"""Runs of several ranks for tests, forked from one process that has imported everything.

python -m tests.ranks DIRECTORY MAX_STEPS

trains the same thing in every way of `SETTINGS`, each in `DIRECTORY/NAME`, and saves the episodes
that each rank saw in `DIRECTORY/NAME-batches`.
"""

import os
import socket
import sys
import traceback
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from rich.console import Console

from zoo.commands import train as script
from zoo.files import CONFIGS
from zoo.training import write

# By name: ranks, accumulated batches, trainer.
SETTINGS = {
    "one": (1, 1, "cpu"),
    "accumulated": (1, 2, "cpu"),
    "two": (2, 1, "ddp_cpu"),
    "two_accumulated": (2, 2, "ddp_cpu"),
    "four": (4, 1, "ddp_cpu"),
    "sharded": (2, 1, "fsdp"),
    "sharded_accumulated": (2, 2, "fsdp"),
}
OVERRIDES = [
    "data.d_x=4",
    "data.num_context=5",
    "batch_size=16",
    "eval_episodes=200",
    "optim.warmup_steps=10",
    "trainer.log_every_n_steps=10",
    "checkpoint_tag=ranks",
    "~callbacks.figures",
    "~callbacks.progress",
    "~logger.tensorboard",
    "+callbacks.recorder._target_=tests.recorder.Recorder",
]


def run(directory: Path, name: str, *overrides: str) -> None:
    """One way of training; raises RuntimeError if a rank fails."""
    num_ranks, num_parts, trainer = SETTINGS[name]
    configs = CONFIGS
    with initialize_config_dir(version_base="1.3", config_dir=str(configs)):
        config = compose(
            "train",
            [
                *OVERRIDES,
                f"trainer={trainer}",
                "trainer.accelerator=cpu",
                f"trainer.devices={num_ranks}",
                f"trainer.accumulate_grad_batches={num_parts}",
                f"+callbacks.recorder.directory={directory / name}-batches",
                f"run_dir={directory / name}",
                *overrides,
            ],
        )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(num_ranks):
        child = os.fork()
        if child == 0:
            if num_ranks > 1:  # what torchrun tells its processes
                os.environ |= {
                    "TORCHELASTIC_RUN_ID": "tests",
                    "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": str(port),
                    "WORLD_SIZE": str(num_ranks),
                    "LOCAL_WORLD_SIZE": str(num_ranks),
                    "GROUP_RANK": "0",
                    "RANK": str(rank),
                    "LOCAL_RANK": str(rank),
                }
            try:
                write.write_figures = lambda *_: None  # type: ignore[assignment]
                script.train(config, directory / name, Console(quiet=True), sys.argv)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        children.append(child)
    if any([os.waitpid(child, 0)[1] for child in children]):
        raise RuntimeError(f"a rank of {name} failed")


if __name__ == "__main__":
    torch.set_num_threads(1)  # a forked process has none of its parent's threads
    for each in SETTINGS:
        run(Path(sys.argv[1]), each, f"max_steps={sys.argv[2]}", "val_every=10")
