"""How many threads compute on a CPU, and what they do while they wait for each other.

OpenMP threads that wait spin, which is the fastest on cores of their own. Beside other processes
they wait for a thread that has no core, and a step takes many times as long. So threads that start
beside other processes sleep while they wait, and a step too small to be shared has one thread. The
number of threads never depends on what else runs: the last bits of a result may depend on it.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import psutil  # type: ignore[import-untyped]

# Multiplications and additions of an optimizer step for which a further thread is worth waiting.
OPERATIONS_OF_A_THREAD = 1e8
# Cores in use by others from which on this process is taken to have company.
COMPANY = 0.5
# With one of these the user has said how threads wait; LOCAL_RANK is set where another rank has.
SETTLED = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "LOCAL_RANK")


def begin_to_look() -> None:
    """From now on it is known how much other processes use."""
    psutil.cpu_percent(percpu=True)
    _PROCESS.cpu_percent()


def settle_waiting() -> None:
    """Makes threads sleep while they wait, if other processes have used cores since the look began.

    It has an effect before torch is imported, and none where the user has settled it.
    """
    global _sleep
    if any(name in os.environ for name in SETTLED):
        return
    percents = dict(enumerate(psutil.cpu_percent(percpu=True)))
    in_use = sum(percents.get(core, 0.0) for core in usable_cores())
    if (in_use - _PROCESS.cpu_percent()) / 100 > COMPANY:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        _sleep = True


def usable_cores() -> set[int]:
    """The cores that this process may use; all, where a system cannot say."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(psutil.cpu_count() or 1))


def threads_of(operations: float, available: int) -> int:
    """Threads for a step: one for each `OPERATIONS_OF_A_THREAD` of it, at most those available."""
    return min(available, max(1, round(operations / OPERATIONS_OF_A_THREAD)))


@contextmanager
def threads(count: int) -> Iterator[None]:
    """What is computed inside has that many threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def describe(count: int, available: int) -> str:
    """What was chosen, as in "2 of 2 threads, which spin while they wait"."""
    if count == 1:
        return f"1 of {available} threads"
    if _sleep:
        how = "which sleep while they wait"
    elif any(name in os.environ for name in SETTLED):
        how = "which wait as the environment says"
    else:
        how = "which spin while they wait"
    return f"{count} of {available} threads, {how}"


_PROCESS = psutil.Process()
_sleep = False  # whether that was settled here
