"""An NVML with physics, for machines without a GPU: the meters run on it unchanged, on a virtual clock.

The physics is that of an H200 (driver 580.159.04): a counter that advances every 100 ms by five samples of smoothed
power, reads that take milliseconds, instant power sampled for 25 of every 100 ms, average power as a mean over one
second, a power that decays to idle after work. Faults are planted by setting a moment.
"""

import bisect
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pytest_llm_energy.metering.clock import Stop
from pytest_llm_energy.metering.sensor import SENSORS, Sensor
from pytest_llm_energy.metering.ticks import PERIOD_SECONDS

NEVER = math.inf

GAIN_TICKS = 50
"""For so many ticks a simulated sensor keeps its gain."""


class VirtualClock:
    """Time that passes only when somebody sleeps or a simulated call takes a while."""

    def __init__(self, start: float = 1000.0) -> None:
        self._now = start
        self._repeated: list[list[Any]] = []

    def monotonic(self) -> float:
        """The present moment."""
        return self._now

    def sleep(self, seconds: float) -> None:
        """Let time pass, carrying out what is to be repeated on the way."""
        until = self._now + max(0.0, seconds)
        while due := [entry for entry in self._repeated if entry[0] <= until]:
            entry = min(due, key=lambda e: e[0])
            self._now = max(self._now, entry[0])
            entry[0] += entry[1]
            entry[2]()
        self._now = max(self._now, until)

    def repeat(self, period: float, action: Callable[[], None]) -> Stop:
        """Carry out an action whenever time passes over its period."""
        entry = [self._now + period, period, action]
        self._repeated.append(entry)

        def stop() -> bool:
            self._repeated = [each for each in self._repeated if each is not entry]
            return True

        return stop


class SimulatedError(Exception):
    """What a simulated NVML raises; its subclasses have the names of pynvml's."""


class NotSupportedError(SimulatedError):
    """This device does not have it."""


class GpuIsLostError(SimulatedError):
    """The device fell off the bus."""


