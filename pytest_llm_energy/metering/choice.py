"""Which meter this host can offer."""

from collections.abc import Callable, Sequence

from pytest_llm_energy.errors import MeterError, UsageError
from pytest_llm_energy.hardware.detection import Device
from pytest_llm_energy.hardware.server import ServerProcesses
from pytest_llm_energy.hardware.strangers import Beginning, Kin
from pytest_llm_energy.metering.meter import Meter

METERS = ("auto", "nvml", "rapl", "codecarbon")


def choose_meter(
    name: str, devices: Sequence[Device], *, kin: Kin | None = None, server: ServerProcesses | None = None
) -> Meter:
    """Make the meter of that name; ``auto`` takes the most exact one this host has.

    Args:
        name: one of METERS.
        devices: leased GPUs, empty on a host without.
        kin: processes that work for this one and are no descendants.
        server: what serves there beside this process and its descendants, None where nothing does.

    Raises:
        UsageError: the name is unknown, or the meter is not of what the work runs on.
        MeterError: the meter cannot work here.
    """
    if devices and name == "rapl":
        raise UsageError("--energy-meter=rapl meters the processor, and the work runs on a GPU: use nvml")
    makers: dict[str, Callable[[], Meter]] = {
        "nvml": lambda: _nvml(devices, kin or Kin()),
        "rapl": _rapl,
        "codecarbon": lambda: _codecarbon(devices),
    }
    if name == "auto":
        name = _most_exact(devices)
    if name not in makers:
        raise UsageError(f"unknown meter {name!r}; known: {', '.join(METERS)}")
    meter = makers[name]()
    if server is not None:
        from pytest_llm_energy.metering.server import meter_server

        meter_server(meter, server)
    return meter


def _most_exact(devices: Sequence[Device]) -> str:
    if devices:
        return "nvml"
    from pytest_llm_energy.metering.rapl import packages

    return "rapl" if packages() else "codecarbon"


def include(meter: Meter, kin: Kin, processes: Sequence[Beginning]) -> None:
    """Let a meter that meters processes know those of an engine that has just started.

    Args:
        meter: any; most meter devices, whoever works on them.
        kin: what is known of engines whose processes are no descendants of this one.
        processes: the engine's, as they see themselves, the worker first.

    Raises:
        MeterError: the meter would miss them.
    """
    from pytest_llm_energy.metering.codecarbon_process import CodeCarbonProcessMeter

    if not isinstance(meter, CodeCarbonProcessMeter):
        return
    if processes and not kin.sees(processes[0]):
        raise MeterError(
            "CodeCarbon's estimate is of processes, and the engine's cannot be seen from here: is pytest in a "
            "container of its own? Run it outside, or meter by RAPL or a GPU"
        )
    if kin.apart():
        meter.follow(kin.apart)


def _nvml(devices: Sequence[Device], kin: Kin) -> Meter:
    if not devices:
        raise UsageError("--energy-meter=nvml needs a GPU, and none is leased on this host")
    from pytest_llm_energy.metering.nvml import NvmlMeter

    return NvmlMeter(devices, strangers=kin.strangers)


def _rapl() -> Meter:
    from pytest_llm_energy.metering.rapl import RaplMeter

    return RaplMeter()


def _codecarbon(devices: Sequence[Device]) -> Meter:
    from pytest_llm_energy.metering.codecarbon_gpu import CodeCarbonGpuMeter
    from pytest_llm_energy.metering.codecarbon_process import CodeCarbonProcessMeter

    return CodeCarbonGpuMeter(devices) if devices else CodeCarbonProcessMeter()
