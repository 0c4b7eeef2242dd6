"""Optimizer steps that never wait for the device, and that a CUDA graph can therefore repeat."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from datamodules.episodes import Episodes

# Turns a function that works on fixed tensors into one that repeats what it did.
Recorder = Callable[[Callable[[], None]], Callable[[], object]]

# Steps after which somebody looks at the latest at what they found.
LOOK_EVERY = 50
# Steps before a graph is recorded, in which every library chooses its kernels.
WARM_UP = 3
# Steps that each way is timed with, where the faster is looked for.
TIMED = 5


class Found(NamedTuple):
    """What one optimizer step found, of each replica.

    Attributes:
        loss: Training loss, mean over the batches of the step.
        norm: Of the gradient, before it is clipped.
        updated: 1 where the weights were updated.
    """

    loss: list[float]
    norm: list[float]
    updated: list[float]


class Watch:
    """Which replicas are still trained, and what the last steps found, both kept on the device.

    A step whose loss or gradient is not finite leaves no trace in the weights; after more than
    `max_in_a_row` such steps no further step does.

    Args:
        num_replicas: One for a model by itself.
        device: Where the steps are taken.
        max_in_a_row: Bad steps that are passed over.
    """

    def __init__(self, num_replicas: int, device: torch.device, max_in_a_row: int = 0) -> None:
        self.alive = torch.ones(num_replicas, dtype=torch.bool, device=device)
        self._max_in_a_row = max_in_a_row
        self._in_a_row = torch.zeros(num_replicas, device=device)
        self._found = torch.zeros(LOOK_EVERY, 3, num_replicas, device=device)
        self._row = torch.zeros(1, dtype=torch.long, device=device)
        self._num_found = 0

    def allowed(self, losses: Tensor, norms: Tensor) -> Tensor:
        """The replicas that may be updated by these, bool (num_replicas,)."""
        total = losses + norms
        return self.alive & (total - total == 0)

    def note(self, losses: Tensor, norms: Tensor, updated: Tensor) -> None:
        """Keeps what a step found.

        Args:
            losses: (num_replicas,), and so are the others.
            norms: Of the gradients.
            updated: Which replicas have new weights.
        """
        self._in_a_row.add_(1).mul_(~updated)
        self.alive.logical_and_(self._in_a_row <= self._max_in_a_row)
        row = torch.stack([losses, norms, updated.to(losses.dtype)])
        self._found.index_copy_(0, self._row, row[None].to(self._found.dtype))
        self._row.add_(1)

    def count(self) -> bool:
        """To be called after each step; whether somebody has to look now."""
        self._num_found += 1
        return self._num_found == LOOK_EVERY

    def look(self) -> list[Found]:
        """What the steps since the last look found, oldest first. Waits for the device."""
        found = [Found(*step) for step in self._found[: self._num_found].tolist()]
        self._num_found = 0
        self._row.zero_()
        return found

    @contextmanager
    def nobody_alive(self) -> Iterator[None]:
        """In it, up to `LOOK_EVERY` steps change nothing, and what they find is forgotten."""
        tensors = self.alive, self._in_a_row, self._found, self._row
        before = [tensor.clone() for tensor in tensors]
        self.alive.zero_()
        self._row.zero_()
        try:
            yield
        finally:
            for tensor, value in zip(tensors, before, strict=True):
                tensor.copy_(value)


class RecordedStep:
    """An optimizer step that is recorded once for each size of episodes, and then repeated.

    Args:
        step: Takes an optimizer step on episodes. It must not wait for the device.
        watch: That the step asks.
        record: What turns it into something that can be repeated.
    """

    def __init__(self, step: Callable[[Episodes], None], watch: Watch, record: Recorder) -> None:
        self._step = step
        self._watch = watch
        self._record = record
        self._recorded: dict[tuple[torch.Size, ...], tuple[Episodes, Callable[[], object]]] = {}

    def __call__(self, episodes: Episodes) -> None:
        """Takes the step on these episodes."""
        size = tuple(part.shape for part in episodes)
        if size not in self._recorded:
            buffers = Episodes(*(part.clone() for part in episodes))
            with self._watch.nobody_alive():
                self._recorded[size] = buffers, self._record(lambda: self._step(buffers))
        buffers, repeat = self._recorded[size]
        for buffer, part in zip(buffers, episodes, strict=True):
            buffer.copy_(part)
        repeat()


def as_it_is(step: Callable[[], None]) -> Callable[[], object]:
    """The step itself, where there is nothing to record it with."""
    return step


def cuda_graph(step: Callable[[], None]) -> Callable[[], object]:
    """A CUDA graph of a step."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    replay: Callable[[], object] = graph.replay
    return replay


def times_of_ways(step: Callable[[], None]) -> dict[Literal["graph", "eager"], float]:
    """Milliseconds of a step as a CUDA graph, and of the step itself."""
    return {"graph": _milliseconds(cuda_graph(step)), "eager": _milliseconds(step)}


def _milliseconds(step: Callable[[], object]) -> float:
    step()
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(TIMED):
        step()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / TIMED * 1e3
