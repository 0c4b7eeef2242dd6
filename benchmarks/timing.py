"""What benchmarks share: best times, the memory that a step takes, exponents, command lines."""

import argparse
import math
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from zoo.errors import unknown
from zoo.registry import list_models

TURNS, SECONDS = 4, 0.5  # of repeats in each turn of a step

# Batch and length of the sequences that a layer is timed at.
Shape = tuple[int, int]
SHAPES: list[Shape] = [(8, n) for n in (16, 64, 256, 1024)]
SHAPES += [(2, n) for n in (1024, 2048, 4096, 8192, 16384)]
FITTED_BATCH, WANTED_EXPONENT = 2, 1.1

Step = Callable[[], object]


def best_ms(
    steps: Mapping[str, Step], clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """The best time of each step, in milliseconds.

    They take turns of several repeats, so that all meet the same machine and each, as in training,
    the memory that it has just used itself.

    Args:
        steps: By name.
        clock: In seconds; `time.process_time` of one thread knows nothing of other processes.
    """

    def seconds(step: Step) -> float:
        start = clock()
        step()
        return clock() - start

    best = {name: math.inf for name in steps}
    for _ in range(TURNS):
        for name, step in steps.items():
            first = seconds(step)
            repeats = max(1, min(20, int(SECONDS / first)))
            best[name] = min(best[name], first, *(seconds(step) for _ in range(repeats)))
    return {name: 1e3 * found for name, found in best.items()}


def in_own_process(module: str, *arguments: str) -> str:
    """What a benchmark prints when it is run by itself with `--child` and these arguments."""
    command = [sys.executable, "-m", module, "--child", *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def child_of(description: str, *names: str) -> list[str]:
    """What `in_own_process` gave to this process; empty where a user started it.

    Args:
        description: Of the benchmark, for `--help`.
        names: What the arguments of a child are called.
    """
    parser = argparse.ArgumentParser(description=description)
    shown = names or None
    text = "one measurement in a process of its own, whose result it prints"
    parser.add_argument("--child", nargs=len(names), metavar=shown, help=text)
    return parser.parse_args().child or []


def architectures_typed(description: str) -> list[str]:
    """The architectures on the command line; none stands for all of the registry.

    Args:
        description: Of the benchmark, for `--help`.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "names", nargs="*", metavar="ARCHITECTURE", help="all unless some are named"
    )
    names: list[str] = parser.parse_args().names
    if unknown_names := sorted(set(names) - set(list_models())):
        parser.error(unknown("model", unknown_names[0], list_models()))
    return names


def peak_mib(module: str, *arguments: str) -> float:
    """What `print_peak_mib` says in a process of its own, since a peak never falls again.

    Args:
        module: That of a benchmark, which calls it when it is run with these arguments.
        arguments: On its command line.
    """
    return float(in_own_process(module, *arguments))


def print_peak_mib(small: Step, step: Step) -> None:
    """Prints how much memory a step adds to the process at its peak, in MiB; Linux only.

    Args:
        small: A step with which libraries and thread pools come.
        step: The one that is measured, its inputs included if it makes them.
    """
    small()
    before = own_mib("peak")
    step()
    print(own_mib("peak") - before)


def own_mib(which: Literal["peak", "now"]) -> float:
    """Resident memory of this process; `ru_maxrss` would begin with the peak of the parent."""
    field = {"peak": "VmHWM", "now": "VmRSS"}[which]
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def exponent(times: Mapping[int, float]) -> float:
    """p of time ~ size^p, by least squares of the logarithms of times by size."""
    return float(np.polyfit(np.log(list(times)), np.log(list(times.values())), 1)[0])


def exponent_of_length(times: Mapping[Shape, float]) -> float:
    """`exponent` over the long sequences."""
    return exponent({length: ms for (batch, length), ms in times.items() if batch == FITTED_BATCH})
