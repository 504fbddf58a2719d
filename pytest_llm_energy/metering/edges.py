"""From counter values at ticks to the energy of the work between two moments.

The device is idle on both sides of the window. Before it, idle power is known; after it, power decays to idle. What
was drawn outside the work is taken off what the counter says between the ticks around it.
"""

import math
from dataclasses import dataclass

from pytest_llm_energy.metering.ticks import JITTER_SECONDS, PERIOD_SECONDS

TICK_NOISE = 0.007
"""Relative standard deviation of one tick's energy under steady load: a device samples its power for a part of each
tick only. From windows of a steady copy kernel on an H200: 0.5 %, and 0.75 % for matrix products."""


@dataclass(frozen=True)
class Tick:
    """The counter's value as of a tick.

    Attributes:
        at: the tick, in monotonic seconds.
        joules: what the counter said then.
    """

    at: float
    joules: float


@dataclass(frozen=True)
class Edges:
    """What was read around a window.

    Attributes:
        idle: two ticks before the work, with nothing running between them.
        tail: two or three consecutive ticks after the work.
    """

    idle: tuple[Tick, Tick]
    tail: tuple[Tick, ...]


@dataclass(frozen=True)
class Energy:
    """Energy of the work, with one standard deviation of its metering."""

    joules: float
    uncertainty: float
    idle_watts: float


def energy(edges: Edges, started: float, ended: float, *, power_spread_watts: float = 0.0) -> Energy:
    """Energy between two moments.

    Args:
        edges: ticks before ``started`` and after ``ended``.
        started: when the work began.
        ended: when it was complete.
        power_spread_watts: standard deviation of the power seen within the window; a device that samples a part of
            each tick knows a fluctuating load less well.
    """
    before, last = edges.idle
    first = edges.tail[0]
    idle_watts = slope(before, last)
    lead = idle_watts * (started - last.at)
    tail = _tail_joules(edges.tail, ended, idle_watts)
    joules = first.joules - last.joules - lead - tail
    return Energy(joules, _uncertainty(edges, started, ended, joules, power_spread_watts), idle_watts)


def slope(one: Tick, other: Tick) -> float:
    """Mean power between two ticks, in watts."""
    return (other.joules - one.joules) / (other.at - one.at)


def _tail_joules(tail: tuple[Tick, ...], ended: float, idle_watts: float) -> float:
    """Energy from the end of the work to the first tick after it: power decays exponentially to the idle level.

    With three ticks, the excess over idle of the two intervals gives the decay; with two, or where the excess is
    within the noise, power is that of the first interval throughout.
    """
    gap = tail[0].at - ended
    first = slope(tail[0], tail[1])
    excess = first - idle_watts
    noise = 4 * idle_watts * JITTER_SECONDS * math.sqrt(2) / PERIOD_SECONDS
    if len(tail) < 3 or excess <= noise:
        return first * gap
    later = max(slope(tail[1], tail[2]) - idle_watts, 0.02 * excess)
    if later >= excess:
        return first * gap
    rate = math.log(excess / later) / PERIOD_SECONDS
    # With A watts of excess at the end of the work, the first interval holds A/rate * e^(-rate*gap) *
    # (1 - e^(-rate*PERIOD)) joules of it, and the gap A/rate * (1 - e^(-rate*gap)).
    whole = excess * PERIOD_SECONDS / (1 - math.exp(-rate * PERIOD_SECONDS))
    return idle_watts * gap + whole * math.expm1(min(rate * gap, 3.0))


def _uncertainty(edges: Edges, started: float, ended: float, joules: float, spread: float) -> float:
    """Standard deviations, added in squares: tick moments, idle levels, and sampling within the ticks."""
    before, last = edges.idle
    idle_watts = slope(before, last)
    tail_watts = slope(edges.tail[0], edges.tail[1])
    jitter = math.hypot(idle_watts, tail_watts) * JITTER_SECONDS
    slope_sd = math.sqrt(2) * JITTER_SECONDS
    lead = idle_watts * slope_sd / (last.at - before.at) * (started - last.at)
    trail = tail_watts * slope_sd / PERIOD_SECONDS * (edges.tail[0].at - ended)
    decay = 0.3 * abs(tail_watts - idle_watts) * (edges.tail[0].at - ended)
    ticks = max(1.0, (ended - started) / PERIOD_SECONDS)
    steady = TICK_NOISE * abs(joules) / math.sqrt(ticks)
    fluctuating = spread * PERIOD_SECONDS * math.sqrt(ticks)
    return math.sqrt(jitter**2 + lead**2 + trail**2 + decay**2 + steady**2 + fluctuating**2)
