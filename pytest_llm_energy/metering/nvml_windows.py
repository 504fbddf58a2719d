"""Windows of the NVML meter: around work that begins and ends on idle devices, and within a load that lasts.

Before and after work, devices are idle: what they draw then is known, and is taken off. Within a lasting load
nothing needs to be taken off where a window begins and ends at ticks of the counter.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pytest_llm_energy.metering import witness
from pytest_llm_energy.metering.edges import Edges, Energy, Tick, energy, energy_within, slope
from pytest_llm_energy.metering.meter import DeviceReading, Invalid, InvalidCode, Reading, Steady
from pytest_llm_energy.metering.ticks import PERIOD_SECONDS, CounterError

if TYPE_CHECKING:
    from pytest_llm_energy.metering.nvml import NvmlMeter

LAG_SECONDS = 0.06
"""From this long after the work on, a tick holds all of it: the sensor smooths power over 12 ms on an H200."""

SETTLED_WATTS = 5.0
"""Idle power that differs by less from one tick to the next is settled: ticks of an idle H200 scatter by 2 W."""

CLOCK_SLACK_SECONDS = 0.001

SLACK_SECONDS = 0.01
"""A window under load may be shorter by this, so that one of whole ticks ends at a tick."""

POWER_UNCERTAINTY = 0.03
"""Relative, for integrated instant power beside its edges: it is sampled for a quarter of the time."""


class _Watched:
    """What both kinds share: trouble as it is found, a witness, and its comparison with the counter."""

    def __init__(self, meter: "NvmlMeter") -> None:
        self._meter = meter
        self.trouble: list[Invalid] = []

    def watch(self) -> None:
        """Begin to sample power, clock events and processes."""
        self._witness = self._meter.begin_watching()

    def abandon(self) -> None:
        """Stop watching."""
        self._witness.stop()

    def _conclude(self, records: dict[str, witness.Record]) -> None:
        """Add what was seen of the devices' conditions."""
        if not self.trouble:
            try:
                self.trouble += self._meter.conditions_after(records)
            except self._meter.nvml.NVMLError as error:
                self.trouble.append(self._meter.explain(error))

    def _reading(self, parts: list[tuple[DeviceReading, float]], seconds: float) -> Reading:
        return Reading(
            joules=sum(part.joules for part, _ in parts),
            seconds=seconds,
            uncertainty_joules=math.hypot(*(uncertainty for _, uncertainty in parts)),
            method=self._meter.method,
            devices=tuple(part for part, _ in parts),
            invalid=tuple(self.trouble),
        )

    def _require_energy(self, uuid: str, joules: float, seconds: float) -> None:
        if joules <= 0 and not self.trouble:
            code: InvalidCode = "counter-reset" if joules < 0 else "no-energy"
            says = "was the driver reloaded within the window?" if joules < 0 else "did the work run there?"
            self.trouble.append(Invalid(code, f"{uuid}: {joules:.3g} J in {seconds:.3g} s: {says}"))

    def _integrated(self, uuid: str, record: witness.Record, joules: float | None, blind: str | None) -> Energy:
        """Energy by integrating instant power: for a device without a counter."""
        idle = min(record.watts, default=0.0)
        if blind is not None and joules is not None:
            says = f"power was not read throughout ({blind}): run again"
            self.trouble.append(Invalid("witness-blind", f"{uuid}: {says}"))
        if joules is None:
            self.trouble.append(Invalid("no-power", f"{uuid}: no power was read within the window: {record.error}"))
            return Energy(0.0, 0.0, idle)
        return integrated(joules, peak_watts=record.peak(), idle_watts=idle)

    def _compare(
        self, uuid: str, found: Energy, record: witness.Record, seen: float | None, *, when: "When"
    ) -> None:
        """Counter and witness must agree within what the witness can see."""
        if not record.watts and record.error is None:
            return  # a device that does not tell its power
        blind = record.blind(*when) or ("too few samples" if seen is None else None)
        if blind is not None:
            says = f"instant power and clock events were not watched ({blind}): is the host overloaded? Run again"
            self.trouble.append(Invalid("witness-blind", f"{uuid}: {says}"))
        if seen is None or found.joules <= 0:
            return
        highest = max(record.peak(), found.joules / (when[1] - when[0]))
        edges = 1.5 * witness.EDGE_SECONDS * max(0.0, highest - found.idle_watts)
        unsure = max(found.uncertainty, record.missed(*when))
        bound = witness.DISAGREEMENT * found.joules + edges + 4 * unsure
        if abs(seen - found.joules) > bound:
            says = (
                f"counter {found.joules:.4g} J, integrated power {seen:.4g} J, at most {bound:.3g} J apart expected"
            )
            self.trouble.append(Invalid("witness-disagrees", f"{uuid}: {says}; run again, and llm-energy doctor"))


When = tuple[float, float]
"""Between two moments of the clock."""


