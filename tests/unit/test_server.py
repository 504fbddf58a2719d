"""What hardware and meters know of a server that runs already."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_llm_energy.errors import MeterError, UsageError
from pytest_llm_energy.hardware.detection import Device
from pytest_llm_energy.hardware.server import ServerProcesses, devices_named
from pytest_llm_energy.hardware.strangers import strangers_to_this_process
from pytest_llm_energy.metering.codecarbon_process import CodeCarbonProcessMeter
from pytest_llm_energy.metering.nvml import NvmlMeter
from pytest_llm_energy.metering.server import meter_server
from pytest_llm_energy.metering.simulated import SimulatedDevice, SimulatedNvml, VirtualClock

LISTENER = """
import os, socket, subprocess, time
if os.fork():
    os._exit(0)
os.setsid()
listening = socket.create_server(("127.0.0.1", 0))
child = subprocess.Popen(["sleep", "600"], stdout=subprocess.DEVNULL)
print(listening.getsockname()[1], os.getpid(), child.pid, flush=True)
os.close(1)
time.sleep(600)
"""
"""A server that is no descendant of who started it, and one process that it started."""


def test_devices_are_named_by_index_or_uuid() -> None:
    devices = [Device(index=index, uuid=f"GPU-{letter}", name="x") for index, letter in ((2, "aa"), (3, "bb"))]
    assert [device.index for device in devices_named(devices, ["GPU-bb", "2"])] == [3, 2]
    for wrong in (["0"], ["2", "GPU-aa"], ["GPU-"]):
        with pytest.raises(UsageError, match=r"devices, each once: 2 \(GPU-aa\), 3 \(GPU-bb\)"):
            devices_named(devices, wrong)


class Nvml(SimulatedNvml):
    """Also tells the memory in use."""

    used = 0

    def nvmlDeviceGetMemoryInfo(self, handle: Any) -> Any:  # noqa: N802 - NVML's name
        return SimpleNamespace(used=self.used)


def meter_of(*pids: int, used: int = 80 * 2**30) -> NvmlMeter:
    """A meter of a device on which these processes are."""
    clock = VirtualClock()
    device = SimulatedDevice("GPU-a")
    device.processes.append((0.0, pids))
    nvml = Nvml(clock, device)
    nvml.used = used
    return NvmlMeter([Device(index=0, uuid="GPU-a", name="NVIDIA H200")], nvml=nvml, clock=clock)


@pytest.fixture
def listeners() -> Iterator[tuple[tuple[str, int, int], tuple[str, int, int]]]:
    """Two servers, each in a job of its own: their URLs, their processes, and what these started."""
    started = []
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", LISTENER], stdout=subprocess.PIPE, text=True, check=True)
        port, pid, child = map(int, done.stdout.split())
        started.append((f"http://127.0.0.1:{port}/v1", pid, child))
    yield started[0], started[1]
    for _, pid, _ in started:
        os.killpg(pid, signal.SIGKILL)


Listeners = tuple[tuple[str, int, int], tuple[str, int, int]]


def test_a_servers_processes_are_no_strangers_and_others_are(listeners: Listeners) -> None:
    (url, pid, child), (_, other, _) = listeners
    assert strangers_to_this_process([pid, child]) == [pid, child]
    meter = meter_of(pid, child)
    meter_server(meter, ServerProcesses(url))
    assert f"the server is pid {pid} and its job" in meter.source
    assert meter.strangers([os.getpid(), pid, child, other]) == [other]
    assert meter.open().trouble == []


def test_a_server_is_found_by_the_address_that_it_prints(listeners: Listeners) -> None:
    (url, pid, _), _ = listeners
    for everywhere in ("0.0.0.0", "[::]"):
        server = ServerProcesses(url.replace("127.0.0.1", everywhere))
        assert server.listeners == {pid}
        assert server.problem is None


def test_a_server_that_cannot_be_found_is_taken_for_what_was_there_before(listeners: Listeners) -> None:
    (_, pid, _), (_, other, newcomer) = listeners
    meter = meter_of(other)
    meter_server(meter, ServerProcesses("http://10.255.0.1/v1"))
    assert "the server cannot be told from others" in meter.source
    assert "no address of" in meter.source
    assert meter.strangers([other, newcomer, pid]) == [newcomer, pid]


def test_a_server_that_is_on_other_devices_is_not_metered_on_these(listeners: Listeners) -> None:
    (url, pid, _), (here, other, _) = listeners
    for servers in ((url,), (here, url)):
        says = rf"pid {pid}.* is not on the devices.*pid {other}.*--energy-endpoint-gpus"
        with pytest.raises(MeterError, match=says):
            meter_server(meter_of(other), ServerProcesses(*servers))


def test_devices_on_which_nothing_runs_are_not_metered_for_a_server_that_is_not_found() -> None:
    with pytest.raises(MeterError, match=r"nothing runs on the devices.*who listens at .* is in another container"):
        meter_server(meter_of(used=2**29), ServerProcesses("http://127.0.0.1:9/v1"))


def test_an_estimate_by_processes_is_refused_where_the_servers_are_not_known() -> None:
    meter = CodeCarbonProcessMeter()
    with pytest.raises(MeterError, match=r"the server's are not known: 10.255.0.1 is no address of this host"):
        meter_server(meter, ServerProcesses("http://10.255.0.1/v1"))


BUSY = """
import os
if os.fork():
    os._exit(0)
print(os.getpid(), flush=True)
os.close(1)
while True:
    pass
"""


def test_an_estimate_covers_the_server_that_it_follows() -> None:
    done = subprocess.run([sys.executable, "-c", BUSY], stdout=subprocess.PIPE, text=True, check=True)
    busy = int(done.stdout)
    try:
        meter = CodeCarbonProcessMeter()

        def idle_window() -> float:
            window = meter.open()
            started = time.monotonic()
            time.sleep(1.0)
            return window.close(started, time.monotonic()).joules

        alone = idle_window()
        meter.follow(lambda: [busy])
        assert idle_window() > 5 * alone + 1.0
    finally:
        os.kill(busy, signal.SIGKILL)
