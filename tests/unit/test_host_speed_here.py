"""The host's speed, probed on this host."""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable

import pytest

from pytest_llm_energy.metering.clock import SystemClock
from pytest_llm_energy.metering.host_speed import LEAST_PROBES, HostSpeed, fixed_loop
from tests.unit.test_host_speed import seconds


def until(done: Callable[[], bool], *, limit_seconds: float = 60.0) -> None:
    """Wait for something that takes as long as it takes."""
    end = time.monotonic() + limit_seconds
    while not done() and time.monotonic() < end:
        time.sleep(0.05)


@pytest.mark.skipif(sys.platform != "linux", reason="threads are found in /proc")
def test_a_process_that_works_is_probed_on_this_host() -> None:
    taken: list[float] = []

    def loop() -> float:
        taken.append(fixed_loop())
        return taken[-1]

    ours = os.sched_getaffinity(0)
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        try:
            processes: Iterable[int] = [busy.pid]
            speed = HostSpeed(lambda: processes, SystemClock(), loop=loop)
            speed.begin()
            until(lambda: len(taken) >= LEAST_PROBES)
            mean = seconds(speed.end())
        finally:
            busy.kill()
    assert mean == pytest.approx(statistics.harmonic_mean(taken))
    assert min(taken) > 0
    assert os.sched_getaffinity(0) == ours  # only the probing thread was moved