class IdleWindow(_Watched):
    """A window that opens and closes on idle devices."""

    def __init__(self, meter: "NvmlMeter") -> None:
        super().__init__(meter)
        self.idle: dict[str, tuple[Tick, Tick]] = {}
        self.opened = 0.0

    def close(self, started: float, ended: float) -> Reading:
        """Wait for ticks after the work, up to 0.4 s, and take off what was drawn outside it."""
        meter = self._meter
        tails: dict[str, tuple[Tick, ...]] = {}
        if started < self.opened - CLOCK_SLACK_SECONDS or ended > meter.clock.monotonic() + CLOCK_SLACK_SECONDS:
            says = (
                "the work says it ran outside its window: is the engine on this host, and on its monotonic clock?"
            )
            self.trouble.append(Invalid("outside-window", says))
        try:
            if not self.trouble:
                tails = self._tails(ended)
                meter.remember_idle(tails)
                if len(meter.counted) < len(meter.handles):
                    meter.clock.sleep(ended + 2 * witness.EDGE_SECONDS - meter.clock.monotonic())
        except (meter.nvml.NVMLError, CounterError) as error:
            self.trouble.append(meter.explain(error))
        finally:
            records = self._witness.stop()
        self._conclude(records)
        if ended <= started:
            self.trouble.append(Invalid("no-time", "the window has no length: the work reported no duration"))
        parts = [] if self.trouble else [self._part(u, tails, records[u], (started, ended)) for u in meter.handles]
        return self._reading(parts, ended - started)

    def _tails(self, ended: float) -> dict[str, tuple[Tick, ...]]:
        """Two ticks after the work; a third where power has not yet come down to idle."""
        if not self._meter.counted:
            return {}
        tails = self._meter.ticks(ended + LAG_SECONDS, 2)
        if any(slope(*tails[uuid]) - slope(*self.idle[uuid]) > SETTLED_WATTS for uuid in tails):
            more = self._meter.ticks(next_after(tails), 1)
            tails = {uuid: (*tail, *more[uuid]) for uuid, tail in tails.items()}
        return tails

    def _part(
        self, uuid: str, tails: dict[str, tuple[Tick, ...]], record: witness.Record, when: When
    ) -> tuple[DeviceReading, float]:
        if uuid not in tails:
            seen = record.joules(*when, min(record.watts, default=0.0))
            found = self._integrated(uuid, record, seen, record.blind(*when))
        else:
            edges = Edges(self.idle[uuid], tails[uuid], self._meter.sensors[uuid])
            found = energy(edges, *when, power_spread_watts=record.spread(*when))
            self._compare(uuid, found, record, record.joules(*when, found.idle_watts), when=when)
        self._require_energy(uuid, found.joules, when[1] - when[0])
        memory_joules = record.memory_joules(*when)
        return DeviceReading(device=uuid, joules=found.joules, memory_joules=memory_joules), found.uncertainty


class LoadWindow(_Watched):
    """A window within a load that lasts: it begins and ends at ticks, of that counter which is the last to tick."""

    def meter(self, seconds: float) -> Steady:
        """Meter the load for at least so long; returns when the window is over."""
        meter = self._meter
        begun = meter.clock.monotonic()
        first: dict[str, tuple[Tick, ...]] = {}
        last: dict[str, tuple[Tick, ...]] = {}
        when = (begun, begun)
        try:
            meter.find_ticks()
            self.trouble += meter.conditions_before()
            self.watch()
        except (meter.nvml.NVMLError, CounterError) as error:
            self.trouble.append(meter.explain(error))
            return Steady(self._reading([], 0.0), begun, meter.clock.monotonic())
        try:
            if not self.trouble:
                first = meter.ticks(meter.clock.monotonic(), 2)
                started = _common(first, meter.clock.monotonic())
                least = started + seconds - SLACK_SECONDS
                meter.clock.sleep(least - meter.clock.monotonic())
                last = meter.ticks(least, 2)
                when = started, _common(last, started + seconds)
                # What was drawn up to the end is told up to a tick later.
                meter.clock.sleep(when[1] + 2 * witness.EDGE_SECONDS - meter.clock.monotonic())
        except (meter.nvml.NVMLError, CounterError) as error:
            self.trouble.append(meter.explain(error))
        finally:
            records = self._witness.stop()
        self._conclude(records)
        if self.trouble:
            return Steady(self._reading([], 0.0), begun, meter.clock.monotonic())
        parts = [self._part(uuid, first, last, records[uuid], when) for uuid in meter.handles]
        return Steady(self._reading(parts, when[1] - when[0]), *when)

    def _part(
        self,
        uuid: str,
        first: dict[str, tuple[Tick, ...]],
        last: dict[str, tuple[Tick, ...]],
        record: witness.Record,
        when: When,
    ) -> tuple[DeviceReading, float]:
        seen = record.mean_joules(*when)
        if uuid not in first:
            found = self._integrated(uuid, record, seen, record.blind(*when))
        else:
            spread = record.spread(*when)
            found = energy_within(
                first[uuid], last[uuid], *when, sensor=self._meter.sensors[uuid], power_spread_watts=spread
            )
            self._compare(uuid, found, record, seen, when=when)
        self._require_energy(uuid, found.joules, when[1] - when[0])
        memory_joules = record.memory_joules(*when)
        return DeviceReading(device=uuid, joules=found.joules, memory_joules=memory_joules), found.uncertainty


def next_after(ticks: Mapping[str, tuple[Tick, ...]]) -> dict[str, float]:
    """For every counter a moment after its last tick and before its next."""
    return {uuid: found[-1].at + PERIOD_SECONDS / 2 for uuid, found in ticks.items()}


def integrated(joules: float, *, peak_watts: float, idle_watts: float) -> Energy:
    """Energy from integrated power, with what it is known to."""
    edges = 0.5 * witness.EDGE_SECONDS * (peak_watts - idle_watts)
    return Energy(joules, math.hypot(edges, POWER_UNCERTAINTY * joules), idle_watts)


def _common(ticks: Mapping[str, tuple[Tick, ...]], default: float) -> float:
    """A moment between the two ticks of every counter: at the first of that which ticked last."""
    return max((found[0].at for found in ticks.values()), default=default)
