import math
import random
import statistics
from collections.abc import Callable, Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_llm_energy.hardware.detection import Device
from pytest_llm_energy.metering.clock import Stop
from pytest_llm_energy.metering.nvml import NvmlMeter
from pytest_llm_energy.metering.simulated import (
    NotSupportedError,
    SimulatedDevice,
    SimulatedError,
    SimulatedNvml,
    VirtualClock,
)
from tests.unit.bench import FAULTS, Bench, Plant, event, everybody, partitioned


def root_mean_square(values: Iterable[float]) -> float:
    return math.sqrt(statistics.fmean(value * value for value in values))


def test_ten_thousand_windows_lie_within_their_uncertainty(capsys: pytest.CaptureFixture[str]) -> None:
    rnd = random.Random(20)
    short: list[float] = []
    long: list[float] = []
    sigmas: list[float] = []
    invalid: list[str] = []
    for number in range(100):
        phase, idle = rnd.uniform(0, 0.1), rnd.uniform(80, 130)
        bench = Bench(SimulatedDevice(phase=phase, idle_watts=idle, seed=number))
        for _ in range(100):
            bench.clock.sleep(rnd.uniform(0, 1) if rnd.random() < 0.5 else 0.0)
            length = math.exp(rnd.uniform(math.log(0.1), math.log(2.0)))
            reading, (truth,) = bench.window(length, rnd.uniform(300, 900), delay=rnd.uniform(0, 0.1))
            if not reading.valid:
                invalid += [reason.code for reason in reading.invalid]
                continue
            (short if length < 0.25 else long).append(reading.joules / truth - 1)
            sigmas.append((reading.joules - truth) / reading.uncertainty_joules)
    coverage = statistics.fmean(abs(sigma) <= 2 for sigma in sigmas)
    with capsys.disabled():
        print(
            f"\n{len(sigmas)} windows, {len(invalid)} invalid {sorted(set(invalid))}: 2 sigma cover {coverage:.2%},"
            f" sd {statistics.pstdev(sigmas):.2f} sigma; one-window rmse {root_mean_square(short):.2%} "
            f"({len(short)} below 0.25 s), {root_mean_square(long):.2%} ({len(long)} from 0.25 s)"
        )
    assert not invalid
    assert len(sigmas) >= 10_000
    assert coverage >= 0.93
    assert root_mean_square(short) < 0.02
    assert root_mean_square(long) < 0.01


def test_devices_metered_at_once_each_get_their_own_joules() -> None:
    phases = (0.003, 0.028, 0.055, 0.091)
    bench = Bench(*(SimulatedDevice(uuid=f"GPU-{n}", phase=phase, seed=n) for n, phase in enumerate(phases)))
    reading, truths = bench.window(2.5, 700)
    assert reading.valid
    assert [part.device for part in reading.devices] == ["GPU-0", "GPU-1", "GPU-2", "GPU-3"]
    own = reading.uncertainty_joules / 2  # four alike, added in squares
    for part, truth in zip(reading.devices, truths, strict=True):
        assert part.joules == pytest.approx(truth, abs=5 * own)
        assert part.memory_joules == pytest.approx(0.3 * truth, rel=0.05)  # the simulated share
    assert sum(part.joules for part in reading.devices) == pytest.approx(reading.joules)


@pytest.mark.parametrize(
    ("plant", "code"),
    FAULTS,
)
def test_a_fault_within_a_window_makes_it_invalid_by_its_own_code(plant: Plant, code: str) -> None:
    bench = Bench(SimulatedDevice())
    before, _ = bench.window(1.0)
    assert before.valid
    reading, _ = bench.window(1.0, plant=plant)
    assert code in [reason.code for reason in reading.invalid]
    assert not reading.valid


@pytest.mark.parametrize(
    ("plant", "code"),
    [
        pytest.param(lambda device, now: setattr(device, "lost_at", now), "device-lost", id="device-lost"),
        pytest.param(lambda device, now: setattr(device, "stuck_at", now), "stale-counter", id="stands-still"),
        pytest.param(lambda device, now: device.processes.append((now, (4711,))), "foreign-process", id="foreign"),
        pytest.param(partitioned, "mig-on", id="mig-on"),
    ],
)
def test_a_fault_before_a_window_makes_it_invalid_by_its_own_code(plant: Plant, code: str) -> None:
    device = SimulatedDevice()
    bench = Bench(device)
    plant(device, bench.clock.monotonic())
    reading, _ = bench.window(1.0)
    assert code in [reason.code for reason in reading.invalid]
    assert not reading.valid


class Refusing(SimulatedNvml):
    """An NVML that refuses to say something, by an error of its own."""

    def __init__(self, clock: VirtualClock, device: SimulatedDevice, refused: str, error: Exception) -> None:
        super().__init__(clock, device)

        def refuse(_: SimulatedDevice) -> None:
            raise error

        setattr(self, refused, refuse)


