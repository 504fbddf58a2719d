"""How well this host can be metered: its counters, their ticks and noise, and the state of its devices."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_llm_energy.errors import MeterError
from pytest_llm_energy.hardware.detection import Device
from pytest_llm_energy.metering.clock import Clock, SystemClock
from pytest_llm_energy.metering.edges import Edges, Tick, energy
from pytest_llm_energy.metering.meter import Invalid, Meter, Window
from pytest_llm_energy.metering.nvml import NvmlMeter
from pytest_llm_energy.metering.nvml_windows import LAG_SECONDS, integrated
from pytest_llm_energy.metering.sensor import Sensor, sensor_of
from pytest_llm_energy.metering.ticks import PERIOD_SECONDS, Bracket, CounterError, grid_from, watch

Say = Callable[[str], None]

WINDOW_SECONDS = (0.1, 0.25, 0.5, 1.0, 2.5)
WINDOWS = 4
TICKS = 10
APART_SECONDS = 3.0
"""Between the two times that ticks are watched: long enough for a drifting phase to show."""


@dataclass(frozen=True, kw_only=True)
class Ticking:
    """How a counter advances.

    Attributes:
        period_seconds: mean time between ticks.
        jitter_seconds: standard deviation of single ticks from an even grid, as seen through reads.
        shift_seconds: how far the grid had moved after APART_SECONDS.
        read_seconds: median duration of a read.
    """

    period_seconds: float
    jitter_seconds: float
    shift_seconds: float
    read_seconds: float


@dataclass(frozen=True, kw_only=True)
class Floor:
    """What one window of a length is known to.

    Attributes:
        seconds: length of the window.
        idle_sd_joules: standard deviation of readings of the idle device.
        loaded: stated standard deviation under load, as a share of the reading.
    """

    seconds: float
    idle_sd_joules: float
    loaded: float


@dataclass(frozen=True, kw_only=True)
class State:
    """What a device is doing and what bounds it; None where the driver does not tell."""

    temperature_celsius: float | None
    sm_mhz: float | None
    max_sm_mhz: float | None
    memory_mhz: float | None
    limit_watts: float | None
    default_limit_watts: float | None
    persistent: bool | None
    events: int | None


@dataclass(frozen=True, kw_only=True)
class DeviceHealth:
    """One device.

    Attributes:
        device: which.
        counter: whether its energy is counted; if not, instant power is integrated.
        ticking: how the counter advances; None without one, or when it stands still.
        sensor_known: whether what its sensor gets wrong at the edges of a window is taken off.
        idle_watts: power with nothing running.
        load_watts: power for which ``floors`` are stated.
        floors: by length of the window.
        state: clocks, limits, temperature.
        invalid: what made windows invalid.
    """

    device: Device
    counter: bool
    ticking: Ticking | None
    sensor_known: bool
    idle_watts: float | None
    load_watts: float
    floors: tuple[Floor, ...]
    state: State
    invalid: tuple[Invalid, ...]


@dataclass(frozen=True, kw_only=True)
class ProcessorHealth:
    """The processor, as metered without a GPU.

    Attributes:
        source: what meters it.
        estimated: whether that is a model rather than a measurement.
        window_seconds: length of the windows below.
        watts: mean power of a loaded core.
        spread: relative standard deviation of equal work in such windows.
        disturbed: a sentence for each window that something disturbed.
    """

    source: str
    estimated: bool
    window_seconds: float
    watts: float
    spread: float
    disturbed: tuple[str, ...]


def examine_device(
    device: Device, *, say: Say, load_watts: float, nvml: Any = None, clock: Clock | None = None
) -> DeviceHealth:
    """Watch the ticks of an idle device and meter windows in which nothing runs; half a minute.

    Args:
        device: the device; nothing should run on it.
        say: told what is going on.
        load_watts: the load for which noise is stated.
        nvml: the module pynvml, or something with its functions.
        clock: the host's clock, or a virtual one.

    Raises:
        MeterError: it cannot be metered at all.
    """
    clock = clock or SystemClock()
    meter = NvmlMeter([device], nvml=nvml, clock=clock)
    try:
        counter = device.uuid in meter.counted
        invalid: dict[str, Invalid] = {}
        ticking = None
        if counter:
            say("watching the energy counter")
            try:
                ticking = _ticking(meter, device, clock)
            except (CounterError, meter.nvml.NVMLError) as error:
                reason = meter.explain(error)
                invalid[reason.code] = reason
        sensor = sensor_of(device.name)
        idle, floors = [], []
        for seconds in WINDOW_SECONDS:
            say(f"metering the idle device in windows of {seconds:g} s")
            joules = []
            for _ in range(WINDOWS):
                window = meter.open()
                started = clock.monotonic()
                clock.sleep(seconds)
                reading = window.close(started, started + seconds)
                invalid |= {reason.code: reason for reason in reading.invalid}
                if reading.valid:
                    joules.append(reading.joules)
            if len(joules) > 1:
                idle.append(statistics.fmean(joules) / seconds)
                stated = _counted if counter else _integrated
                uncertainty = stated(seconds, load_watts, idle[-1], sensor)
                share = uncertainty / (load_watts * seconds)
                floors.append(Floor(seconds=seconds, idle_sd_joules=statistics.stdev(joules), loaded=share))
        return DeviceHealth(
            device=device,
            counter=counter,
            ticking=ticking,
            sensor_known=sensor is not None,
            idle_watts=idle[-1] if idle else None,
            load_watts=load_watts,
            floors=tuple(floors),
            state=_state(meter.nvml, meter.handles[device.uuid]),
            invalid=tuple(invalid.values()),
        )
    finally:
        meter.shutdown()


def examine_processor(
    meter: Meter, *, say: Say, clock: Clock | None = None, work: Callable[[int], object] | None = None
) -> ProcessorHealth:
    """Meter equal work on one core a few times.

    Args:
        meter: what meters it.
        say: told what is going on.
        clock: the host's clock, or a virtual one.
        work: does as much as its argument says; by default sums of squares.

    Raises:
        MeterError: no window is valid.
    """
    work = work or _sum_squares
    clock = clock or SystemClock()
    seconds = 0.5
    amount = 500_000
    for _ in range(3):  # the first call is slower than those that follow
        begun = clock.monotonic()
        work(amount)
        amount = round(amount * seconds / max(1e-6, clock.monotonic() - begun))
    joules, disturbed, spent = [], [], []
    reasons: tuple[Invalid, ...] = ()
    for number in range(2 * WINDOWS):
        say(f"metering {seconds:g} s of work on one core ({number + 1} of {2 * WINDOWS})")
        window: Window = meter.open()
        started = clock.monotonic()
        work(amount)
        reading = window.close(started, clock.monotonic())
        disturbed += [reason.says for reason in reading.disturbed]
        reasons = reasons or reading.invalid
        if reading.valid:
            joules.append(reading.joules)
            spent.append(reading.seconds)
    if len(joules) < 2:
        raise MeterError("; ".join(reason.says for reason in reasons))
    return ProcessorHealth(
        source=meter.source,
        estimated=meter.estimated,
        window_seconds=statistics.fmean(spent),
        watts=sum(joules) / sum(spent),
        spread=statistics.stdev(joules) / statistics.fmean(joules),
        disturbed=tuple(disturbed),
    )


def _ticking(meter: NvmlMeter, device: Device, clock: Clock) -> Ticking:
    handle = meter.handles[device.uuid]
    took: list[float] = []

    def read() -> float:
        begun = clock.monotonic()
        joules = float(meter.nvml.nvmlDeviceGetTotalEnergyConsumption(handle))
        took.append(clock.monotonic() - begun)
        return joules

    first = watch(read, clock, count=TICKS)
    clock.sleep(APART_SECONDS)
    second = watch(read, clock, count=TICKS)
    grid_from(first, now=clock.monotonic())  # refuses ticks at odd intervals
    period, phase, jitter = _even(first)
    later = [(low + high) / 2 - phase for low, high in second]
    shift = statistics.median(each - round(each / PERIOD_SECONDS) * PERIOD_SECONDS for each in later)
    return Ticking(
        period_seconds=period, jitter_seconds=jitter, shift_seconds=shift, read_seconds=statistics.median(took)
    )


def _even(brackets: Sequence[Bracket]) -> tuple[float, float, float]:
    """Period, phase and jitter of the grid through ticks."""
    moments = [(low + high) / 2 for low, high in brackets]
    numbers = [round((moment - moments[0]) / PERIOD_SECONDS) for moment in moments]
    period, phase = statistics.linear_regression(numbers, moments)
    off = [moment - phase - period * number for number, moment in zip(numbers, moments, strict=True)]
    return period, phase, statistics.pstdev(off)


def _counted(seconds: float, watts: float, idle_watts: float, sensor: Sensor | None) -> float:
    """The standard deviation that a reading of a steady load would state, its edges halfway between ticks."""
    before = (Tick(-2.5 * PERIOD_SECONDS, 0.0), Tick(-0.5 * PERIOD_SECONDS, 2 * PERIOD_SECONDS * idle_watts))
    gap = LAG_SECONDS + PERIOD_SECONDS / 2
    after = before[1].joules + idle_watts * (PERIOD_SECONDS / 2 + gap) + watts * seconds
    first = Tick(seconds + gap, after)
    tail = (first, Tick(first.at + PERIOD_SECONDS, after + idle_watts * PERIOD_SECONDS))
    return energy(Edges(before, tail, sensor), 0.0, seconds).uncertainty


def _integrated(seconds: float, watts: float, idle_watts: float, sensor: Sensor | None) -> float:
    """The same where power is integrated."""
    return integrated(watts * seconds, peak_watts=watts, idle_watts=idle_watts).uncertainty


def _state(nvml: Any, handle: Any) -> State:
    def ask(name: str, *arguments: Any) -> Any:
        try:
            return getattr(nvml, name)(handle, *arguments)
        except nvml.NVMLError:
            return None

    def watts(name: str) -> float | None:
        milliwatts = ask(name)
        return None if milliwatts is None else milliwatts / 1000

    persistent = ask("nvmlDeviceGetPersistenceMode")
    return State(
        temperature_celsius=ask("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU),
        sm_mhz=ask("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_SM),
        max_sm_mhz=ask("nvmlDeviceGetMaxClockInfo", nvml.NVML_CLOCK_SM),
        memory_mhz=ask("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_MEM),
        limit_watts=watts("nvmlDeviceGetEnforcedPowerLimit"),
        default_limit_watts=watts("nvmlDeviceGetPowerManagementDefaultLimit"),
        persistent=None if persistent is None else bool(persistent),
        events=ask("nvmlDeviceGetCurrentClocksEventReasons"),
    )


def _sum_squares(amount: int) -> int:
    total = 0
    for number in range(amount):
        total += number * number
    return total
