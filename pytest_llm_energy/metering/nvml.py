"""NVIDIA's energy counter: millijoules per device since the driver was loaded.

``nvmlDeviceGetTotalEnergyConsumption`` (Volta and later) advances once per tick and lags the load by up to
one tick, so a difference over a window is off by up to a tick of power at either end; the stated uncertainty
says so.
"""

from collections.abc import Sequence
from typing import Any

import pynvml

from pytest_llm_energy.errors import MeterError
from pytest_llm_energy.hardware.detection import Device
from pytest_llm_energy.metering.meter import DeviceReading, Invalid, Reading, no_energy

TICK_SECONDS = 0.1
"""Refresh period of the counter: 97-103 ms on an H200 with driver 580."""


class NvmlCounterMeter:
    """Difference of NVML's energy counters over a window, summed over the devices."""

    method = "nvml-counter"
    estimated = False

    def __init__(self, devices: Sequence[Device]) -> None:
        """Find the devices by UUID and prove that each one's counter answers.

        Raises:
            MeterError: NVML does not start, or a device has no working counter.
        """
        try:
            pynvml.nvmlInit()
            self._handles = {d.uuid: pynvml.nvmlDeviceGetHandleByUUID(d.uuid) for d in devices}
            driver = pynvml.nvmlSystemGetDriverVersion()
        except pynvml.NVMLError as error:
            raise MeterError(f"NVML cannot reach the devices to meter: {error}") from error
        for device in devices:
            try:
                self._millijoules(device.uuid)
            except pynvml.NVMLError as error:
                raise MeterError(
                    f"GPU {device.index} ({device.name}) has no energy counter ({error}): vGPUs and GPUs "
                    "before Volta lack it."
                ) from error
        self.source = f"NVML energy counter, driver {driver}, {len(devices)} device(s)"

    def open(self) -> "_CounterWindow":
        """Read every counter; the work may start at once."""
        return _CounterWindow(self, self.read())

    def read(self) -> dict[str, float]:
        """Joules since driver load, by device UUID."""
        try:
            return {uuid: self._millijoules(uuid) / 1000 for uuid in self._handles}
        except pynvml.NVMLError as error:
            raise MeterError(f"the energy counter stopped answering: {error}") from error

    def shutdown(self) -> None:
        """Release NVML."""
        pynvml.nvmlShutdown()

    def _millijoules(self, uuid: str) -> Any:
        return pynvml.nvmlDeviceGetTotalEnergyConsumption(self._handles[uuid])


class _CounterWindow:
    def __init__(self, meter: NvmlCounterMeter, before: dict[str, float]) -> None:
        self._meter = meter
        self._before = before

    def abandon(self) -> None:
        pass

    def close(self, started: float, ended: float) -> Reading:
        after = self._meter.read()
        spent = {uuid: after[uuid] - joules for uuid, joules in self._before.items()}
        seconds = ended - started
        reasons: list[Invalid] = []
        for uuid, joules in spent.items():
            advice = f"was the driver reloaded, or is device {uuid} gone? Check nvidia-smi and run again"
            reasons += no_energy(joules, seconds, advice)
        total = sum(spent.values())
        return Reading(
            joules=total,
            seconds=seconds,
            # A tick of mean power is lost or gained at either end, each uniformly distributed.
            uncertainty_joules=abs(total) / max(seconds, TICK_SECONDS) * TICK_SECONDS * (2 / 12) ** 0.5,
            method=self._meter.method,
            devices=tuple(DeviceReading(device=uuid, joules=joules) for uuid, joules in spent.items()),
            invalid=tuple(reasons),
        )