@dataclass
class SimulatedDevice:
    """One device: its idle power, the work it is given, its sensor, its faults.

    Attributes:
        uuid: its identifier.
        idle_watts: power with nothing running, at moment zero.
        drift_watts_per_second: how idle power creeps as the device warms.
        decay_seconds: time constant with which power falls to idle after work.
        phase: moment of a tick.
        sensor: when within a tick power is sampled, and how it is smoothed.
        jitter_seconds: standard deviation of the moment a tick's value is of.
        sample_jitter_seconds: standard deviation of the moment of a sample.
        tick_noise: relative standard deviation of one tick's energy.
        gain_noise: relative standard deviation of the sensor's gain, which wanders over seconds.
        read_seconds: how long a read of the counter takes.
        counter: whether there is an energy counter.
        memory_share: part of the power that the memory draws; None where the device does not tell.
        mig: whether multi-instance mode is on.
        limit_watts: enforced power limit.
        lost_at: when the device falls off the bus.
        reset_at: when the driver is reloaded.
        stuck_at: when the counter stops advancing.
        events: clock event reasons by the moment they set in.
        processes: process ids by the moment they appear.
    """

    uuid: str = "GPU-simulated-0"
    idle_watts: float = 118.0
    drift_watts_per_second: float = 0.0
    decay_seconds: float = 0.0005
    phase: float = 0.037
    sensor: Sensor = SENSORS["h200"]
    jitter_seconds: float = 0.0005
    sample_jitter_seconds: float = 0.001
    tick_noise: float = 0.005
    gain_noise: float = 0.002
    read_seconds: float = 0.0035
    counter: bool = True
    memory_share: float | None = 0.3
    mig: bool = False
    limit_watts: float = 700.0
    lost_at: float = NEVER
    reset_at: float = NEVER
    stuck_at: float = NEVER
    events: list[tuple[float, int]] = field(default_factory=list)
    processes: list[tuple[float, tuple[int, ...]]] = field(default_factory=list)
    seed: int = 0
    _load: "_Load" = field(default_factory=lambda: _Load())
    _counted: dict[int, float] = field(default_factory=dict)

    def work(self, started: float, ended: float, watts: float) -> None:
        """Draw that much between two moments, and decay to idle afterwards; in order of time."""
        above = watts - self._idle_watts(started)
        self._load.add(started, ended, above, self.decay_seconds)

    def true_joules(self, start: float, end: float) -> float:
        """Energy drawn between two moments."""
        return self._total(end) - self._total(start)

    def watts(self, moment: float) -> float:
        """Power at a moment."""
        return self.true_joules(moment - 5e-4, moment + 5e-4) / 1e-3

    def counter_joules(self, moment: float) -> float:
        """What the counter shows: the value of its last tick."""
        number = math.floor((min(moment, self.stuck_at) - self.phase) / PERIOD_SECONDS)
        late = abs(self._random(number, "late")) * self.jitter_seconds
        if moment - self._tick(number) < late and moment < self.stuck_at:
            number -= 1
        jitter = self._random(number, "seen") * self.jitter_seconds * self._idle_watts(self._tick(number))
        shown = self._count(number) + jitter
        return shown if moment < self.reset_at else shown - self._total(self.reset_at)

    def _tick(self, number: int) -> float:
        return self.phase + number * PERIOD_SECONDS

    def _idle_watts(self, moment: float) -> float:
        return self.idle_watts + self.drift_watts_per_second * moment

    def _idle(self, moment: float) -> float:
        return self.idle_watts * moment + self.drift_watts_per_second * moment**2 / 2

    def _total(self, moment: float) -> float:
        return self._idle(moment) + self._load.joules(moment)

    def _count(self, number: int) -> float:
        """The counter at a tick: what its samples added up to, each tick with an error that stays."""
        if not self._counted:
            self._counted[number] = self._total(self._tick(number))
        for n in range(max(self._counted) + 1, number + 1):
            tick = self._tick(n)
            moments = [tick + at - (PERIOD_SECONDS if at > 0 else 0.0) for at in self.sensor.samples]
            excess = math.fsum(
                self._load.smoothed(
                    moment + self.sample_jitter_seconds * self._random(n, f"sample {index}"), self.sensor.smoothing
                )
                for index, moment in enumerate(moments)
            )
            drawn = self._idle(tick) - self._idle(tick - PERIOD_SECONDS)
            drawn += excess * PERIOD_SECONDS / len(moments)
            gain = self.gain_noise * self._random(n // GAIN_TICKS, "gain")
            self._counted[n] = self._counted[n - 1] + drawn * (
                1 + gain + self.tick_noise * self._random(n, "sensor")
            )
        return self._counted.get(number, 0.0)

    def _random(self, number: int, what: str) -> float:
        """A standard normal deviate that is the same whenever it is asked for."""
        return random.Random(f"{self.seed} {number} {what}").gauss(0, 1)

    def instant_watts(self, moment: float) -> float:
        """Mean power of the last 25 ms of the last tick."""
        tick = self.phase + math.floor((moment - self.phase) / 0.1) * 0.1
        return self.true_joules(tick - 0.025, tick) / 0.025

    def average_watts(self, moment: float) -> float:
        """Mean power of the last second, refreshed every tick."""
        tick = self.phase + math.floor((moment - self.phase) / 0.1) * 0.1
        return self.true_joules(tick - 1.0, tick)


class _Load:
    """Work by when it ran; energy above idle up to any moment."""

    def __init__(self) -> None:
        self._starts: list[float] = []
        self._pieces: list[tuple[float, float, float, float]] = []
        self._sums: list[float] = []

    def add(self, started: float, ended: float, above: float, decay: float) -> None:
        self._sums.append(self.joules(started))
        self._starts.append(started)
        self._pieces.append((started, ended, above, decay))

    def joules(self, moment: float) -> float:
        index = bisect.bisect_right(self._starts, moment) - 1
        if index < 0:
            return 0.0
        started, ended, above, decay = self._pieces[index]
        busy = above * (min(moment, ended) - started)
        after = max(0.0, moment - ended)
        return self._sums[index] + busy + above * decay * -math.expm1(-after / decay)

    def smoothed(self, moment: float, smoothing: float) -> float:
        """Power above idle behind a first-order filter."""
        watts = 0.0
        until = moment
        index = bisect.bisect_right(self._starts, moment) - 1
        while index >= 0 and moment - self._pieces[index][1] < 12 * smoothing + 8 * self._pieces[index][3]:
            started, ended, above, decay = self._pieces[index]
            last = min(moment, ended)
            watts += above * math.exp((last - moment) / smoothing) * -math.expm1((started - last) / smoothing)
            if until > ended:  # the tail, as far as the next piece of work lets it
                rate = 1 / smoothing - 1 / decay
                shape = math.expm1((until - ended) * rate) / rate if rate else until - ended
                watts += above / smoothing * math.exp((ended - moment) / smoothing) * shape
            until = started
            index -= 1
        return watts


class FieldValue(NamedTuple):
    """One answer of nvmlDeviceGetFieldValues."""

    nvmlReturn: int
    value: Any


class Milliwatts(NamedTuple):
    """The union a field's value comes in."""

    uiVal: int


class Process(NamedTuple):
    """One entry of a process list."""

    pid: int


class SimulatedNvml:
    """The part of pynvml that meters call, over simulated devices."""

    NVMLError = SimulatedError
    NVMLError_NotSupported = NotSupportedError
    NVMLError_GpuIsLost = GpuIsLostError
    NVML_FI_DEV_POWER_AVERAGE = 185
    NVML_FI_DEV_POWER_INSTANT = 186
    NVML_POWER_SCOPE_MEMORY = 2
    NVML_TEMPERATURE_GPU = 0
    NVML_CLOCK_SM = 1
    NVML_CLOCK_MEM = 2
    nvmlClocksEventReasonSwPowerCap = 0x4
    nvmlClocksThrottleReasonHwThermalSlowdown = 0x40
    nvmlClocksThrottleReasonSwThermalSlowdown = 0x20
    nvmlClocksThrottleReasonHwPowerBrakeSlowdown = 0x80

    def __init__(self, clock: VirtualClock, *devices: SimulatedDevice) -> None:
        self._clock = clock
        self._devices = {device.uuid: device for device in devices}
        self._users = 0

    def nvmlInit(self) -> None:
        """Nothing to load."""
        self._users += 1

    def nvmlShutdown(self) -> None:
        """Nothing to release; what is asked after the last user's has no library to answer it."""
        self._users -= 1

    def nvmlSystemGetDriverVersion(self) -> str:
        """No driver."""
        return "simulated"

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> SimulatedDevice:
        """The device itself."""
        return self._devices[uuid]

    def nvmlDeviceGetTotalEnergyConsumption(self, device: SimulatedDevice) -> int:
        """Millijoules; the value is that of some moment within the read."""
        self._present(device)
        if not device.counter:
            raise NotSupportedError("Not Supported")
        self._clock.sleep(device.read_seconds / 2)
        joules = device.counter_joules(self._clock.monotonic())
        self._clock.sleep(device.read_seconds / 2)
        return round(joules * 1000)

    def nvmlDeviceGetFieldValues(self, device: SimulatedDevice, fields: list[Any]) -> list[FieldValue]:
        """Instant power, and the memory's average."""
        self._present(device)
        now = self._clock.monotonic()
        answers = []
        for wanted in fields:
            if wanted == self.NVML_FI_DEV_POWER_INSTANT:
                answers.append(FieldValue(0, Milliwatts(round(device.instant_watts(now) * 1000))))
            elif device.memory_share is None:
                answers.append(FieldValue(3, Milliwatts(0)))
            else:
                watts = device.average_watts(now) * device.memory_share
                answers.append(FieldValue(0, Milliwatts(round(watts * 1000))))
        return answers

    def nvmlDeviceGetPowerUsage(self, device: SimulatedDevice) -> int:
        """Average power of the last second, in milliwatts."""
        self._present(device)
        return round(device.average_watts(self._clock.monotonic()) * 1000)

    def nvmlDeviceGetCurrentClocksEventReasons(self, device: SimulatedDevice) -> int:
        """Why clocks are as they are."""
        self._present(device)
        return int(_latest(device.events, self._clock.monotonic(), 0))

    def nvmlDeviceGetComputeRunningProcesses(self, device: SimulatedDevice) -> list[Process]:
        """Processes on the device."""
        self._present(device)
        return [Process(pid) for pid in _latest(device.processes, self._clock.monotonic(), ())]

    def nvmlDeviceGetMigMode(self, device: SimulatedDevice) -> list[int]:
        """Present and pending mode."""
        self._present(device)
        return [int(device.mig), int(device.mig)]

    def nvmlDeviceGetTemperature(self, device: SimulatedDevice, sensor: int) -> int:
        """Degrees Celsius."""
        self._present(device)
        return 36

    def nvmlDeviceGetClockInfo(self, device: SimulatedDevice, which: int) -> int:
        """Present clock, in MHz."""
        self._present(device)
        return 345 if which == self.NVML_CLOCK_SM else 3201

    def nvmlDeviceGetMaxClockInfo(self, device: SimulatedDevice, which: int) -> int:
        """Highest clock, in MHz."""
        self._present(device)
        return 1980 if which == self.NVML_CLOCK_SM else 3201

    def nvmlDeviceGetEnforcedPowerLimit(self, device: SimulatedDevice) -> int:
        """Milliwatts."""
        self._present(device)
        return round(device.limit_watts * 1000)

    def nvmlDeviceGetPowerManagementDefaultLimit(self, device: SimulatedDevice) -> int:
        """Milliwatts."""
        self._present(device)
        return 700_000

    def nvmlDeviceGetPersistenceMode(self, device: SimulatedDevice) -> int:
        """The simulated driver does not tell."""
        raise NotSupportedError("Not Supported")

    def _present(self, device: SimulatedDevice) -> None:
        if self._users <= 0:
            raise SystemError("NVML is used and not there: the real one ends the process")
        if self._clock.monotonic() >= device.lost_at:
            raise GpuIsLostError("GPU is lost")


def _latest(changes: list[tuple[float, Any]], moment: float, default: Any) -> Any:
    return next((value for at, value in sorted(changes, reverse=True) if at <= moment), default)
