"""How fast the cores are that an engine's busiest threads sit on: a fixed loop is timed there, again and again."""

import contextlib
import os
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import msgspec

from pytest_llm_energy.metering.clock import Clock

PERIOD_SECONDS = 0.02
"""The loop of 0.1 ms takes 0.5 % of one core then, the one that the engine's thread is on; a whole probe takes
0.9 % (two cores, Linux 6.18). Speeds flip every half second or so (H200 host, 2026-11-22): 25 probes see each."""

ITERATIONS = 2_300
"""About 0.1 ms of CPython 3.11 on a core whose sibling rests."""

LEAST_PROBES = 10
"""Fewer are of less than 0.2 s of a window, and say little of the rest of it."""

SCAN_SECONDS = 1.0
"""Threads of the processes are looked at so often: 25 to 75 us each (two cores, idle and busy, Linux 6.18)."""

EARLY_SCAN_SECONDS = 0.2
"""After a window's first scan, while nobody is known, when a thread has gone: 20 of the kernel's ticks will do."""

TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
"""Of the kernel's clock, per second."""

UNREADABLE = (OSError, ValueError, IndexError)
"""What reading a thread's file raises when the thread has ended, is hidden, or this is no Linux."""


class Host(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The host's processors in a window.

    Attributes:
        loop_seconds: processor time of the loop at its mean speed on the cores that served.
        busy_cores: processor time of the engine's processes, over the time of the window.
        cores: how many they may use.
    """

    loop_seconds: float
    busy_cores: float
    cores: int


class ThreadStat(NamedTuple):
    """Processor time of a thread so far, in the kernel's clock ticks, and the core that it is on or was on last."""

    ticks: int
    core: int

    @classmethod
    def read(cls, file: Path) -> "ThreadStat":
        """Read ``/proc/<pid>/task/<tid>/stat``: fields 14, 15 and 39 of proc(5).

        Raises:
            OSError, ValueError, IndexError: it cannot be read; see ``UNREADABLE``.
        """
        fields = file.read_bytes().rpartition(b")")[2].split()  # a name may hold spaces and parentheses
        return cls(ticks=int(fields[11]) + int(fields[12]), core=int(fields[36]))


def fixed_loop() -> float:
    """Seconds of processor time that a fixed piece of work takes where the calling thread is.

    Waits for Python's lock, or for the core, are not among them.
    """
    started = time.thread_time_ns()
    total = 0
    for i in range(ITERATIONS):
        total += i * i
    return (time.thread_time_ns() - started) / 1e9


def move_here(core: int) -> None:
    """Move the calling thread to a core, and keep it there.

    Raises:
        OSError: this process may not use that core, or the platform moves no threads.
    """
    if not hasattr(os, "sched_setaffinity"):
        raise OSError("this platform does not let a thread choose its core")
    os.sched_setaffinity(0, {core})


def usable_cores() -> int:
    """How many cores this process, and what it starts, may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class HostSpeed:
    """Times the loop on the cores of an engine's busiest threads while a window is open.

    It tells of the host, not of the work: the loop is slower where a core's sibling is busy, whoever runs there.
    """

    def __init__(
        self,
        processes: Callable[[], Iterable[int]],
        clock: Clock,
        *,
        threads: int = 1,
        proc: Path = Path("/proc"),
        loop: Callable[[], float] = fixed_loop,
        move: Callable[[int], None] = move_here,
        cores: Callable[[], int] = usable_cores,
    ) -> None:
        """Nothing is looked at before a window begins.

        Args:
            processes: ids of the engine's processes, asked for when a window begins.
            clock: what repeats the probes.
            threads: how many of the busiest threads are followed, in turn: one per device.
            proc: where the kernel tells of processes.
            loop: does the work, and returns its processor time in seconds.
            move: moves the calling thread to a core; raises OSError for one that it may not use.
            cores: how many the engine may use.
        """
        self._processes = processes
        self._clock = clock
        self._threads = threads
        self._proc = proc
        self._loop = loop
        self._move = move
        self._cores = cores
        self._window: _Window | None = None
        self._ready: _Threads | None = None
        self._known: tuple[Path, ...] = ()

    def prepare(self) -> None:
        """Look at all threads before a window is open; else ``begin`` does, in which it may take milliseconds."""
        tasks = [self._proc / str(pid) / "task" for pid in self._processes()]
        self._ready = _Threads(tasks, self._known, self._threads, self._clock)

    def begin(self) -> None:
        """Start probing; a window that was not ended is given up."""
        self.end()
        if self._ready is None:
            self.prepare()
        assert self._ready is not None
        self._window = _Window(self._ready, self._clock, self._loop, self._move)
        self._ready = None

    def end(self) -> Host | None:
        """Stop probing.

        Returns:
            None when there were fewer than ``LEAST_PROBES`` (too short, nobody busy, a platform that does not
            tell), and when no window is open.
        """
        window, self._window = self._window, None
        if window is None:
            return None
        probes = window.close()
        self._known = window.threads.busiest
        if len(probes) < LEAST_PROBES:
            return None
        # Work that was done at these speeds took as long as at their mean, which is that of the harmonic mean.
        return Host(
            loop_seconds=statistics.harmonic_mean(probes), busy_cores=window.busy_cores, cores=self._cores()
        )


class _Threads:
    """Which threads are the busiest, as far as is known.

    They are looked for in another thread than that of the probes, which sits on the engine's core: reading hundreds
    of files there would keep the engine waiting for milliseconds.
    """

    def __init__(self, tasks: list[Path], known: tuple[Path, ...], most: int, clock: Clock) -> None:
        self._tasks = tasks
        self._most = most
        self._clock = clock
        self._ticks = self._read()
        self._due = clock.monotonic()
        self.busiest = tuple(thread for thread in known if thread in self._ticks)
        self.lost = False

    def seconds(self) -> float:
        """Processor time of the processes so far, that of threads that have ended included."""
        ticks = 0
        for task in self._tasks:
            with contextlib.suppress(*UNREADABLE):
                ticks += ThreadStat.read(task.parent / "stat").ticks
        return ticks / TICKS

    def look(self) -> None:
        """Scan when it is time, or when something is amiss."""
        if not self.lost and self.busiest and self._clock.monotonic() < self._due:
            return
        self.lost = False
        before, self._ticks = self._ticks, self._read()
        self._due = self._clock.monotonic() + SCAN_SECONDS
        grown = {thread: ticks - before.get(thread, 0) for thread, ticks in self._ticks.items()}
        busy = sorted((thread for thread in grown if grown[thread] > 0), key=lambda each: -grown[each])
        self.busiest = tuple(busy[: self._most]) or tuple(each for each in self.busiest if each in self._ticks)

    def _read(self) -> dict[Path, int]:
        """Ticks so far, by file of the thread."""
        found = {}
        for task in self._tasks:
            with contextlib.suppress(OSError):  # the process has ended
                for thread in task.iterdir():
                    with contextlib.suppress(*UNREADABLE):
                        found[thread / "stat"] = ThreadStat.read(thread / "stat").ticks
        return found


class _Window:
    def __init__(
        self, threads: _Threads, clock: Clock, loop: Callable[[], float], move: Callable[[int], None]
    ) -> None:
        self.threads = threads
        self._loop = loop
        self._move = move
        self._core: int | None = None
        self._turn = 0
        self._probes: list[float] = []
        self._clock = clock
        self._begun, self._spent = clock.monotonic(), threads.seconds()
        self.busy_cores = 0.0
        self._stops = (clock.repeat(PERIOD_SECONDS, self._probe), clock.repeat(EARLY_SCAN_SECONDS, threads.look))

    def close(self) -> tuple[float, ...]:
        elapsed = self._clock.monotonic() - self._begun
        self.busy_cores = (self.threads.seconds() - self._spent) / max(elapsed, 1e-3)
        for stop in self._stops:
            stop()
        return tuple(self._probes)

    def _probe(self) -> None:
        busiest = self.threads.busiest
        if not busiest:
            return
        self._turn += 1
        try:
            core = ThreadStat.read(busiest[self._turn % len(busiest)]).core
        except UNREADABLE:
            self.threads.lost = True
            return
        with contextlib.suppress(OSError):  # a core that is not ours to use
            if core != self._core:
                self._move(core)
                self._core = core
            self._probes.append(self._loop())
