"""Metering a server that runs already: its processes are none of ours, and no strangers either."""

import psutil

from pytest_llm_energy.errors import MeterError
from pytest_llm_energy.hardware.server import ServerProcesses
from pytest_llm_energy.metering.codecarbon_process import CodeCarbonProcessMeter
from pytest_llm_energy.metering.conditions import strangers_beside
from pytest_llm_energy.metering.meter import Meter
from pytest_llm_energy.metering.nvml import NvmlMeter

LEAST_SERVER_BYTES = 2 * 2**30
"""Memory that an idle device does not have in use: an H200's driver keeps 0.6 GB."""


def meter_server(meter: Meter, server: ServerProcesses) -> None:
    """Let a meter know the server's processes, and say in its source what could not be known.

    Raises:
        MeterError: the meter would miss the server.
    """
    if isinstance(meter, NvmlMeter):
        meter.source += f"; {_admit(meter, server)}"
    elif isinstance(meter, CodeCarbonProcessMeter):
        if server.problem:
            raise MeterError(
                f"CodeCarbon's estimate is of processes, and the server's are not known: {server.problem}. "
                "Run as the server's user and in its container, or meter by RAPL or a GPU"
            )
        meter.follow(server.pids)
        meter.source += f"; {_known(server)}"
    elif server.problem:
        meter.source += f"; {server.problem}"


def _admit(meter: NvmlMeter, server: ServerProcesses) -> str:
    """Take the server's processes for no strangers; what is known of them, in words."""
    present = _processes(meter)
    _require_on_devices(server, present)
    known = server.pids()
    if known and (known & present or not present):
        meter.strangers = strangers_beside(server.pids)
        return _known(server)
    why = server.problem or "none of its processes is on the devices"
    if not present and _memory_bytes(meter) < LEAST_SERVER_BYTES:
        raise MeterError(
            f"nothing runs on the devices to be metered, and the server was not found ({why}): does it run on this "
            "host, and on these devices (--energy-endpoint-gpus)? One that loads models on demand wants a request "
            "first"
        )
    meter.strangers = strangers_beside(lambda: present)
    return f"the server cannot be told from others ({why}): what was on the devices before is taken for it"


def _require_on_devices(server: ServerProcesses, present: frozenset[int]) -> None:
    """Every server whose processes are known must have some among those on the devices, if these are told at all.

    Raises:
        MeterError: one runs elsewhere.
    """
    if not any(map(psutil.pid_exists, present)):
        return
    for url in server.urls:
        pids = ServerProcesses(url).pids()
        if pids and not pids & present:
            raise MeterError(
                f"the server at {url} (pid {', '.join(map(str, sorted(pids)))}) is not on the devices to be "
                f"metered, and others are (pid {', '.join(map(str, sorted(present)))}): name its devices with "
                "--energy-endpoint-gpus"
            )


def _processes(meter: NvmlMeter) -> frozenset[int]:
    """Ids of the processes on the devices, as far as they are told."""
    found: set[int] = set()
    for handle in meter.handles.values():
        try:
            found |= {process.pid for process in meter.nvml.nvmlDeviceGetComputeRunningProcesses(handle)}
        except meter.untold:
            continue
    return frozenset(found)


def _memory_bytes(meter: NvmlMeter) -> int:
    """Memory in use on all devices together."""
    return sum(int(meter.nvml.nvmlDeviceGetMemoryInfo(handle).used) for handle in meter.handles.values())


def _known(server: ServerProcesses) -> str:
    return f"the server is pid {', '.join(map(str, sorted(server.listeners)))} and its job"