def refusing(device: SimulatedDevice, refused: str, error: Exception) -> Bench:
    bench = Bench(device)
    nvml = Refusing(bench.clock, device, refused, error)
    known = [Device(index=0, uuid=device.uuid, name="NVIDIA H200")]
    bench.meter = NvmlMeter(known, nvml=nvml, clock=bench.clock, strangers=everybody)
    return bench


EVENTS, PROCESSES = "nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetComputeRunningProcesses"


@pytest.mark.parametrize("counter", [True, False], ids=["counter", "power"])
def test_what_a_device_does_not_tell_leaves_its_readings_valid(counter: bool) -> None:
    for refused in (EVENTS, PROCESSES):
        bench = refusing(SimulatedDevice(counter=counter), refused, NotSupportedError("Not Supported"))
        reading, (truth,) = bench.window(1.0)
        assert reading.valid
        assert reading.joules == pytest.approx(truth, abs=5 * reading.uncertainty_joules)


def test_a_mig_device_that_hides_its_processes_is_still_told_from_others() -> None:
    bench = refusing(SimulatedDevice(mig=True), PROCESSES, NotSupportedError("Not Supported"))
    reading, _ = bench.window(1.0)
    assert [reason.code for reason in reading.invalid] == ["mig-on"]


@pytest.mark.parametrize("error", [SimulatedError("Unknown Error"), ValueError("of no NVML")], ids=str)
def test_a_witness_that_fails_makes_the_reading_invalid(error: Exception) -> None:
    reading, _ = refusing(SimulatedDevice(), EVENTS, error).window(1.0)
    assert "witness-blind" in [reason.code for reason in reading.invalid]


def test_a_device_that_something_else_keeps_busy_is_not_metered() -> None:
    device = SimulatedDevice()
    bench = Bench(device)
    assert bench.window(0.5)[0].valid
    now = bench.clock.monotonic()
    for number in range(40):  # up and down, all the time
        device.work(now + 0.13 * number, now + 0.13 * number + 0.07, 500.0)
    restless, _ = bench.window(0.2)
    assert "not-idle" in [reason.code for reason in restless.invalid]
    bench.clock.sleep(10)
    now = bench.clock.monotonic()
    device.work(now, now + 3.0, 400.0)
    bench.clock.sleep(0.5)
    steady, _ = bench.window(0.2)
    assert "not-idle" in [reason.code for reason in steady.invalid]


@pytest.mark.parametrize(("start", "end"), [(-5.0, 0.5), (0.0, 60.0)], ids=["began-before", "ends-later"])
def test_work_outside_its_window_is_invalid(start: float, end: float) -> None:
    bench = Bench(SimulatedDevice())
    window = bench.meter.open()
    now = bench.clock.monotonic()
    bench.clock.sleep(0.5)
    reading = window.close(now + start, now + end)
    assert "outside-window" in [reason.code for reason in reading.invalid]


def test_a_power_cap_alone_leaves_a_reading_valid() -> None:
    reading, (truth,) = Bench(SimulatedDevice()).window(1.0, plant=event(0x4))
    assert reading.valid
    assert reading.joules == pytest.approx(truth, rel=0.03)


def test_a_device_without_a_counter_is_metered_less_exactly_by_its_power() -> None:
    by_power, (truth,) = Bench(SimulatedDevice(counter=False)).window(2.0)
    by_counter, _ = Bench(SimulatedDevice()).window(2.0)
    assert (by_power.method, by_counter.method) == ("nvml-power", "nvml-counter")
    assert by_power.valid
    assert by_power.joules == pytest.approx(truth, abs=3 * by_power.uncertainty_joules)
    assert by_power.uncertainty_joules > by_counter.uncertainty_joules


def test_a_window_of_no_length_is_invalid() -> None:
    reading, _ = Bench(SimulatedDevice()).window(0.0)
    assert "no-time" in [reason.code for reason in reading.invalid]
    assert not reading.valid


def test_windows_back_to_back_are_as_exact_as_others() -> None:
    bench = Bench(SimulatedDevice())
    errors = []
    for _ in range(20):
        reading, (truth,) = bench.window(0.25)
        assert reading.valid
        errors.append(reading.joules / truth - 1)
    assert root_mean_square(errors) < 0.02


def test_an_unknown_sensor_is_metered_with_a_wider_and_honest_uncertainty() -> None:
    known, unknown = Bench(SimulatedDevice()), Bench(SimulatedDevice(), name="Some Accelerator 9000")
    sigmas: list[float] = []
    wider: list[float] = []
    for _ in range(300):
        exact, _ = known.window(0.25)
        reading, (truth,) = unknown.window(0.25)
        wider.append(reading.uncertainty_joules / exact.uncertainty_joules)
        sigmas.append((reading.joules - truth) / reading.uncertainty_joules)
    assert min(wider) > 1.2
    assert statistics.fmean(abs(sigma) <= 2 for sigma in sigmas) > 0.93
    assert statistics.pstdev(sigmas) > 0.5


