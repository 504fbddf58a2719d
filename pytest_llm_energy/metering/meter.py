"""The meter protocol: open a window, run the work, close it, get a reading with its uncertainty."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import msgspec

InvalidCode = Literal[
    "counter-reset",
    "counter-wrapped",
    "device-lost",
    "foreign-load",
    "foreign-process",
    "meter-failed",
    "mig-on",
    "no-energy",
    "no-power",
    "no-time",
    "not-idle",
    "nvml-error",
    "odd-ticks",
    "outside-window",
    "power-brake",
    "processes-changed",
    "stale-counter",
    "thermal-slowdown",
    "witness-blind",
    "witness-disagrees",
]
"""Why a reading does not count, or had better be taken again; stable, since journals hold them."""


class Invalid(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why a reading does not count.

    Attributes:
        code: reason code.
        says: a sentence that tells the reader what happened and what to do.
    """

    code: InvalidCode
    says: str


class DeviceReading(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Joules of one device in a window.

    Attributes:
        device: its UUID, or the name of the processor package.
        joules: energy of the whole device.
        memory_joules: the part that its memory drew, where the device tells.
    """

    device: str
    joules: float
    memory_joules: float | None = None


class Reading(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Joules of one metered window.

    Attributes:
        joules: energy of all metered devices within the window.
        seconds: length of the window, from start of the work to its end (monotonic clock).
        uncertainty_joules: one standard deviation of the metering itself, not of the work.
        method: how it was metered, such as ``nvml-counter`` or ``codecarbon-process``.
        estimated: true where the figure is modelled from load rather than measured as energy.
        devices: the parts by device, where the meter can tell them apart.
        invalid: reasons why the reading must not count; empty for a valid one.
        disturbed: reasons why it had better be taken again; it counts when repeating does not help.
    """

    joules: float
    seconds: float
    uncertainty_joules: float
    method: str
    estimated: bool = False
    devices: tuple[DeviceReading, ...] = ()
    invalid: tuple[Invalid, ...] = ()
    disturbed: tuple[Invalid, ...] = ()

    @property
    def valid(self) -> bool:
        """Whether the reading counts."""
        return not self.invalid

    @property
    def watts(self) -> float:
        """Mean power within the window."""
        return self.joules / self.seconds


@dataclass(frozen=True)
class Steady:
    """A reading of a window within a load that lasts, with when the window was (monotonic seconds)."""

    reading: Reading
    started: float
    ended: float


class Window(Protocol):
    """An open window of a meter."""

    def close(self, started: float, ended: float) -> Reading:
        """Close the window around work that ran from ``started`` to ``ended`` (monotonic seconds)."""

    def abandon(self) -> None:
        """Let go of a window whose work failed."""


class Meter(Protocol):
    """Something that measures joules of windows on fixed devices.

    Attributes:
        method: value of ``Reading.method``.
        estimated: value of ``Reading.estimated``.
        source: one line for reports: instrument, version, what it covers.
    """

    method: str
    estimated: bool
    source: str

    def open(self) -> Window:
        """Begin a window; returns when the work may start.

        Raises:
            MeterError: the devices cannot be read.
        """

    def steady(self, seconds: float) -> Steady:
        """Meter a load that lasts, for at least so long; returns when the window is over, the load still on.

        Raises:
            MeterError: the devices cannot be read.
        """

    def shutdown(self) -> None:
        """Give back what the meter holds."""


def between_reads(open_window: Callable[[], Window], seconds: float) -> Steady:
    """A steady window of a meter whose reads are right under load too: it lasts from one read to the other."""
    asked = time.monotonic()
    window = open_window()
    opened = time.monotonic()
    try:
        time.sleep(seconds)
    except BaseException:
        window.abandon()
        raise
    closing = time.monotonic()
    reading = window.close(opened, closing)
    closed = time.monotonic()
    # A read is of some moment of the call, taken for its middle.
    started, ended = (asked + opened) / 2, (closing + closed) / 2
    unsure = reading.watts * math.hypot(opened - asked, closed - closing) / math.sqrt(12)
    reading = msgspec.structs.replace(
        reading, seconds=ended - started, uncertainty_joules=math.hypot(reading.uncertainty_joules, unsure)
    )
    return Steady(reading, started, ended)


def no_energy(joules: float, seconds: float, advice: str) -> tuple[Invalid, ...]:
    """The reasons a difference of counters is invalid: energy only ever grows, and work costs some."""
    if seconds <= 0:
        return (Invalid("no-time", "the window has no length: the work reported no duration"),)
    if joules > 0:
        return ()
    if joules < 0:
        return (Invalid("counter-reset", f"energy went backwards by {-joules:.3g} J: {advice}"),)
    return (Invalid("no-energy", f"no energy was recorded in {seconds:.3g} s of work: {advice}"),)
