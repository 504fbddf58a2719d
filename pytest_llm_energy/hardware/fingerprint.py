"""What must match between two measurements of a device, and what is recorded beside it."""

import hashlib
import os
import platform
from collections.abc import Sequence
from pathlib import Path

import msgspec

from pytest_llm_energy.hardware.detection import Device, Host

Fact = str | int | float | bool | None


class Fingerprint(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Identity and state of the hardware behind a session.

    Attributes:
        identity: facts that must match before joules may be compared (kind, power limit, MIG, ECC; on a
            CPU the processor, its cores and its vector extensions).
        state: facts that may differ and are shown (driver, CUDA, operating system; beside a GPU the processor and
            its cores: what launches kernel by kernel takes longer, and more energy, on a slower one).
        boards: hashes of the device UUIDs, empty without a GPU; equal hashes mean the same boards.
    """

    identity: dict[str, Fact]
    state: dict[str, Fact]
    boards: tuple[str, ...] = ()


def fingerprint(host: Host, devices: Sequence[Device]) -> Fingerprint:
    """Fingerprint of the leased devices, or of the processor when there are none."""
    state: dict[str, Fact] = {"os": platform.platform(), "driver": host.driver, "cuda": host.cuda}
    if not devices:
        return Fingerprint(identity=processor(), state=state)
    first = devices[0]
    identity: dict[str, Fact] = {
        "gpu": first.name,
        "power_limit_watts": first.power_limit_watts,
        "mig": first.mig,
        "ecc": first.ecc,
    }
    beside = {name: fact for name, fact in processor().items() if name in ("processor", "cores")}
    return Fingerprint(identity=identity, state=state | beside, boards=boards(devices))


def boards(devices: Sequence[Device]) -> tuple[str, ...]:
    """Short hashes of the UUIDs: enough to tell boards apart, not to name them in public."""
    return tuple(sorted(hashlib.sha256(device.uuid.encode()).hexdigest()[:12] for device in devices))


VECTOR_EXTENSIONS = ("amx_bf16", "avx512_bf16", "avx512f", "avx2", "asimd", "sve", "bf16")
"""Flags that decide which matrix kernels a CPU runs."""


def processor() -> dict[str, Fact]:
    """Model, usable cores and vector extensions of this host's processor."""
    fields = _cpuinfo()
    name = fields.get("model name") or platform.processor() or platform.machine()
    numbers = [f"{key} {fields[key]}" for key in ("cpu family", "model", "stepping") if key in fields]
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    return {
        "processor": ", ".join([name, *numbers]),
        "cores": usable_cores(),
        "instruction_set": " ".join(flag for flag in VECTOR_EXTENSIONS if flag in flags),
    }


def usable_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpuinfo() -> dict[str, str]:
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return {}
    first = path.read_text().split("\n\n", 1)[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}
