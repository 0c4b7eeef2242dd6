"""How many threads compute, and how they wait."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil  # type: ignore[import-untyped]
import pytest
import torch

from zoo import threads as module
from zoo.threads import (
    begin_to_look,
    describe,
    settle_waiting,
    threads,
    threads_of,
    usable_cores,
)


@pytest.fixture(autouse=True)
def nothing_is_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test settles ends with it."""
    environment = {k: v for k, v in os.environ.items() if k not in module.SETTLED}
    monkeypatch.setattr(os, "environ", environment)
    monkeypatch.setattr(module, "_sleep", False)


@contextmanager
def busy_cores() -> Iterator[None]:
    """Each core of this process has another process that computes."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in usable_cores()]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


@pytest.mark.parametrize(
    ("operations", "available", "expected"),
    [(3.5e6, 2, 1), (1.4e8, 2, 1), (1.6e8, 2, 2), (1e12, 2, 2), (3.9e8, 16, 4), (1e12, 1, 1)],
)
def test_a_step_has_as_many_threads_as_it_can_keep_busy(
    operations: float, available: int, expected: int
) -> None:
    assert threads_of(operations, available) == expected


def test_the_number_of_threads_ends_with_the_block() -> None:
    before = torch.get_num_threads()
    with threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("others", "given", "expected"),
    [
        (0.0, {}, None),
        (30.0, {}, None),
        (80.0, {}, "PASSIVE"),
        (80.0, {"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE"),
        (80.0, {"GOMP_SPINCOUNT": "1000"}, None),
        (80.0, {"LOCAL_RANK": "1"}, None),
    ],
)
def test_threads_sleep_beside_other_processes_unless_the_user_says_how_they_wait(
    others: float, given: dict[str, str], expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = min(usable_cores())
    percents = [0.0] * (max(usable_cores()) + 2)
    percents[core] = others + 15.0
    percents[-1] = 100.0  # a core that this process may not use
    monkeypatch.setattr(psutil, "cpu_percent", lambda percpu: percents)
    monkeypatch.setattr(module._PROCESS, "cpu_percent", lambda: 15.0)  # its own share
    os.environ.update(given)
    settle_waiting()
    assert os.environ.get("OMP_WAIT_POLICY") == expected


def test_processes_that_compute_are_noticed() -> None:
    begin_to_look()
    with busy_cores():
        time.sleep(0.5)
        settle_waiting()
    assert os.environ.get("OMP_WAIT_POLICY") == "PASSIVE"
    assert describe(2, 4) == "2 of 4 threads, which sleep while they wait"


def test_what_was_chosen_is_said() -> None:
    assert describe(1, 4) == "1 of 4 threads"
    assert describe(2, 4) == "2 of 4 threads, which spin while they wait"
    os.environ["GOMP_SPINCOUNT"] = "0"
    assert describe(2, 4) == "2 of 4 threads, which wait as the environment says"
