"""From counter values at ticks to the energy of the work between two moments.

The device is idle on both sides of the window. Before it, idle power is known; after it, power decays to idle. What
was drawn outside the work is taken off what the counter says between the ticks around it, and so is what the sensor
is known to count too much where the work starts and ends.
"""

import math
from dataclasses import dataclass

from pytest_llm_energy.metering.sensor import Sensor
from pytest_llm_energy.metering.ticks import JITTER_SECONDS, PERIOD_SECONDS

TICK_NOISE = 0.005
"""Relative standard deviation of one tick's energy under load: windows of matrix products and copies on an H200."""

GAIN_NOISE = 0.002
"""Relative standard deviation of a reading that does not shrink with its length: windows of 4 s of a steady copy on
an H200 scatter by 0.1 to 0.4 %."""

EDGE_SECONDS = 0.0015
"""Standard deviation of the moments at which the load seems to set in and end, both together, where the sensor is
known: what its model leaves of the scatter of short bursts on an H200 is 0.4 to 1.2 ms, and power at the edges may
differ from the mean that the model is fed."""

UNKNOWN_EDGE_SECONDS = 0.003
"""The same where it is not: half of the 20 ms between samples at either edge, smoothed, as seen on an H200."""


UNKNOWN_LAG_SECONDS = 0.025
"""How long a step of power may take to show where the sensor is not known: twice an H200's."""


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
        sensor: what samples between the ticks, None where that is not known.
    """

    idle: tuple[Tick, Tick]
    tail: tuple[Tick, ...]
    sensor: Sensor | None = None


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
    if edges.sensor and ended > started:
        counted = edges.sensor.counted(started, ended, last.at)
        if counted > 0:
            joules -= (counted - (ended - started)) * (joules - idle_watts * (ended - started)) / counted
    return Energy(joules, _uncertainty(edges, started, ended, joules, power_spread_watts), idle_watts)


def energy_within(
    first: tuple[Tick, ...],
    last: tuple[Tick, ...],
    started: float,
    ended: float,
    *,
    sensor: Sensor | None = None,
    power_spread_watts: float = 0.0,
) -> Energy:
    """Energy of a lasting load between two moments, at or between ticks under it.

    Args:
        first: two consecutive ticks, with ``started`` at the first of them or between them.
        last: the same for ``ended``.
        started: when the window begins.
        ended: when it ends.
        sensor: what samples between the ticks, None where that is not known.
        power_spread_watts: standard deviation of the power seen within the window.
    """
    joules = _counted_by(last, ended) - _counted_by(first, started)
    seconds = ended - started
    ticks = max(1.0, seconds / PERIOD_SECONDS)
    jitter = math.hypot(slope(*first), slope(*last)) * JITTER_SECONDS
    steady = TICK_NOISE * abs(joules) / math.sqrt(ticks)
    missed = sensor.interval / math.sqrt(12) if sensor else PERIOD_SECONDS
    # At an edge between two ticks power is taken for constant; what smooths it delays a step into the next tick.
    between = [
        PERIOD_SECONDS / math.sqrt(12) if tick.at != at else 0.0
        for tick, at in ((first[0], started), (last[0], ended))
    ]
    lag = math.sqrt(2) * (sensor.smoothing if sensor else UNKNOWN_LAG_SECONDS)
    fluctuating = power_spread_watts * math.hypot(missed * math.sqrt(ticks), lag, *between)
    uncertainty = math.hypot(jitter, steady, fluctuating, GAIN_NOISE * joules)
    return Energy(joules, uncertainty, 0.0)


def slope(one: Tick, other: Tick) -> float:
    """Mean power between two ticks, in watts."""
    return (other.joules - one.joules) / (other.at - one.at)


def _counted_by(ticks: tuple[Tick, ...], moment: float) -> float:
    """What the counter would say at a moment at or between two ticks."""
    return ticks[0].joules + slope(*ticks) * (moment - ticks[0].at)


def _tail_joules(tail: tuple[Tick, ...], ended: float, idle_watts: float) -> float:
    """Energy from the end of the work to the first tick after it.

    Power is that of the interval after that tick. Where it is well above idle and still is in the next interval, it
    decays, and was higher before: exponentially. What decays faster than that cannot be told from the work, and is
    counted as its part.
    """
    gap = tail[0].at - ended
    first = slope(tail[0], tail[1])
    excess = first - idle_watts
    if len(tail) < 3 or excess <= 5 * _slope_noise(PERIOD_SECONDS) * idle_watts:
        return first * gap
    later = slope(tail[1], tail[2]) - idle_watts
    if not excess / math.e < later < excess:
        return first * gap
    length = tail[1].at - tail[0].at
    rate = math.log(excess / later) / ((tail[2].at - tail[0].at) / 2)
    # With A watts of excess at the end of the work, the first interval holds A/rate * e^(-rate*gap) *
    # (1 - e^(-rate*length)) joules of it, and the gap A/rate * (1 - e^(-rate*gap)).
    whole = excess * length / -math.expm1(-rate * length)
    return idle_watts * gap + whole * math.expm1(rate * gap)


def _slope_noise(seconds: float) -> float:
    """Relative standard deviation of power between two ticks so far apart."""
    return math.hypot(math.sqrt(2) * JITTER_SECONDS / seconds, TICK_NOISE * math.sqrt(PERIOD_SECONDS / seconds))


def _uncertainty(edges: Edges, started: float, ended: float, joules: float, spread: float) -> float:
    """Standard deviations, added in squares: tick moments, idle levels, and sampling within the ticks."""
    before, last = edges.idle
    idle_watts = slope(before, last)
    tail_watts = slope(edges.tail[0], edges.tail[1])
    jitter = math.hypot(idle_watts, tail_watts) * JITTER_SECONDS
    lead = idle_watts * _slope_noise(last.at - before.at) * (started - last.at)
    trail = tail_watts * _slope_noise(PERIOD_SECONDS) * (edges.tail[0].at - ended)
    decay = 0.3 * abs(tail_watts - idle_watts) * (edges.tail[0].at - ended)
    edge = EDGE_SECONDS if edges.sensor else UNKNOWN_EDGE_SECONDS
    edge *= max(0.0, joules / (ended - started) - idle_watts) if ended > started else 0.0
    ticks = max(1.0, (ended - started) / PERIOD_SECONDS)
    steady = TICK_NOISE * abs(joules) / math.sqrt(ticks)
    # A step of power is missed or counted too much by up to half the time between two samples: once a tick, say.
    # Where the sensor is not known, it may sample a quarter of each tick, and the rest is a guess.
    missed = edges.sensor.interval / math.sqrt(12) if edges.sensor else PERIOD_SECONDS
    fluctuating = spread * missed * math.sqrt(ticks)
    return math.sqrt(
        jitter**2
        + lead**2
        + trail**2
        + decay**2
        + edge**2
        + steady**2
        + fluctuating**2
        + (GAIN_NOISE * joules) ** 2
    )
