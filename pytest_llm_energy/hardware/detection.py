"""What this host has, asked of NVML in a subprocess so that a hung driver cannot hang pytest."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import msgspec

from pytest_llm_energy.hardware.catalogue import CPU, GpuSpec, identify

PROBE_TIMEOUT_SECONDS = 60
"""A cold driver without persistence mode takes seconds per device to answer."""

HIDDEN = ("", "-1", "NoDevFiles")
"""First entries of a ``CUDA_VISIBLE_DEVICES`` by which a caller hides all devices; the last is Slurm's."""


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU of this host.

    Attributes:
        index: position in PCI bus order, as ``CUDA_VISIBLE_DEVICES`` counts it.
        uuid: NVML's identifier; readings are taken by it.
        name: NVML's product name.
        power_limit_watts: enforced limit; None where the driver does not say.
        mig: whether multi-instance mode is on (readings are then of the whole card).
        ecc: whether memory error correction is on.
        nvml_index: NVML's own number of it, for tools that ask for that; None where the driver does not say.
        by_uuid: whether engines are told of it by its identifier: beside a lost device, CUDA may count otherwise.
    """

    index: int
    uuid: str
    name: str
    power_limit_watts: float | None = None
    mig: bool | None = None
    ecc: bool | None = None
    nvml_index: int | None = None
    by_uuid: bool = False

    @property
    def cuda_name(self) -> str:
        """What ``CUDA_VISIBLE_DEVICES`` is to call it."""
        return self.uuid if self.by_uuid else str(self.index)


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """NVML's answer: every device of the host, and the driver that runs them."""

    devices: tuple[Device, ...] = ()
    driver: str | None = None
    cuda: str | None = None
    problem: str | None = None


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """The accelerator that tests of this host run on.

    Attributes:
        spec: kind of the devices below; ``cpu`` when there are none.
        devices: devices of that kind which this process may use, in PCI order.
        driver: driver version, None without devices.
        cuda: highest CUDA version the driver serves, None without devices.
        problem: why devices that seem present cannot be used, None when all is well, or none is wanted.
    """

    spec: GpuSpec
    devices: tuple[Device, ...] = ()
    driver: str | None = None
    cuda: str | None = None
    problem: str | None = None

    @property
    def unusable(self) -> bool:
        """Whether devices seem present, and none can be used: what runs here then is not what was meant."""
        return self.problem is not None and not self.devices


def detect() -> Host:
    """This host's accelerator, within the caller's ``CUDA_VISIBLE_DEVICES``."""
    if sys.platform == "linux" and not (DRIVER.exists() or _has_device_files()):
        return Host(spec=CPU)
    host = choose(_probe(), visible=os.environ.get("CUDA_VISIBLE_DEVICES"))
    if host.unusable and sys.platform == "linux" and not _has_device_files():
        return Host(spec=CPU)  # a container sees the driver of its host, and was given none of its devices
    return host


def choose(probe: Probe, *, visible: str | None) -> Host:
    """The host as the caller may use it: the commonest kind among its visible devices.

    Args:
        probe: all devices of the host.
        visible: the caller's ``CUDA_VISIBLE_DEVICES``, None when unset.
    """
    if _hides_all(visible):
        return Host(spec=CPU)
    devices, unknown = (probe.devices, None) if visible is None else _visible(probe.devices, visible)
    if not probe.devices and probe.problem:
        unknown = None  # no entry could be known
    problem = "; ".join(filter(None, [probe.problem, unknown])) or None
    if not devices:
        return Host(spec=CPU, problem=problem)
    kinds = Counter(identify(device.name) for device in devices)
    spec = kinds.most_common(1)[0][0]
    return Host(
        spec=spec,
        devices=tuple(device for device in devices if identify(device.name) == spec),
        driver=probe.driver,
        cuda=probe.cuda,
        problem=problem,
    )


def _hides_all(visible: str | None) -> bool:
    """Whether the caller says that no device is to be used."""
    return visible is not None and visible.split(",")[0].strip() in HIDDEN


def _visible(devices: tuple[Device, ...], visible: str) -> tuple[tuple[Device, ...], str | None]:
    """Devices that the caller names up to the first that is none, as CUDA reads it, and what is wrong with that."""
    chosen: list[Device] = []
    for entry in filter(None, (part.strip() for part in visible.split(","))):
        if entry in HIDDEN:
            break
        matches = [d for d in devices if str(d.index) == entry or d.uuid.startswith(entry)]
        if len(matches) != 1:
            known = ", ".join(f"{d.index} ({d.uuid})" for d in devices) or "none"
            return tuple(chosen), f"CUDA_VISIBLE_DEVICES ends at {entry!r}, which is none of {known}"
        chosen.append(matches[0])
    return tuple(chosen), None


DRIVER = Path("/proc/driver/nvidia/version")

DEVICE_FILES = (Path("/dev/nvidiactl"), Path("/dev/dxg"))
"""What a process has that may use devices: of Linux, and of Linux under Windows."""


def _has_device_files() -> bool:
    return any(path.exists() for path in DEVICE_FILES)


def _probe() -> Probe:
    command = [sys.executable, "-m", "pytest_llm_energy.hardware.nvml_probe"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=PROBE_TIMEOUT_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return Probe(problem=f"NVML did not answer within {PROBE_TIMEOUT_SECONDS} s; is the driver hung?")
    if done.returncode != 0:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
        return Probe(problem=f"asking NVML failed (exit {done.returncode}): {last[0]}")
    return msgspec.json.decode(done.stdout, type=Probe)