@settings(deadline=None, max_examples=150, derandomize=True)
@given(
    phase=st.floats(0, 0.1),
    idle=st.floats(30, 150),
    drift=st.floats(-0.5, 0.5),
    decay=st.floats(1e-4, 1e-3),
    delay=st.floats(0, 0.3),
    pieces=st.lists(st.tuples(st.floats(0.1, 0.6), st.floats(200, 900)), min_size=1, max_size=8),
    seed=st.integers(0, 10**6),
)
def test_any_trace_at_any_phase_reads_within_its_stated_uncertainty(
    phase: float,
    idle: float,
    drift: float,
    decay: float,
    delay: float,
    pieces: list[tuple[float, float]],
    seed: int,
) -> None:
    at_zero = idle - drift * VirtualClock().monotonic()
    device = SimulatedDevice(
        phase=phase, idle_watts=at_zero, drift_watts_per_second=drift, decay_seconds=decay, seed=seed
    )
    reading, truth = Bench(device).trace(pieces, delay=delay)
    assert reading.valid
    assert abs(reading.joules - truth) <= 5 * reading.uncertainty_joules


@settings(deadline=None, max_examples=150, derandomize=True)
@given(
    fault=st.sampled_from(["reset_at", "stuck_at", "lost_at", "thermal", "brake", "foreign"]),
    phase=st.floats(0, 0.1),
    length=st.floats(0.2, 2.0),
    at=st.floats(0.0, 1.0),
)
def test_no_fault_at_any_moment_of_a_window_yields_a_number_that_counts(
    fault: str, phase: float, length: float, at: float
) -> None:
    def plant(device: SimulatedDevice, started: float) -> None:
        moment = started + at * length
        if fault == "thermal":
            device.events.append((moment, 0x40))
        elif fault == "brake":
            device.events.append((moment, 0x80))
        elif fault == "foreign":
            device.processes.append((moment, (4711,)))
        else:
            setattr(device, fault, moment)

    reading, _ = Bench(SimulatedDevice(phase=phase)).window(length, plant=plant)
    assert not reading.valid


@pytest.mark.parametrize("pause", [0.0, 0.02], ids=["steps", "steps-with-gaps"])
def test_a_load_that_rises_and_falls_with_every_batch_is_known_as_well_as_is_said(pause: float) -> None:
    """As serving static batches is: a prefill at full power, a decode at half of it, and some host work between."""
    rnd = random.Random(5)
    sigmas: list[float] = []
    stated: list[float] = []
    for number in range(40):
        bench = Bench(SimulatedDevice(phase=rnd.uniform(0, 0.1), seed=number))
        for _ in range(10):
            prefill, decode = rnd.uniform(0.02, 0.2), rnd.uniform(0.1, 0.6)
            high, low = rnd.uniform(550, 700), rnd.uniform(300, 500)
            batch = [(prefill, high), (decode, low), *([(pause, 130.0)] if pause else [])]
            pieces = batch * math.ceil(2.5 / (prefill + decode + pause))
            reading, truth = bench.trace(pieces, delay=rnd.uniform(0, 0.1))
            assert reading.valid
            sigmas.append((reading.joules - truth) / reading.uncertainty_joules)
            stated.append(reading.uncertainty_joules / truth)
    assert statistics.fmean(abs(sigma) <= 2 for sigma in sigmas) > 0.93
    assert statistics.fmean(stated) < 0.01


def test_a_window_left_open_is_watched_no_more_once_nvml_is_given_back() -> None:
    device = SimulatedDevice()
    bench = Bench(device)
    bench.meter.open()  # and interrupted before it could be closed or abandoned
    bench.clock.sleep(0.2)
    bench.meter.shutdown()
    with pytest.raises(SystemError):
        bench.meter.nvml.nvmlDeviceGetTemperature(device, 0)
    (watching,) = bench.meter._witnesses
    seen = len(watching.records[device.uuid].moments)
    bench.clock.sleep(1.0)
    record = watching.records[device.uuid]
    assert (len(record.moments), record.error) == (seen, None)


class HangingClock(VirtualClock):
    """What is repeated cannot be stopped: it hangs in a dead driver."""

    def repeat(self, period: float, action: Callable[[], None]) -> Stop:
        super().repeat(period, action)
        return lambda: False


def test_nvml_is_kept_while_it_may_still_be_asked() -> None:
    device = SimulatedDevice()
    clock = HangingClock()
    found = Device(index=0, uuid=device.uuid, name="NVIDIA H200")
    meter = NvmlMeter([found], nvml=SimulatedNvml(clock, device), clock=clock, strangers=everybody)
    meter.open().abandon()
    meter.shutdown()
    clock.sleep(1.0)
    (watching,) = meter._witnesses
    assert watching.records[device.uuid].error is None
    assert meter.nvml.nvmlDeviceGetTemperature(device, 0)
