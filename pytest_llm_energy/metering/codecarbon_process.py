"""CodeCarbon's estimate of this process tree: TDP times its share of the processor's time.

Its tracker runs here, in the process that meters, not inside the busy worker: from there its figures repeat;
inside the worker they scattered by half. Only the CPU's part is taken, because its RAM part is a constant per
gigabyte.
"""

import contextlib
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

import psutil

from pytest_llm_energy.errors import MeterError
from pytest_llm_energy.metering.codecarbon import JOULES_PER_KWH, Tasks, name_and_version, offline_tracker
from pytest_llm_energy.metering.meter import Invalid, Reading, Steady, between_reads, no_energy

CLOCK_TICK_SECONDS = 0.01
"""Resolution of a process's CPU time in /proc (USER_HZ = 100)."""

Others = Callable[[], Iterable[int]]
"""Ids of processes that are metered beside this one and its descendants, as they are now."""


def nobody() -> tuple[int, ...]:
    """No others."""
    return ()


QUIET_SECONDS = 0.1
QUIET_SHARE = 0.25
QUIET_PATIENCE_SECONDS = 5.0
"""What takes longer to rest is metered with the rest: a server's own housekeeping, say."""

TIMES_READ = 4
"""User and system time, at either end of a window: each is cut off to a whole tick."""


class CodeCarbonProcessMeter:
    """The CPU's share of a CodeCarbon task, in process mode, offline.

    Estimated: the scale rests on CodeCarbon's table of TDPs, so levels mean little in watts while ratios
    between arms follow the processor time they take. The stated uncertainty is that of the clock ticks, not
    of the table.
    """

    method = "codecarbon-process"
    estimated = True

    def __init__(self) -> None:
        """Start an offline tracker.

        Raises:
            MeterError: CodeCarbon is not installed.
        """
        try:
            make = offline_tracker(tracking_mode="process")
        except MeterError as error:
            raise MeterError(f"this host has no GPU counter and no readable RAPL to meter by: {error}") from error
        self._tasks = Tasks(make)
        self.source = f"{name_and_version()}, process mode, CPU's share, pue 1"
        self._others: Others = nobody

    def follow(self, others: Others) -> None:
        """Meter other processes too: a server that was here before.

        Args:
            others: their ids, as they are now.
        """
        self._others = others

    def open(self) -> "_ProcessWindow":
        """Start a task.

        Raises:
            MeterError: a window is open already; CodeCarbon has one task at a time.
        """
        _wait_until_quiet(self._others)
        return self._begin()

    def steady(self, seconds: float) -> Steady:
        """Meter a load that lasts."""
        return between_reads(self._begin, seconds)

    def _begin(self) -> "_ProcessWindow":
        if self._others is not nobody:
            self._tasks.follow(self._others)
        return _ProcessWindow(self._tasks, self._tasks.start(), self._others)

    def shutdown(self) -> None:
        """Nothing runs between windows: tasks end with them, and the tracker's timers are daemons."""


def _wait_until_quiet(others: Others) -> None:
    """Wait until what is metered rests: threads of an engine that has just served spin on for a second or two.

    Beside them the next window took three times as long (vLLM's CPU build 0.32 beside transformers 5.23, two cores,
    2026-11-21).
    """
    until = time.monotonic() + QUIET_PATIENCE_SECONDS
    before = _own_seconds(others)
    while time.monotonic() < until:
        time.sleep(QUIET_SECONDS)
        now = _own_seconds(others)
        if now - before <= QUIET_SHARE * QUIET_SECONDS:
            return
        before = now


class _ProcessWindow:
    def __init__(self, tasks: Tasks, name: str, others: Others) -> None:
        self._tasks = tasks
        self._name = name
        self._others = others
        self._before = ProcessorTime.now(others)
        self._processes = _own_processes(others)

    def abandon(self) -> None:
        self._tasks.abandon(self._name)

    def close(self, started: float, ended: float) -> Reading:
        changed = self._processes != _own_processes(self._others)
        disturbed = self._before.disturbance(ProcessorTime.now(self._others))
        task = self._tasks.stop(self._name)
        seconds = ended - started
        joules = task.cpu_energy * JOULES_PER_KWH if task is not None else 0.0
        advice = "was the work too short for a 10 ms clock tick? Lengthen --energy-window"
        invalid = no_energy(joules, seconds, advice)
        if changed:
            says = (
                "a process started or ended within the window, and CodeCarbon misses its share: meter lasting ones"
            )
            invalid = (*invalid, Invalid("processes-changed", says))
        if task is None:
            invalid = (Invalid("meter-failed", "CodeCarbon returned no task; see its log"),)
        # Relative to one core's time in the window; work on more cores is resolved better than stated.
        ticks = CLOCK_TICK_SECONDS * (TIMES_READ / 12) ** 0.5
        return Reading(
            joules=joules,
            seconds=seconds,
            uncertainty_joules=abs(joules) * ticks / max(seconds, CLOCK_TICK_SECONDS),
            method=CodeCarbonProcessMeter.method,
            estimated=True,
            invalid=invalid,
            disturbed=disturbed,
        )


FOREIGN_SHARE = 0.1
"""Share of the processor that others may take in a window. Threads that wait for a core taken from them spin,
so their own processor time grows too: at a share of a half, by a half and more."""


class ProcessorTime(NamedTuple):
    """Processor time so far, in seconds.

    Attributes:
        capacity: of all cores together.
        others: taken by other processes, and by other machines on the same host.
    """

    capacity: float
    others: float

    @classmethod
    def now(cls, also_ours: Others) -> "ProcessorTime":
        """Read it, with some processes beside this one and its descendants that are no others."""
        times = psutil.cpu_times()
        idle = times.idle + getattr(times, "iowait", 0.0)
        guests = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)  # in user and nice already
        capacity = sum(times) - guests
        return cls(capacity, capacity - idle - _own_seconds(also_ours))

    def disturbance(self, later: "ProcessorTime") -> tuple[Invalid, ...]:
        """Whether others took so much since that the work was disturbed."""
        capacity = later.capacity - self.capacity
        share = (later.others - self.others) / capacity if capacity > 0 else 0.0
        if share <= FOREIGN_SHARE:
            return ()
        return (Invalid("foreign-load", f"other processes took {share:.0%} of the processor in the window"),)


def _own_seconds(also: Others) -> float:
    """Processor time of this process, its descendants, and others that are metered with it."""
    seconds = 0.0
    for pid in _own_processes(also):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            times = psutil.Process(pid).cpu_times()
            seconds += times.user + times.system
    return seconds


def _own_processes(also: Others) -> frozenset[int]:
    """This process, its descendants, and others that are metered with it."""
    own = psutil.Process()
    return frozenset((own.pid, *(child.pid for child in own.children(recursive=True)), *also()))
