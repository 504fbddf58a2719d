"""A second opinion on a window: instant power and clock events, sampled while it is open."""

import math
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from pytest_llm_energy.metering.clock import Clock

PERIOD_SECONDS = 0.025
"""Four samples per refresh of the sensor. A sample of one device takes tens of microseconds: 0.2 % of a core."""

DISAGREEMENT = 0.1
"""Relative difference from the counter that is too much, beside the edges of the window."""

MOST_GAP_SECONDS = 0.5
"""Clock events and processes can come and go unseen in a longer gap."""

MEMORY_MEAN_SECONDS = 1.1
"""The memory's power is told as a mean over one second, refreshed every tick."""

PROCESS_SAMPLES = 10
"""Processes are listed with every tenth sample: four times a second."""

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
        foreign: processes of others that were on the device, also for a while.
        error: what went wrong first, None when nothing did.
        seen: all processes that were on the device.
    """

    moments: list[float] = field(default_factory=list)
    watts: list[float] = field(default_factory=list)
    memory_watts: list[float] = field(default_factory=list)
    events: int = 0
    foreign: set[int] = field(default_factory=set)
    error: str | None = None
    seen: set[int] = field(default_factory=set)

    def joules(self, started: float, ended: float, idle_watts: float) -> float | None:
        """Energy between two moments by integrating power; None when too little was seen.

        What exceeds idle is integrated over all samples, since the sensor shows work later than it happens.
        """
        if len(self.moments) < 3 or self.moments[-1] < ended:
            return None
        pairs = zip(self.moments, self.moments[1:], self.watts[1:], strict=False)
        excess = sum((later - earlier) * (watts - idle_watts) for earlier, later, watts in pairs)
        return excess + idle_watts * (ended - started)

    def mean_joules(self, started: float, ended: float) -> float | None:
        """Energy of a lasting load between two moments, by its mean power; None when too little was seen."""
        delay = EDGE_SECONDS / 2  # on average a sample is of so long ago
        within = [w for at, w in zip(self.moments, self.watts, strict=True) if started < at - delay < ended]
        return statistics.fmean(within) * (ended - started) if len(within) >= 3 else None

    def memory_joules(self, started: float, ended: float) -> float | None:
        """Energy of the memory domain; None where it is not told, or the window is too short.

        The device tells a mean over the last second, so the first second of the window is left out.
        """
        settled = [
            watts
            for moment, watts in zip(self.moments, self.memory_watts, strict=False)
            if started + MEMORY_MEAN_SECONDS < moment < ended
        ]
        return statistics.fmean(settled) * (ended - started) if settled else None

    def blind(self, started: float, ended: float) -> str | None:
        """Why too little was seen between two moments; None when enough was."""
        if self.error is not None:
            return self.error
        within = [started, *(moment for moment in self.moments if started < moment < ended), ended]
        gap = max(later - earlier for earlier, later in pairwise(within))
        return f"no sample for {gap:.2f} s" if gap > MOST_GAP_SECONDS else None

    def spread(self, started: float, ended: float) -> float:
        """Standard deviation of the power within the window, its first and last tick left out."""
        inner = [
            watts
            for moment, watts in zip(self.moments, self.watts, strict=True)
            if started + 2 * EDGE_SECONDS < moment < ended
        ]
        distinct = [watts for watts, before in zip(inner[1:], inner, strict=False) if watts != before]
        return statistics.stdev(distinct) if len(distinct) > 2 else 0.0

    def missed(self, started: float, ended: float) -> float:
        """Standard deviation of integrated power, in joules, where a load fluctuates between samples."""
        return self.spread(started, ended) * EDGE_SECONDS * math.sqrt(max(1.0, (ended - started) / EDGE_SECONDS))

    def peak(self) -> float:
        """Highest power seen."""
        return max(self.watts, default=0.0)


class Witness:
    """Samples devices until it is stopped.

    Attributes:
        records: what was seen so far, by device.
        ended: whether it samples no more.
    """

    def __init__(
        self,
        nvml: Any,
        handles: dict[str, Any],
        clock: Clock,
        *,
        strangers: Callable[[Iterable[int]], list[int]],
        untold: tuple[type[Exception], ...],
    ) -> None:
        """Take the first samples.

        Args:
            nvml: the module pynvml, or something with its functions.
            handles: devices by UUID.
            clock: what repeats the sampling.
            strangers: which of some process ids belong to somebody else.
            untold: errors by which a device says that it does not tell something.
        """
        self._nvml = nvml
        self._handles = handles
        self._clock = clock
        self._strangers = strangers
        self._untold = untold
        self._count = 0
        self.records = {uuid: Record() for uuid in handles}
        self._sample()
        self.ended = False
        self._stop = clock.repeat(PERIOD_SECONDS, self._sample)

    def stop(self) -> dict[str, Record]:
        """End sampling; what was seen, by device."""
        self.ended = self._stop()
        return self.records

    def _sample(self) -> None:
        for uuid, handle in self._handles.items():
            record = self.records[uuid]
            for look in (self._power, self._events, self._processes):
                try:
                    look(handle, record)
                except self._untold:
                    continue
                except Exception as error:  # a thread that died of one would be blind without a word
                    record.error = record.error or f"{type(error).__name__}: {error}"
        self._count += 1

    def _power(self, handle: Any, record: Record) -> None:
        nvml = self._nvml
        fields = [nvml.NVML_FI_DEV_POWER_INSTANT, (nvml.NVML_FI_DEV_POWER_AVERAGE, nvml.NVML_POWER_SCOPE_MEMORY)]
        power, memory = nvml.nvmlDeviceGetFieldValues(handle, fields)
        if power.nvmlReturn == 0:
            record.moments.append(self._clock.monotonic())
            record.watts.append(power.value.uiVal / 1000)
            if memory.nvmlReturn == 0:
                record.memory_watts.append(memory.value.uiVal / 1000)

    def _events(self, handle: Any, record: Record) -> None:
        record.events |= self._nvml.nvmlDeviceGetCurrentClocksEventReasons(handle)

    def _processes(self, handle: Any, record: Record) -> None:
        if self._count % PROCESS_SAMPLES:
            return
        pids = {process.pid for process in self._nvml.nvmlDeviceGetComputeRunningProcesses(handle)}
        if unseen := pids - record.seen:
            record.foreign.update(self._strangers(unseen))
            record.seen |= unseen
