"""How many threads compute on a CPU: as many as find a core of their own.

Threads of OpenMP spin while they wait for each other, after every operation. On cores of their own
they gain what a second core can give. Beside other processes they wait for a thread that has no
core, and take longer than one thread alone. So the other processes are looked at when a command
starts, and while it trains. Weights are the same to the last bit with 1, 2 or 4 threads: what
depends on their number in torch is not used on a CPU (`zoo/layers/layer_norm.py`,
`zoo/ops/softmax.py`, `total_norm` in `zoo/training/optim.py`), and MKL is told so before it is
loaded. With 8 the last bits of some architectures differ, and where torch multiplies matrices with
another library than MKL, nothing was tried.
"""

import os

import psutil  # type: ignore[import-untyped]

# Multiplications and additions of an optimizer step from which on a second thread gains something,
# and for which each further one is worth waiting.
OPERATIONS_TO_SHARE = 1e7
OPERATIONS_OF_A_THREAD = 1e8
# Of its code the best for the processor, but sums in one order: "strict" is for any thread count.
MKL_ARITHMETIC = "AUTO,STRICT"


def settle_arithmetic() -> None:
    """Has MKL's products add up in an order that does not depend on the number of threads.

    It has an effect before torch is imported, and none where the user has settled it.
    """
    os.environ.setdefault("MKL_CBWR", MKL_ARITHMETIC)


def begin_to_look() -> None:
    """From now on it is known how much other processes use."""
    psutil.cpu_percent(percpu=True)
    _PROCESS.cpu_percent()


def take_free_cores() -> None:
    """Gives torch as many threads as there are free cores."""
    import torch

    torch.set_num_threads(free_cores(most_threads()))


def most_threads() -> int:
    """The threads that torch had before this module changed them; OMP_NUM_THREADS sets them."""
    import torch

    global _most
    _most = _most or torch.get_num_threads()
    return _most


def free_cores(most: int) -> int:
    """Cores that others left to this process since the last look, at most `most`.

    Rounded down to a power of two: of other numbers of threads some have elements of a tensor left
    over that fill no vector register, and those are computed by other code.
    A rank of several has no company: the others are ranks, and have been counted.
    """
    if "LOCAL_RANK" in os.environ:
        return most
    percents = dict(enumerate(psutil.cpu_percent(percpu=True)))
    usable = usable_cores()
    in_use = sum(percents.get(core, 0.0) for core in usable)
    by_others = max(0.0, in_use - _PROCESS.cpu_percent()) / 100
    free: int = max(1, min(most, round(len(usable) - by_others)))
    return power_of_two(free)


def usable_cores() -> set[int]:
    """The cores that this process may use; all, where a system cannot say."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(psutil.cpu_count() or 1))


def threads_of(operations: float, episodes: int) -> int:
    """Threads of use for a step, a power of two.

    Args:
        operations: What it does at a time. Too few are not worth waiting for each other.
        episodes: Of its batch. A number that is no multiple of 16 leaves each thread some elements
            over, whose last bits would depend on where they are.
    """
    if operations < OPERATIONS_TO_SHARE or episodes % 16 != 0:
        return 1
    return power_of_two(max(2, round(operations / OPERATIONS_OF_A_THREAD)))


def power_of_two(count: int) -> int:
    """The largest power of two that is at most `count`."""
    power = 1
    while 2 * power <= count:
        power *= 2
    return power


def describe(count: int, worth: int | None = None) -> str:
    """What was chosen and why, as in "1 of 2 threads, since other processes compute".

    Args:
        count: Threads that compute.
        worth: Threads that the work can keep busy; any number if None.
    """
    most = most_threads()
    text = f"{count} of {most} threads"
    if count == most:
        return text
    if count == power_of_two(most):
        return f"{text}, a power of two"
    small = worth is not None and worth <= count
    return f"{text}, {'all that a step shares' if small else 'since other processes compute'}"


_PROCESS = psutil.Process()
_most = 0  # what most_threads() returns; 0 before it was asked
