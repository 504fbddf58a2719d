"""What on a device makes a window invalid, whatever its counter says."""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from pytest_llm_energy.hardware.strangers import strangers_to_this_process
from pytest_llm_energy.metering.meter import Invalid
from pytest_llm_energy.metering.witness import Record

Strangers = Callable[[Iterable[int]], list[int]]
"""Which of some process ids belong to somebody else."""


def present(
    nvml: Any,
    handles: Mapping[str, Any],
    records: Mapping[str, Record],
    *,
    strangers: Strangers,
    untold: tuple[type[Exception], ...],
) -> list[Invalid]:
    """Multi-instance mode, and processes of others: now, or seen in the window."""

    def told(ask: Callable[[Any], Any], handle: Any) -> Any:
        try:
            return ask(handle)
        except untold:
            return None

    found = []
    for uuid, handle in handles.items():
        mode = told(nvml.nvmlDeviceGetMigMode, handle)
        if mode is not None and mode[0]:
            says = "readings are of the whole card, whatever an instance draws; turn it off to meter"
            found.append(Invalid("mig-on", f"{uuid}: multi-instance mode is on: {says}"))
        processes = told(nvml.nvmlDeviceGetComputeRunningProcesses, handle) or ()
        seen = records[uuid].foreign if uuid in records else set()
        if foreign := sorted({*strangers([process.pid for process in processes]), *seen}):
            says = f"other processes are on the device: pid {', '.join(map(str, foreign))}; end or move them"
            found.append(Invalid("foreign-process", f"{uuid}: {says}"))
    return found


def witnessed(nvml: Any, records: Mapping[str, Record]) -> list[Invalid]:
    """Clock events that were seen in the window."""
    thermal = nvml.nvmlClocksThrottleReasonHwThermalSlowdown | nvml.nvmlClocksThrottleReasonSwThermalSlowdown
    events = 0
    for record in records.values():
        events |= record.events
    found = []
    if events & thermal:
        found.append(Invalid("thermal-slowdown", "a device slowed down because it was hot: check its cooling"))
    if events & nvml.nvmlClocksThrottleReasonHwPowerBrakeSlowdown:
        found.append(Invalid("power-brake", "the host's power brake slowed a device: check the power supply"))
    return found


def strangers_beside(served_by: Callable[[], Collection[int]]) -> Strangers:
    """Strangers to this process that are none of a server's either.

    Args:
        served_by: the server's process ids, as they are now.
    """

    def strangers(pids: Iterable[int]) -> list[int]:
        served = served_by()
        return [pid for pid in strangers_to_this_process(pids) if pid not in served]

    return strangers
