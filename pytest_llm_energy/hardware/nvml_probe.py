"""Print this host's NVIDIA devices as JSON; run as a module, in a process of its own."""

import sys
from collections.abc import Callable
from typing import Any

import msgspec
import pynvml

from pytest_llm_energy.hardware.detection import Device, Probe


def probe() -> Probe:
    """Ask NVML for every device; a missing driver is an answer, not an error."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return Probe(problem=f"NVML cannot start: {error}")
    try:
        devices, lost = _devices()
        version = pynvml.nvmlSystemGetCudaDriverVersion_v2()
        return Probe(
            devices=devices,
            driver=_text(pynvml.nvmlSystemGetDriverVersion()),
            cuda=f"{version // 1000}.{version % 1000 // 10}",
            problem="; ".join(lost) or None,
        )
    finally:
        pynvml.nvmlShutdown()


def _devices() -> tuple[tuple[Device, ...], list[str]]:
    """Devices that answer, in PCI order, and what is wrong with the others: one that is lost costs no other."""
    found, lost = [], []
    count = pynvml.nvmlDeviceGetCount()
    for number in range(count):
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(number)
            found.append((_pci_key(pynvml.nvmlDeviceGetPciInfo(handle)), _device(handle)))
        except pynvml.NVMLError as error:
            lost.append(f"device {number} (as NVML counts {count}) cannot be used: {error}")
    found.sort(key=lambda placed: placed[0])
    devices = (device for _, device in found)
    return tuple(
        msgspec.structs.replace(device, index=index, by_uuid=bool(lost)) for index, device in enumerate(devices)
    ), lost


def _device(handle: Any) -> Device:
    """A device, without its place among the others."""
    limit = _optional(pynvml.nvmlDeviceGetEnforcedPowerLimit, handle)
    mig = _optional(pynvml.nvmlDeviceGetMigMode, handle)
    ecc = _optional(pynvml.nvmlDeviceGetEccMode, handle)
    return Device(
        index=-1,
        uuid=_text(pynvml.nvmlDeviceGetUUID(handle)),
        name=_text(pynvml.nvmlDeviceGetName(handle)),
        power_limit_watts=None if limit is None else limit / 1000,
        mig=None if mig is None else bool(mig[0]),
        ecc=None if ecc is None else bool(ecc[0]),
        nvml_index=_optional(pynvml.nvmlDeviceGetIndex, handle),
    )


def _optional(call: Callable[[Any], Any], handle: Any) -> Any:
    try:
        return call(handle)
    except pynvml.NVMLError:
        return None


def _pci_key(info: Any) -> tuple[int, int, int]:
    return info.domain, info.bus, info.device


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


if __name__ == "__main__":
    sys.stdout.buffer.write(msgspec.json.encode(probe()))
