"""A pytest plugin that gives pytest GPUs which are not here, and a meter that logs who used which when.

Load it with ``-p tests.simulated_host``. SIMULATED_DEVICES says how many there are, SIMULATED_LOG where the windows
are logged, as JSON lines, SIMULATED_STRANGER, if set, the id of a process that computes on the first, and
SIMULATED_PROBLEM, if set, what is wrong with the others.
"""

import os
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import msgspec

from pytest_llm_energy import session
from pytest_llm_energy.hardware.catalogue import CPU, gpu_spec
from pytest_llm_energy.hardware.detection import Device, Host
from pytest_llm_energy.hardware.fingerprint import boards
from pytest_llm_energy.hardware.leases import Leases
from pytest_llm_energy.hardware.strangers import Processes
from pytest_llm_energy.metering.meter import Meter, Reading, Steady, between_reads

WATTS = 100.0


class Used(msgspec.Struct, frozen=True):
    """A window: which process used which devices, between two moments of the host's monotonic clock."""

    pid: int
    devices: tuple[str, ...]
    boards: tuple[str, ...]
    test: str
    opened: float
    closed: float

    @property
    def case(self) -> str:
        """The case that it was of, as its key calls it."""
        name = self.test.split("::")[1].split(" ")[0].removeprefix("test_")
        return name.replace("[h200]", "").replace("[h200-", "[")


def simulated_devices(count: int) -> tuple[Device, ...]:
    return tuple(Device(index=i, uuid=f"GPU-simulated-{i}", name="NVIDIA H200") for i in range(count))


def simulated_host(count: int) -> Host:
    problem = os.environ.get("SIMULATED_PROBLEM")
    if count == 0:
        return Host(spec=CPU, problem=problem)
    return Host(spec=gpu_spec("h200"), devices=simulated_devices(count), driver="simulated", problem=problem)


class LoggingMeter:
    """Meters as if the devices drew one power all the time."""

    method = "simulated"
    estimated = False
    source = "simulated devices"

    def __init__(self, devices: Sequence[Device], log: Path) -> None:
        self.devices = devices
        self.log = log

    def open(self) -> "LoggingWindow":
        return LoggingWindow(self)

    def steady(self, seconds: float) -> Steady:
        return between_reads(self.open, seconds)

    def shutdown(self) -> None:
        pass


class LoggingWindow:
    def __init__(self, meter: LoggingMeter) -> None:
        self._meter = meter
        self._opened = time.monotonic()

    def close(self, started: float, ended: float) -> Reading:
        devices = self._meter.devices
        used = Used(
            os.getpid(),
            tuple(device.uuid for device in devices),
            boards(devices),
            os.environ["PYTEST_CURRENT_TEST"],
            self._opened,
            time.monotonic(),
        )
        with self._meter.log.open("ab", buffering=0) as file:
            file.write(msgspec.json.encode(used) + b"\n")
        joules = WATTS * (ended - started)
        return Reading(joules=joules, seconds=ended - started, uncertainty_joules=joules * 0.01, method="simulated")

    def abandon(self) -> None:
        pass


def windows_in(log: Path) -> list[Used]:
    return [msgspec.json.decode(line, type=Used) for line in log.read_bytes().splitlines()]


def _meter(name: str, devices: Sequence[Device], **_: object) -> Meter:
    return LoggingMeter(devices, Path(os.environ["SIMULATED_LOG"]))


def _processes(uuid: str, **_: object) -> Processes:
    pid = os.environ.get("SIMULATED_STRANGER")
    return Processes(strangers=(int(pid),) if pid and uuid == simulated_devices(1)[0].uuid else ())


def pytest_configure() -> None:
    session.detect = lambda: simulated_host(int(os.environ["SIMULATED_DEVICES"]))  # type: ignore[attr-defined]
    session.choose_meter = _meter  # type: ignore[attr-defined]
    session.processes_on = _processes  # type: ignore[assignment,attr-defined]
    session.Leases = partial(Leases, ending_seconds=0.5)  # type: ignore[assignment,attr-defined]
