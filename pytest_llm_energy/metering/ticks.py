"""When an energy counter advances: a grid of ticks, found once and then known without watching.

On an H200 (driver 580.159.04) the counter advances every 100.000 ms of the host's monotonic clock: over 430 s the
ticks stayed on one grid, half of them within 1.5 ms as seen through reads that take 3 ms.
"""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from pytest_llm_energy.metering.clock import Clock

PERIOD_SECONDS = 0.1

JITTER_SECONDS = 0.0005
"""Standard deviation of the moment a tick's energy is of, against the grid: copies of 100 ms on an H200 scatter by
0.13 J in all, a millisecond of idle power."""

ODD = 0.1
"""Relative deviation of the interval from PERIOD_SECONDS that is too much; on an H200 single ones are 3 % off."""

GUARD_SECONDS = 0.006
"""A read that overlaps a tick by less than this could have seen either side of it."""

VALID_SECONDS = 120.0
"""A grid is trusted this long: the two clocks drift apart by 5 microseconds a second."""


Bracket = tuple[float, float]
"""Between these a tick came: when the last read of the old value began, when the first of the new one
returned."""


class CounterError(Exception):
    """The counter does not behave as one that ticks every PERIOD_SECONDS."""


class StaleCounterError(CounterError):
    """It does not advance."""


class OddTicksError(CounterError):
    """It ticks at other intervals."""


@dataclass(frozen=True)
class TickGrid:
    """Ticks at ``phase + n * PERIOD_SECONDS``.

    Attributes:
        phase: a moment of the monotonic clock at which the counter advanced.
        found: when that was found out.
    """

    phase: float
    found: float

    def before(self, moment: float) -> float:
        """The last tick at or before a moment."""
        return self.phase + math.floor((moment - self.phase) / PERIOD_SECONDS) * PERIOD_SECONDS

    def after(self, moment: float) -> float:
        """The first tick after a moment."""
        return self.before(moment) + PERIOD_SECONDS

    def seen_by(self, begun: float, ended: float) -> float | None:
        """The tick whose value a read saw; None when it came too close to a tick to tell.

        Args:
            begun: when the read began.
            ended: when it returned.
        """
        tick = self.before(begun)
        if begun - tick < GUARD_SECONDS or self.after(begun) - ended < GUARD_SECONDS:
            return None
        return tick


def watch(read: Callable[[], float], clock: Clock, *, count: int) -> list[Bracket]:
    """Read a counter without pause until it has ticked so many times.

    Raises:
        StaleCounterError: it stands still.
    """
    brackets: list[Bracket] = []
    started = begun = clock.monotonic()
    joules = read()
    while len(brackets) < count:
        if clock.monotonic() - started > (count + 5) * PERIOD_SECONDS:
            raise StaleCounterError("the energy counter stands still")
        last, begun = begun, clock.monotonic()
        if (later := read()) != joules:
            brackets.append((last, clock.monotonic()))
            joules = later
    return brackets


def grid_from(brackets: Sequence[Bracket], *, now: float) -> TickGrid:
    """The grid through ticks known to lie between pairs of moments.

    Args:
        brackets: one for each tick observed.
        now: the time of finding.

    Raises:
        ValueError: there is no bracket.
        OddTicksError: the ticks come at other intervals than PERIOD_SECONDS.
    """
    if not brackets:
        raise ValueError("no tick was observed")
    moments = [(low + high) / 2 for low, high in brackets]
    period = statistics.median(later - earlier for earlier, later in pairwise(moments)) if moments[1:] else None
    if period is not None and abs(period / PERIOD_SECONDS - 1) > ODD:
        raise OddTicksError(f"the energy counter ticks every {period * 1e3:.3g} ms, not {PERIOD_SECONDS * 1e3:g}")
    # The tightest bracket anchors the grid; the others correct it by their median offset, which a late one
    # among them does not move.
    anchor = min(brackets, key=lambda pair: pair[1] - pair[0])
    phase = (anchor[0] + anchor[1]) / 2
    offsets = []
    for low, high in brackets:
        offset = (low + high) / 2 - phase
        offsets.append(offset - round(offset / PERIOD_SECONDS) * PERIOD_SECONDS)
    return TickGrid(phase + statistics.median(offsets), now)
