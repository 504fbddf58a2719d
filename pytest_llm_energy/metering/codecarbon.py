"""CodeCarbon's estimate of this process tree: TDP times its share of the processor's time.

Its tracker runs here, in the process that meters, not inside the busy worker: from there its figures repeat;
inside the worker they scattered by half. Only the CPU's part is taken, because its RAM part is a constant per
gigabyte. ``pue`` is 1: joules of the processor, not of the building.
"""

import contextlib
import logging
import threading
import warnings
from typing import Any, NamedTuple

import psutil

from pytest_llm_energy.errors import MeterError
from pytest_llm_energy.metering.meter import Invalid, Reading, no_energy

JOULES_PER_KWH = 3.6e6

CLOCK_TICK_SECONDS = 0.01
"""Resolution of a process's CPU time in /proc (USER_HZ = 100)."""

STOP_SECONDS = 3.0
"""Longest wait for a tracker whose window is abandoned; it takes milliseconds."""

TIMES_READ = 4
"""User and system time, at either end of a window: each is cut off to a whole tick."""


class CodeCarbonMeter:
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
            MeterError: CodeCarbon is not installed, or finds no processor to estimate.
        """
        logging.getLogger("codecarbon").setLevel(logging.CRITICAL)
        try:
            import codecarbon
        except ImportError as error:
            raise MeterError(
                "this host has no GPU counter and no readable RAPL, and CodeCarbon, which could estimate, is not "
                "installed: pip install 'pytest-llm-energy[codecarbon]'"
            ) from error
        self._make: Any = codecarbon.OfflineEmissionsTracker
        self._tracker = self._new_tracker()
        self._tasks = 0
        self._open = False
        self.source = f"CodeCarbon {codecarbon.__version__}, process mode, CPU's share, pue 1"
        self.open().close(0.0, 1.0)  # the first task sets the hardware up, for half a second

    def open(self) -> "_TaskWindow":
        """Start a task.

        Raises:
            MeterError: a window is open already; CodeCarbon has one task at a time.
        """
        if self._open:
            raise MeterError("CodeCarbon meters one window at a time: close the one that is open first")
        self._open = True
        self._tasks += 1
        name = f"window-{self._tasks}"
        self._tracker.start_task(name)
        return _TaskWindow(self, self._tracker, name)

    def closed(self) -> None:
        """A window was closed: the next may open."""
        self._open = False

    def stop_abandoned(self, name: str) -> None:
        """End the task of a window whose work failed; a new tracker takes over where the old one does not answer.

        CodeCarbon's scheduler takes its lock without releasing it when it is interrupted (Ctrl-C) in between, and
        would be waited for without end.
        """
        stopping = threading.Thread(target=self._tracker.stop_task, args=(name,), daemon=True)
        stopping.start()
        stopping.join(STOP_SECONDS)
        if stopping.is_alive():
            self._tracker = self._new_tracker()
        self.closed()

    def shutdown(self) -> None:
        """Nothing runs between windows: tasks end with them, and the tracker's timers are daemons."""

    def _new_tracker(self) -> Any:
        with warnings.catch_warnings():
            # save_to_file is deprecated from 3.3 on, and the only name before.
            warnings.simplefilter("ignore", DeprecationWarning)
            return self._make(
                country_iso_code="USA",  # asked for, but only grams depend on it
                tracking_mode="process",
                pue=1,
                save_to_file=False,
                allow_multiple_runs=True,
                measure_power_secs=3600,  # tasks measure at their ends
                log_level="critical",
            )


class _TaskWindow:
    def __init__(self, meter: CodeCarbonMeter, tracker: Any, name: str) -> None:
        self._meter = meter
        self._tracker = tracker
        self._name = name
        self._before = ProcessorTime.now()
        self._processes = _own_processes()

    def abandon(self) -> None:
        self._meter.stop_abandoned(self._name)

    def close(self, started: float, ended: float) -> Reading:
        changed = self._processes != _own_processes()
        disturbed = self._before.disturbance(ProcessorTime.now())
        task = self._tracker.stop_task(self._name)
        self._meter.closed()
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
            method=self._meter.method,
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
    def now(cls) -> "ProcessorTime":
        """Read it."""
        times = psutil.cpu_times()
        idle = times.idle + getattr(times, "iowait", 0.0)
        guests = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)  # in user and nice already
        capacity = sum(times) - guests
        return cls(capacity, capacity - idle - _own_seconds())

    def disturbance(self, later: "ProcessorTime") -> tuple[Invalid, ...]:
        """Whether others took so much since that the work was disturbed."""
        capacity = later.capacity - self.capacity
        share = (later.others - self.others) / capacity if capacity > 0 else 0.0
        if share <= FOREIGN_SHARE:
            return ()
        return (Invalid("foreign-load", f"other processes took {share:.0%} of the processor in the window"),)


def _own_seconds() -> float:
    """Processor time of this process and its descendants."""
    seconds = 0.0
    for pid in _own_processes():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            times = psutil.Process(pid).cpu_times()
            seconds += times.user + times.system
    return seconds


def _own_processes() -> frozenset[int]:
    """This process and its descendants."""
    own = psutil.Process()
    return frozenset((own.pid, *(child.pid for child in own.children(recursive=True))))
