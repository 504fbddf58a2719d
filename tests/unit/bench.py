"""Simulated devices with the NVML meter on them, and faults to plant in them."""

from collections.abc import Callable, Iterable

import pytest

from pytest_llm_energy.hardware.detection import Device
from pytest_llm_energy.metering.meter import Reading, Steady
from pytest_llm_energy.metering.nvml import NvmlMeter
from pytest_llm_energy.metering.simulated import SimulatedDevice, SimulatedNvml, VirtualClock

Plant = Callable[[SimulatedDevice, float], None]
"""Plants a fault in a device, given the present moment."""


def everybody(pids: Iterable[int]) -> list[int]:
    return list(pids)


class Bench:
    """Simulated devices, the meter on them, and their clock."""

    def __init__(self, *devices: SimulatedDevice, name: str = "NVIDIA H200") -> None:
        self.devices = devices
        self.clock = VirtualClock()
        self.meter = NvmlMeter(
            [Device(index=index, uuid=device.uuid, name=name) for index, device in enumerate(devices)],
            nvml=SimulatedNvml(self.clock, *devices),
            clock=self.clock,
            strangers=everybody,
        )

    def window(
        self, length: float, watts: float = 600.0, *, delay: float = 0.0, plant: Plant | None = None
    ) -> tuple[Reading, list[float]]:
        """One metered window of constant work after a delay, with the joules each device truly drew in it."""
        window = self.meter.open()
        self.clock.sleep(delay)
        started = self.clock.monotonic()
        ended = started + length
        for device in self.devices:
            device.work(started, ended, watts)
            if plant:
                plant(device, started)
        self.clock.sleep(length + 0.001)
        reading = window.close(started, ended)
        return reading, [device.true_joules(started, ended) for device in self.devices]

    def trace(self, pieces: list[tuple[float, float]], *, delay: float) -> tuple[Reading, float]:
        """One metered window of work whose power changes, with the joules that the only device truly drew in it."""
        (device,) = self.devices
        window = self.meter.open()
        self.clock.sleep(delay)
        started = ended = self.clock.monotonic()
        for length, watts in pieces:
            device.work(ended, ended + length, watts)
            ended += length
        self.clock.sleep(ended - started)
        return window.close(started, ended), device.true_joules(started, ended)

    def steady(self, seconds: float, *, plant: Plant | None = None) -> tuple[Steady, float]:
        """A metered window within whatever load the devices were given, with the joules they truly drew in it."""
        if plant:
            for device in self.devices:
                plant(device, self.clock.monotonic())
        steady = self.meter.steady(seconds)
        return steady, sum(device.true_joules(steady.started, steady.ended) for device in self.devices)


def reset(device: SimulatedDevice, now: float) -> None:
    device.reset_at = now + 0.5


def stuck(device: SimulatedDevice, now: float) -> None:
    device.stuck_at = now + 0.5


def lost(device: SimulatedDevice, now: float) -> None:
    device.lost_at = now + 0.5


def event(bit: int) -> Plant:
    def plant(device: SimulatedDevice, now: float) -> None:
        device.events += [(now + 0.4, bit), (now + 0.6, 0)]

    return plant


def visited(device: SimulatedDevice, now: float) -> None:
    device.processes.append((now + 0.5, (4711,)))


def passed_by(device: SimulatedDevice, now: float) -> None:
    device.processes += [(now + 0.3, (4711,)), (now + 0.7, ())]


def partitioned(device: SimulatedDevice, now: float) -> None:
    device.mig = True


FAULTS = [
    pytest.param(reset, "counter-reset", id="driver-reloaded"),
    pytest.param(stuck, "stale-counter", id="counter-stands-still"),
    pytest.param(lost, "device-lost", id="device-lost"),
    pytest.param(event(0x40), "thermal-slowdown", id="hardware-thermal"),
    pytest.param(event(0x20), "thermal-slowdown", id="software-thermal"),
    pytest.param(event(0x80), "power-brake", id="power-brake"),
    pytest.param(visited, "foreign-process", id="foreign-process"),
    pytest.param(passed_by, "foreign-process", id="foreign-process-that-left"),
    pytest.param(partitioned, "mig-on", id="mig-turned-on"),
]
"""Faults within a window of a second, and the code of each."""
