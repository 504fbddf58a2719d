"""A second opinion on a window: instant power and clock events, sampled while it is open."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pytest_llm_energy.metering.clock import Clock

PERIOD_SECONDS = 0.025
"""Four samples per refresh of the sensor. A sample of one device takes tens of microseconds: 0.2 % of a core."""

DISAGREEMENT = 0.1
"""Relative difference from the counter that is too much, beside the edges of the window."""

EDGE_SECONDS = 0.1
"""Instant power is refreshed that often, from a quarter of the time; at either edge so much may be missed."""


@dataclass
class Record:
    """What was seen of one device.

    Attributes:
        moments: when each sample was taken.
        watts: instant power.
        memory_watts: power of the memory domain, where the device tells.
        events: clock event reasons, all that occurred.
        error: what went wrong first, None when nothing did.
    """

    moments: list[float] = field(default_factory=list)
    watts: list[float] = field(default_factory=list)
    memory_watts: list[float] = field(default_factory=list)
    events: int = 0
    error: str | None = None

    def joules(self, started: float, ended: float, idle_watts: float) -> float | None:
        """Energy between two moments by integrating power; None when too little was seen.

        What exceeds idle is integrated over all samples, since the sensor shows work later than it happens.
        """
        if len(self.moments) < 3 or self.moments[-1] < ended:
            return None
        pairs = zip(self.moments, self.moments[1:], self.watts[1:], strict=False)
        excess = sum((later - earlier) * (watts - idle_watts) for earlier, later, watts in pairs)
        return excess + idle_watts * (ended - started)

    def spread(self, started: float, ended: float) -> float:
        """Standard deviation of the power within the window, its first and last tick left out."""
        inner = [
            watts
            for moment, watts in zip(self.moments, self.watts, strict=True)
            if started + 2 * EDGE_SECONDS < moment < ended
        ]
        distinct = [watts for watts, before in zip(inner[1:], inner, strict=False) if watts != before]
        return statistics.stdev(distinct) if len(distinct) > 2 else 0.0

    def peak(self) -> float:
        """Highest power seen."""
        return max(self.watts, default=0.0)


class Witness:
    """Samples devices until it is stopped."""

    def __init__(self, nvml: Any, handles: dict[str, Any], clock: Clock) -> None:
        self._nvml = nvml
        self._handles = handles
        self._clock = clock
        self.records = {uuid: Record() for uuid in handles}
        self._sample()
        self._stop: Callable[[], None] = clock.repeat(PERIOD_SECONDS, self._sample)

    def stop(self) -> dict[str, Record]:
        """End sampling; what was seen, by device."""
        self._stop()
        return self.records

    def _sample(self) -> None:
        nvml = self._nvml
        fields = [nvml.NVML_FI_DEV_POWER_INSTANT, (nvml.NVML_FI_DEV_POWER_AVERAGE, nvml.NVML_POWER_SCOPE_MEMORY)]
        for uuid, handle in self._handles.items():
            record = self.records[uuid]
            try:
                power, memory = nvml.nvmlDeviceGetFieldValues(handle, fields)
                record.events |= nvml.nvmlDeviceGetCurrentClocksEventReasons(handle)
            except nvml.NVMLError as error:
                record.error = record.error or str(error)
                continue
            if power.nvmlReturn == 0:
                record.moments.append(self._clock.monotonic())
                record.watts.append(power.value.uiVal / 1000)
            if memory.nvmlReturn == 0:
                record.memory_watts.append(memory.value.uiVal / 1000)
