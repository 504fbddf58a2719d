"""CodeCarbon's share of the leased GPUs: for cross-checking with figures that were taken by it.

It reads NVML's energy counter once at either end of a task. The counter advances every 100 ms, so the last of the
work is missed, and it is not told when other processes, heat or power limits disturbed the window: for judging
levels, ``nvml`` is the better meter.
"""

from collections.abc import Sequence

from pytest_llm_energy.hardware.detection import Device
from pytest_llm_energy.metering.codecarbon import (
    JOULES_PER_KWH,
    MakeTracker,
    Tasks,
    name_and_version,
    offline_tracker,
)
from pytest_llm_energy.metering.meter import Invalid, Reading, Steady, between_reads, no_energy

TICK_SECONDS = 0.1
"""NVML's energy counter advances this often."""

ADVICE = "did the work run on the leased GPUs, and is nvidia-smi, by which CodeCarbon finds any, on the PATH?"


class CodeCarbonGpuMeter:
    """The GPUs' share of a CodeCarbon task, offline."""

    method = "codecarbon-gpu"
    estimated = False

    def __init__(self, devices: Sequence[Device], *, make: MakeTracker | None = None) -> None:
        """Start an offline tracker of these devices.

        Args:
            devices: what to meter.
            make: makes the tracker; by default CodeCarbon's own.

        Raises:
            MeterError: CodeCarbon is not installed.
        """
        self._tasks = Tasks(make or offline_tracker(gpu_ids=gpu_ids(devices)))
        self.source = (
            f"{name_and_version()}, GPUs' share (counter difference, up to a tick short), pue 1, "
            f"{len(devices)} device(s)"
        )

    def open(self) -> "_GpuWindow":
        """Start a task.

        Raises:
            MeterError: a window is open already; CodeCarbon has one task at a time.
        """
        return _GpuWindow(self._tasks, self._tasks.start())

    def steady(self, seconds: float) -> Steady:
        """Meter a load that lasts."""
        return between_reads(self.open, seconds)

    def shutdown(self) -> None:
        """Nothing runs between windows: tasks end with them, and the tracker's timers are daemons."""


class _GpuWindow:
    def __init__(self, tasks: Tasks, name: str) -> None:
        self._tasks = tasks
        self._name = name

    def abandon(self) -> None:
        self._tasks.abandon(self._name)

    def close(self, started: float, ended: float) -> Reading:
        task = self._tasks.stop(self._name)
        seconds = ended - started
        joules = task.gpu_energy * JOULES_PER_KWH if task is not None else 0.0
        invalid = no_energy(joules, seconds, ADVICE)
        if task is None:
            invalid = (Invalid("meter-failed", "CodeCarbon returned no task; see its log"),)
        return Reading(
            joules=joules,
            seconds=seconds,
            uncertainty_joules=abs(joules) * TICK_SECONDS / max(seconds, TICK_SECONDS),
            method=CodeCarbonGpuMeter.method,
            invalid=invalid,
        )


def gpu_ids(devices: Sequence[Device]) -> list[int]:
    """What CodeCarbon calls these devices: NVML's numbers of them.

    It takes UUIDs too, but 3.3.2 cuts the ``G`` off ``GPU-...`` when it strips a prefix ``MIG-``, finds no such
    device and meters none.
    """
    return [device.index if device.nvml_index is None else device.nvml_index for device in devices]
