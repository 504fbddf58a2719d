"""Who computes on a device: this process or strangers, as far as this host lets them be told apart."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
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


Beginning = tuple[int, int]
"""A process as itself sees it: its id in its own namespace, and when it began, in clock ticks since boot."""


class Kin:
    """Processes that work for this one though they are no descendants: those of an engine in a container.

    A container's process has another id outside. It is known by both of what Linux tells inside and outside alike:
    its innermost id and when it began.
    """

    def __init__(self, proc: Path = Path("/proc")) -> None:
        """Know nobody yet.

        Args:
            proc: where the kernel tells of processes.
        """
        self._proc = proc
        self._known: set[Beginning] = set()

    def admit(self, processes: Iterable[Beginning]) -> None:
        """Take processes for ours, as they themselves told who they are."""
        self._known.update(processes)

    def strangers(self, pids: Iterable[int]) -> list[int]:
        """Those among some process ids that belong to somebody else."""
        return [pid for pid in strangers_to_this_process(pids) if self._beginning(pid) not in self._known]

    def apart(self) -> tuple[int, ...]:
        """Ids of the processes that are ours and no descendants, as they are now."""
        own = {os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))}
        return tuple(pid for pid in psutil.pids() if pid not in own and self._beginning(pid) in self._known)

    def here(self, processes: Iterable[Beginning]) -> tuple[int, ...]:
        """The ids that processes have here, in no order; those that cannot be seen from here have none."""
        told = set(processes)
        return tuple(pid for pid in psutil.pids() if self._beginning(pid) in told)

    def sees(self, process: Beginning) -> bool:
        """Whether a process can be seen from here."""
        return bool(self.here([process]))

    def _beginning(self, pid: int) -> Beginning | None:
        try:
            status = (self._proc / str(pid) / "status").read_bytes()
            stat = (self._proc / str(pid) / "stat").read_bytes()
        except OSError:
            return None
        ids = next((line.split()[1:] for line in status.splitlines() if line.startswith(b"NSpid:")), [b"%d" % pid])
        # proc(5): the beginning is field 22, and the second, the name in brackets, may hold any bytes.
        return int(ids[-1]), int(stat.rpartition(b")")[2].split()[19])


class Processes(NamedTuple):
    """Ids of processes that compute on a device: this process and its descendants, and those of others."""

    own: tuple[int, ...] = ()
    strangers: tuple[int, ...] = ()


def processes_on(
    uuid: str, nvml: Any = None, *, strangers: Callable[[Iterable[int]], list[int]] = strangers_to_this_process
) -> Processes:
    """Who computes on a device; nobody where NVML does not tell.

    Args:
        uuid: the device.
        nvml: the module pynvml, or something with its functions.
        strangers: which of some process ids belong to somebody else.
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
    others = set(strangers(pids))
    return Processes(own=tuple(sorted(pids - others)), strangers=tuple(sorted(others)))
