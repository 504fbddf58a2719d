"""Which meter this host can offer."""

from collections.abc import Callable, Sequence

from pytest_llm_energy.errors import UsageError
from pytest_llm_energy.hardware.detection import Device
from pytest_llm_energy.hardware.server import ServerProcesses
from pytest_llm_energy.metering.meter import Meter

METERS = ("auto", "nvml", "rapl", "codecarbon")


def choose_meter(name: str, devices: Sequence[Device], *, server: ServerProcesses | None = None) -> Meter:
    """Make the meter of that name; ``auto`` takes the most exact one this host has.

    Args:
        name: one of METERS.
        devices: leased GPUs, empty on a host without.
        server: what serves there beside this process and its descendants, None where nothing does.

    Raises:
        UsageError: the name is unknown, or the meter is not of what the work runs on.
        MeterError: the meter cannot work here.
    """
    if devices and name == "rapl":
        raise UsageError("--energy-meter=rapl meters the processor, and the work runs on a GPU: use nvml")
    makers: dict[str, Callable[[], Meter]] = {
        "nvml": lambda: _nvml(devices),
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


def _nvml(devices: Sequence[Device]) -> Meter:
    if not devices:
        raise UsageError("--energy-meter=nvml needs a GPU, and none is leased on this host")
    from pytest_llm_energy.metering.nvml import NvmlMeter

    return NvmlMeter(devices)


def _rapl() -> Meter:
    from pytest_llm_energy.metering.rapl import RaplMeter

    return RaplMeter()


def _codecarbon(devices: Sequence[Device]) -> Meter:
    from pytest_llm_energy.metering.codecarbon_gpu import CodeCarbonGpuMeter
    from pytest_llm_energy.metering.codecarbon_process import CodeCarbonProcessMeter

    return CodeCarbonGpuMeter(devices) if devices else CodeCarbonProcessMeter()
