"""CodeCarbon's tracker, by tasks: what its meters share, whichever part of its answer they take.

``pue`` is 1: joules of the device, not of the building.
"""

import contextlib
import logging
import threading
import warnings
from collections.abc import Callable, Iterable
from importlib.metadata import version
from typing import Any, Protocol

import psutil

from pytest_llm_energy.errors import MeterError

JOULES_PER_KWH = 3.6e6

STOP_SECONDS = 3.0
"""Longest wait for a tracker whose window is abandoned; it takes milliseconds."""


class Task(Protocol):
    """Energy of a task, in kWh, by part."""

    cpu_energy: float
    gpu_energy: float


class Tracker(Protocol):
    """The part of CodeCarbon's tracker that is needed."""

    def start_task(self, task_name: str) -> None:
        """Begin a task."""

    def stop_task(self, task_name: str) -> Task | None:
        """End it; None where it was not running."""


MakeTracker = Callable[[], Tracker]


def offline_tracker(**what: Any) -> MakeTracker:
    """How to make a tracker that asks no network and writes no file.

    Args:
        **what: options of the tracker that say what it tracks.

    Raises:
        MeterError: CodeCarbon is not installed.
    """
    try:
        import codecarbon
    except ImportError as error:
        raise MeterError("CodeCarbon is not installed: pip install 'pytest-llm-energy[codecarbon]'") from error
    logging.getLogger("codecarbon").setLevel(logging.CRITICAL)  # importing it has set another
    kind: Any = codecarbon.OfflineEmissionsTracker

    def make() -> Tracker:
        with warnings.catch_warnings():
            # save_to_file is deprecated from 3.3 on, and the only name before.
            warnings.simplefilter("ignore", DeprecationWarning)
            tracker: Tracker = kind(
                country_iso_code="USA",  # asked for, but only grams depend on it
                pue=1,
                save_to_file=False,
                allow_multiple_runs=True,
                measure_power_secs=3600,  # tasks measure at their ends
                log_level="critical",
                **what,
            )
        return tracker

    return make


def name_and_version() -> str:
    """CodeCarbon as a source line names it."""
    return f"CodeCarbon {version('codecarbon')}"


class _Joined(psutil.Process):
    """This process, with others for children beside its own."""

    def __init__(self, others: Callable[[], Iterable[int]]) -> None:
        super().__init__()
        self._others = others

    def children(self, recursive: bool = False) -> list[psutil.Process]:
        found = super().children(recursive)
        for pid in self._others():
            with contextlib.suppress(psutil.NoSuchProcess):
                found.append(psutil.Process(pid))
        return found


class Tasks:
    """The tasks of a tracker, of which it has one at a time."""

    def __init__(self, make: MakeTracker) -> None:
        """Make the tracker, and run a first task: it sets the hardware up, for half a second."""
        self._make = make
        self._tracker = make()
        self._count = 0
        self._open = False
        self.stop(self.start())

    def start(self) -> str:
        """Begin a task; returns its name.

        Raises:
            MeterError: one is open already.
        """
        if self._open:
            raise MeterError("CodeCarbon meters one window at a time: close the one that is open first")
        self._open = True
        self._count += 1
        name = f"window-{self._count}"
        self._tracker.start_task(name)
        return name

    def follow(self, others: Callable[[], Iterable[int]]) -> None:
        """Count the processor time of other processes too, in process mode.

        CodeCarbon 3.3 has no option for it: its CPU asks the process it tracks for its children.

        Raises:
            MeterError: this version keeps that process elsewhere.
        """
        parts = [part for part in getattr(self._tracker, "_hardware", ()) if hasattr(part, "_process")]
        if not parts:
            raise MeterError(f"{name_and_version()} cannot be told to meter a server's processes: install 3.3")
        for part in parts:
            part._process = _Joined(others)

    def stop(self, name: str) -> Task | None:
        """End a task; None where CodeCarbon returned none. The next may start."""
        task = self._tracker.stop_task(name)
        self._open = False
        return task

    def abandon(self, name: str) -> None:
        """End the task of a window whose work failed; a new tracker takes over where the old one does not answer.

        CodeCarbon's scheduler takes its lock without releasing it when it is interrupted (Ctrl-C) in between, and
        would be waited for without end.
        """
        stopping = threading.Thread(target=self._tracker.stop_task, args=(name,), daemon=True)
        stopping.start()
        stopping.join(STOP_SECONDS)
        if stopping.is_alive():
            self._tracker = self._make()
        self._open = False
