"""Windows within a load that lasts, on simulated devices."""

import math
import random
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_llm_energy.metering.simulated import SimulatedDevice
from tests.unit.bench import FAULTS, Bench, Plant

LONG = 30.0


def test_two_thousand_windows_under_load_lie_within_their_uncertainty(capsys: pytest.CaptureFixture[str]) -> None:
    """As online serving is: power that wanders and jumps with every step, and never comes to rest."""
    rnd = random.Random(11)
    sigmas: list[float] = []
    errors: list[float] = []
    for number in range(100):
        device = SimulatedDevice(phase=rnd.uniform(0, 0.1), idle_watts=rnd.uniform(80, 130), seed=number)
        bench = Bench(device)
        now = bench.clock.monotonic()
        level, swing = rnd.uniform(300, 650), rnd.uniform(0, 120)
        end = now + 60.0
        while now < end:
            length = rnd.uniform(0.005, 0.2)
            device.work(now, now + length, level + rnd.uniform(-swing, swing))
            now += length
        for _ in range(20):
            steady, truth = bench.steady(rnd.uniform(0.5, 2.5))
            assert steady.reading.valid
            errors.append(steady.reading.joules / truth - 1)
            sigmas.append((steady.reading.joules - truth) / steady.reading.uncertainty_joules)
    coverage = statistics.fmean(abs(sigma) <= 2 for sigma in sigmas)
    rmse = math.sqrt(statistics.fmean(error * error for error in errors))
    with capsys.disabled():
        print(f"\n{len(sigmas)} windows under load: 2 sigma cover {coverage:.2%}, one-window rmse {rmse:.2%}")
    assert coverage > 0.93
    assert statistics.pstdev(sigmas) > 0.5  # nor is the stated uncertainty a mere excuse
    assert rmse < 0.005


@settings(deadline=None, max_examples=100, derandomize=True)
@given(
    phases=st.lists(st.floats(0, 0.1), min_size=1, max_size=4),
    seconds=st.floats(0.3, 3.0),
    watts=st.floats(150, 700),
    delay=st.floats(0, 0.2),
    counter=st.booleans(),
)
def test_the_window_is_as_long_as_asked_and_common_to_all_devices(
    phases: list[float], seconds: float, watts: float, delay: float, counter: bool
) -> None:
    devices = [SimulatedDevice(uuid=f"GPU-{n}", phase=p, seed=n, counter=counter) for n, p in enumerate(phases)]
    bench = Bench(*devices)
    now = bench.clock.monotonic()
    for device in devices:
        device.work(now, now + LONG, watts)
    bench.clock.sleep(0.5 + delay)
    steady, truth = bench.steady(seconds)
    assert steady.reading.valid
    assert steady.reading.seconds == pytest.approx(steady.ended - steady.started)
    assert seconds - 0.011 <= steady.reading.seconds <= seconds + 0.2
    assert now < steady.started
    assert steady.ended <= bench.clock.monotonic()
    assert len(steady.reading.devices) == len(phases)
    assert abs(steady.reading.joules - truth) <= 5 * steady.reading.uncertainty_joules


def test_devices_whose_power_steps_in_between_are_metered_over_one_common_window() -> None:
    devices = [SimulatedDevice(uuid=f"GPU-{n}", phase=0.033 * n, seed=n) for n in range(3)]
    bench = Bench(*devices)
    sigmas = []
    for number in range(60):
        now = bench.clock.monotonic()
        for place, device in enumerate(devices):
            for step in range(40):
                device.work(
                    now + 0.1 * step, now + 0.1 * (step + 1), 200 + 150 * ((step + number) % 3) + 40 * place
                )
        bench.clock.sleep(0.5)
        steady, truth = bench.steady(1.0)
        assert steady.reading.valid
        sigmas.append((steady.reading.joules - truth) / steady.reading.uncertainty_joules)
        bench.clock.sleep(now + 5.0 - bench.clock.monotonic())
    assert statistics.fmean(abs(sigma) <= 2 for sigma in sigmas) > 0.9


@pytest.mark.parametrize(("plant", "code"), FAULTS)
def test_a_fault_within_a_load_makes_the_window_invalid_by_its_own_code(plant: Plant, code: str) -> None:
    device = SimulatedDevice()
    bench = Bench(device)
    now = bench.clock.monotonic()
    device.work(now, now + LONG, 500.0)
    before, _ = bench.steady(1.0)
    assert before.reading.valid
    steady, _ = bench.steady(1.5, plant=plant)
    assert code in [reason.code for reason in steady.reading.invalid]


def test_a_window_after_a_load_waits_for_idle_again() -> None:
    device = SimulatedDevice()
    bench = Bench(device)
    first, _ = bench.window(0.5)
    now = bench.clock.monotonic()
    device.work(now, now + 3.0, 500.0)
    steady, _ = bench.steady(1.0)
    bench.clock.sleep(now + 3.0 - bench.clock.monotonic())
    after, (truth,) = bench.window(0.5)
    assert first.valid
    assert steady.reading.valid
    assert after.valid
    assert after.joules == pytest.approx(truth, abs=5 * after.uncertainty_joules)
