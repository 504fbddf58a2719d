"""Who computes on a device: this process or strangers, as far as this host lets them be told apart."""

import os
from collections.abc import Iterable
from typing import Any, NamedTuple

import psutil


def untold(nvml: Any) -> tuple[type[Exception], ...]:
    """The errors by which a device or driver says that it does not tell something."""
    names = ("NVMLError_NotSupported", "NVMLError_NoPermission", "NVMLError_FunctionNotFound")
    kinds = [getattr(nvml, name, None) for name in (*names, "NVMLLibraryMismatchError")]
    return tuple(kind for kind in kinds if kind is not None)


def strangers_to_this_process(pids: Iterable[int]) -> list[int]:
    """Process ids that exist here and are neither this process nor its descendants.

    In a container NVML may report ids of the host, which mean nothing here and are left out.
    """
    own = {os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))}
    return [pid for pid in pids if pid not in own and psutil.pid_exists(pid)]


class Processes(NamedTuple):
    """Ids of processes that compute on a device: this process and its descendants, and those of others."""

    own: tuple[int, ...] = ()
    strangers: tuple[int, ...] = ()


def processes_on(uuid: str, nvml: Any = None) -> Processes:
    """Who computes on a device; nobody where NVML does not tell.

    Args:
        uuid: the device.
        nvml: the module pynvml, or something with its functions.
    """
    if nvml is None:
        import pynvml

        nvml = pynvml
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return Processes()
    try:
        listed = nvml.nvmlDeviceGetComputeRunningProcesses(nvml.nvmlDeviceGetHandleByUUID(uuid))
    except (nvml.NVMLError, *untold(nvml)):
        return Processes()
    finally:
        nvml.nvmlShutdown()
    pids = {process.pid for process in listed if psutil.pid_exists(process.pid)}
    strangers = set(strangers_to_this_process(pids))
    return Processes(own=tuple(sorted(pids - strangers)), strangers=tuple(sorted(strangers)))
