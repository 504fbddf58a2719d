"""NVIDIA's energy counter, read at its ticks: joules of a window to about one percent from a quarter second on.

``nvmlDeviceGetTotalEnergyConsumption`` (Volta and later) advances every 100 ms and lags the load, so a plain
difference misses up to a tick of full power. Here the devices are idle on both sides of a window; the counter is
read at ticks before and after it, and what was drawn outside the work is taken off. A witness integrates instant
power meanwhile. A device without a counter is metered by the witness alone, and says so.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from pytest_llm_energy.errors import MeterError
from pytest_llm_energy.hardware.detection import Device
from pytest_llm_energy.hardware.strangers import strangers_to_this_process, untold
from pytest_llm_energy.metering import conditions, witness
from pytest_llm_energy.metering.clock import Clock, SystemClock
from pytest_llm_energy.metering.edges import Tick, slope
from pytest_llm_energy.metering.meter import Invalid, Steady
from pytest_llm_energy.metering.nvml_windows import SETTLED_WATTS, IdleWindow, LoadWindow, next_after
from pytest_llm_energy.metering.sensor import sensor_of
from pytest_llm_energy.metering.ticks import (
    GUARD_SECONDS,
    PERIOD_SECONDS,
    VALID_SECONDS,
    CounterError,
    OddTicksError,
    StaleCounterError,
    TickGrid,
    grid_from,
    watch,
)

READ_SECONDS = 0.028
"""So long after a tick it is read, once. On an H200 earlier reads wait until it is 18 ms old, later ones take 3 ms.
This one falls between two samples of the sensor, which frequent reads were seen to delay."""

GOLDEN = (5**0.5 - 1) / 2
"""Steps by this part of a range fill it evenly."""

CALIBRATION_TICKS = 5

LATE_TRIES = 8
"""A tick that has not come by then, 80 ms late, is a counter that stands still."""

SETTLING_TICKS = 15
"""A device whose power has not settled after these has something else to do."""

BUSY_WATTS = 100.0
"""So much above the lowest idle power seen, a device is not idle: a CUDA context costs an H200 42 W."""


class NvmlMeter:
    """Tick-aligned differences of the energy counters of several devices over one common window."""

    estimated = False

    def __init__(
        self,
        devices: Sequence[Device],
        *,
        nvml: Any = None,
        clock: Clock | None = None,
        strangers: Callable[[Iterable[int]], list[int]] | None = None,
    ) -> None:
        """Find the devices by UUID and probe each one's counter.

        Args:
            devices: what to meter.
            nvml: the module pynvml, or something with its functions.
            clock: the host's clock, or a virtual one.
            strangers: which of some process ids belong to somebody else; by default those that are neither this
                process nor its descendants.

        Raises:
            MeterError: NVML does not start, or a device offers neither counter nor power.
        """
        if nvml is None:
            import pynvml

            nvml = pynvml
        self.nvml = nvml
        self.clock: Clock = clock or SystemClock()
        self.strangers = strangers or strangers_to_this_process
        self.untold = untold(nvml)
        try:
            nvml.nvmlInit()
        except nvml.NVMLError as error:
            raise MeterError(f"NVML does not start: {error}") from error
        try:
            self.handles = {device.uuid: nvml.nvmlDeviceGetHandleByUUID(device.uuid) for device in devices}
            driver = nvml.nvmlSystemGetDriverVersion()
            self.counted = [device.uuid for device in devices if self._has_counter(device.uuid)]
            for device in devices:
                if device.uuid not in self.counted:
                    self._power(device.uuid)
        except (nvml.NVMLError, MeterError) as error:
            nvml.nvmlShutdown()
            raise MeterError(f"NVML cannot meter these devices: {error}") from error
        self.sensors = {device.uuid: sensor_of(device.name) for device in devices}
        self._grids: dict[str, TickGrid] = {}
        self._idle: dict[str, tuple[Tick, Tick]] = {}
        self._lowest: dict[str, float] = {}
        self._opened = 0
        self._witnesses: list[witness.Witness] = []
        whole = len(self.counted) == len(devices)
        self.method = "nvml-counter" if whole else "nvml-power"
        what = "energy counter at its ticks" if whole else "instant power, integrated (no energy counter)"
        self.source = f"NVML {what}, driver {driver}, {len(devices)} device(s)"

    def open(self) -> IdleWindow:
        """Wait for ticks of the idle devices: 0.3 s, less when the last window has just closed.

        The first time, and every two minutes, the ticks are found anew (0.6 s); a device whose power still falls is
        waited for (1.5 s at most).

        Windows start at moments spread evenly between the ticks, so that what the sensor gets wrong at an edge does
        not add up over many.
        """
        window = IdleWindow(self)
        try:
            self.find_ticks()
            window.idle = self._idle_ticks()
            window.trouble += self._busy(window.idle)
            window.trouble += self.conditions_before()
        except (self.nvml.NVMLError, CounterError) as error:
            window.trouble.append(self.explain(error))
        window.watch()
        try:
            if self.counted and not window.trouble:
                self.clock.sleep(self._next_start() - self.clock.monotonic())
        except BaseException:
            window.abandon()
            raise
        window.opened = self.clock.monotonic()
        return window

    def steady(self, seconds: float) -> Steady:
        """Meter a load that lasts; takes up to 0.5 s more than the window, and 0.6 s where ticks are found anew."""
        self._idle = {}
        return LoadWindow(self).meter(seconds)

    def begin_watching(self) -> witness.Witness:
        """Begin to sample power, clock events and processes."""
        begun = witness.Witness(self.nvml, self.handles, self.clock, strangers=self.strangers, untold=self.untold)
        self._witnesses = [*(each for each in self._witnesses if not each.ended), begun]
        return begun

    def shutdown(self) -> None:
        """Release NVML, unless it is still being asked.

        A witness outlives its window where closing that was interrupted, as by Ctrl-C twice. NVML taken away from
        under it ends the process, with what there was to report.
        """
        for each in self._witnesses:
            each.stop()
        if all(each.ended for each in self._witnesses):
            self.nvml.nvmlShutdown()

    def _next_start(self) -> float:
        """When the next window may start: anywhere between two ticks, evenly over many windows."""
        self._opened += 1
        now = self.clock.monotonic()
        moment = self._grids[self.counted[0]].before(now) + self._opened * GOLDEN % 1 * PERIOD_SECONDS
        return moment if moment > now else moment + PERIOD_SECONDS

    def ticks(self, after: float | Mapping[str, float], count: int) -> dict[str, tuple[Tick, ...]]:
        """Consecutive ticks of every counter, the first after a moment (or one for each).

        Raises:
            StaleCounterError: a counter stands still.
        """
        found: dict[str, list[Tick]] = {uuid: [] for uuid in self.counted}
        moments = after if isinstance(after, Mapping) else dict.fromkeys(self.counted, after)
        due = {uuid: self._grids[uuid].after(moments[uuid]) + READ_SECONDS for uuid in self.counted}
        while due:
            uuid = min(due, key=lambda name: due[name])
            self.clock.sleep(due[uuid] - self.clock.monotonic())
            found[uuid].append(self._read_at_tick(uuid, found[uuid][-1] if found[uuid] else None))
            due[uuid] = found[uuid][-1].at + PERIOD_SECONDS + READ_SECONDS
            if len(found[uuid]) == count:
                del due[uuid]
        return {uuid: tuple(ticks) for uuid, ticks in found.items()}

    def remember_idle(self, ticks: dict[str, tuple[Tick, ...]]) -> None:
        """Keep the ticks after a window whose power had come down: if nothing runs since, they serve the next."""
        self._idle = {uuid: (tail[0], tail[-1]) for uuid, tail in ticks.items() if len(tail) == 2}

    def explain(self, error: Exception) -> Invalid:
        """The reason code and sentence for what NVML or a counter said."""
        if isinstance(error, OddTicksError):
            return Invalid("odd-ticks", f"{error}: this counter is not read right; please report the GPU model")
        if isinstance(error, StaleCounterError):
            return Invalid("stale-counter", f"{error}: is the driver alive? Check nvidia-smi, reload the driver")
        if isinstance(error, getattr(self.nvml, "NVMLError_GpuIsLost", ())):
            return Invalid("device-lost", f"a device fell off the bus ({error}): reset it or reboot, and run again")
        return Invalid("nvml-error", f"NVML stopped answering ({error}): check nvidia-smi and run again")

    def conditions_before(self) -> list[Invalid]:
        """What makes a window invalid before it has begun."""
        return self._conditions({})

    def conditions_after(self, records: dict[str, witness.Record]) -> list[Invalid]:
        """What makes a window invalid, as seen within it and at its end."""
        return [*conditions.witnessed(self.nvml, records), *self._conditions(records)]

    def _conditions(self, records: Mapping[str, witness.Record]) -> list[Invalid]:
        return conditions.present(self.nvml, self.handles, records, strangers=self.strangers, untold=self.untold)

    def _has_counter(self, uuid: str) -> bool:
        try:
            return int(self.nvml.nvmlDeviceGetTotalEnergyConsumption(self.handles[uuid])) > 0
        except self.untold:
            return False

    def _power(self, uuid: str) -> float:
        (value,) = self.nvml.nvmlDeviceGetFieldValues(self.handles[uuid], [self.nvml.NVML_FI_DEV_POWER_INSTANT])
        if value.nvmlReturn != 0:
            raise MeterError(f"{uuid} offers neither an energy counter nor instant power: it cannot be metered")
        return float(value.value.uiVal) / 1000

    def _read(self, uuid: str) -> tuple[float, float, float]:
        """When a read began, when it ended, and the joules it returned."""
        begun = self.clock.monotonic()
        millijoules = self.nvml.nvmlDeviceGetTotalEnergyConsumption(self.handles[uuid])
        return begun, self.clock.monotonic(), millijoules / 1000

    def _read_at_tick(self, uuid: str, previous: Tick | None) -> Tick:
        for _ in range(LATE_TRIES):
            begun, ended, joules = self._read(uuid)
            tick = self._grids[uuid].seen_by(begun, ended)
            if tick is not None and (previous is None or joules != previous.joules):
                return Tick(tick, joules)
            self.clock.sleep(GUARD_SECONDS if tick is None else 0.01)
        raise StaleCounterError(f"the energy counter of {uuid} stands still")

    def find_ticks(self) -> None:
        """Find when each counter ticks, where that is not known or was found long ago.

        Raises:
            CounterError: a counter stands still, or ticks at other intervals.
        """
        for uuid in self.counted:
            now = self.clock.monotonic()
            if uuid not in self._grids or now - self._grids[uuid].found >= VALID_SECONDS:
                brackets = watch(partial(self._joules, uuid), self.clock, count=CALIBRATION_TICKS)
                self._grids[uuid] = grid_from(brackets, now=self.clock.monotonic())

    def _joules(self, uuid: str) -> float:
        return self._read(uuid)[2]

    def _busy(self, idle: dict[str, tuple[Tick, Tick]]) -> list[Invalid]:
        """Devices that were not idle before the window: what runs there would count as the work's."""
        found = []
        says = "something runs on the device beside the work: end it (a container may hide it), and run again"
        if self._unsettled:
            found.append(Invalid("not-idle", f"power did not settle before the window: {says}"))
        for uuid, (before, last) in idle.items():
            watts = slope(before, last)
            lowest = self._lowest[uuid] = min(watts, self._lowest.get(uuid, watts))
            if watts > lowest + BUSY_WATTS:
                seen = f"{watts:.0f} W before the window, {lowest:.0f} W when it was idle"
                found.append(Invalid("not-idle", f"{uuid}: {seen}: {says}"))
        return found

    def _idle_ticks(self) -> dict[str, tuple[Tick, Tick]]:
        """Two ticks with nothing running between them, for every counter.

        Where the last window's tail was idle and the counter has gone on as slowly since, that tail serves again.
        Otherwise ticks are read until two intervals in a row agree: power has come down.
        """
        self._unsettled = False
        ticks = self.ticks(self.clock.monotonic() - PERIOD_SECONDS, 1)
        if self._idle.keys() == ticks.keys() and all(self._still_idle(u, now) for u, (now,) in ticks.items()):
            return {uuid: (self._idle[uuid][0], now) for uuid, (now,) in ticks.items()}
        read = self.ticks(self.clock.monotonic(), 3)
        for _ in range(SETTLING_TICKS):
            if all(abs(slope(two, three) - slope(one, two)) < SETTLED_WATTS for one, two, three in read.values()):
                break
            more = self.ticks(next_after(read), 1)
            read = {uuid: (*ticks[1:], *more[uuid]) for uuid, ticks in read.items()}
        else:
            self._unsettled = True
        return {uuid: (ticks[0], ticks[-1]) for uuid, ticks in read.items()}

    def _still_idle(self, uuid: str, now: Tick) -> bool:
        earlier, later = self._idle[uuid]
        return now.at > later.at and abs(slope(later, now) - slope(earlier, later)) < SETTLED_WATTS
