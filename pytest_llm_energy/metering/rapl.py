"""RAPL: energy counters of the processor packages, through Linux's powercap files.

Machine-wide by nature: whatever else runs on the packages is in the figure. The counters are microjoules,
refreshed about every millisecond, and wrap at ``max_energy_range_uj``
(Documentation/power/powercap/powercap.rst of the Linux kernel): how often within a window cannot be read back.
"""

import time
from pathlib import Path

from pytest_llm_energy.errors import MeterError
from pytest_llm_energy.metering.meter import DeviceReading, Invalid, Reading, Steady, between_reads, no_energy

POWERCAP = Path("/sys/class/powercap")
REFRESH_SECONDS = 0.001

MOST_WATTS = 1000.0
"""What no package draws for long: twice the 500 W of the largest that are sold (AMD EPYC 9965, Intel Xeon 6980P).
Powercap's limits tell less: boards leave them open or set them beyond use, and AMD's packages state none."""


class RaplMeter:
    """Difference of the package counters over a window."""

    method = "rapl"
    estimated = False

    def __init__(self, root: Path = POWERCAP) -> None:
        """Find the readable package zones.

        Raises:
            MeterError: there is none.
        """
        self._zones = packages(root)
        if not self._zones:
            raise MeterError(f"no readable RAPL package under {root}: run as a user who may read energy_uj")
        self._ceilings = {zone.name: int((zone / "max_energy_range_uj").read_text()) for zone in self._zones}
        self.source = f"RAPL, {len(self._zones)} processor package(s), machine-wide"

    def open(self) -> "_RaplWindow":
        """Read every package."""
        return _RaplWindow(self, self.read())

    def steady(self, seconds: float) -> Steady:
        """Meter a load that lasts."""
        return between_reads(self.open, seconds)

    def read(self) -> dict[str, int]:
        """Microjoules by zone; wraps at ``ceiling``."""
        try:
            return {zone.name: int((zone / "energy_uj").read_text()) for zone in self._zones}
        except (OSError, ValueError) as error:
            raise MeterError(f"RAPL stopped answering: {error}") from error

    def ceiling(self, zone: str) -> int:
        """Microjoules at which the zone's counter starts again from zero."""
        return self._ceilings[zone]

    def shutdown(self) -> None:
        """Nothing is held."""


class _RaplWindow:
    def __init__(self, meter: RaplMeter, before: dict[str, int]) -> None:
        self._meter = meter
        self._before = before
        self._opened = time.monotonic()

    def abandon(self) -> None:
        pass

    def close(self, started: float, ended: float) -> Reading:
        after = self._meter.read()
        seconds = ended - started
        counted_seconds = max(seconds, time.monotonic() - self._opened)
        parts = []
        reasons: list[Invalid] = []
        for zone, microjoules in self._before.items():
            spent = after[zone] - microjoules
            ceiling = self._meter.ceiling(zone)
            if spent < 0:
                spent += ceiling
            reasons += _turned(zone, spent / 1e6, ceiling / 1e6, counted_seconds)
            reasons += no_energy(spent / 1e6, seconds, f"does {zone} count? Read its energy_uj twice")
            parts.append(DeviceReading(device=zone, joules=spent / 1e6))
        total = sum(part.joules for part in parts)
        watts = total / seconds if seconds > 0 else 0.0
        return Reading(
            joules=total,
            seconds=seconds,
            uncertainty_joules=watts * REFRESH_SECONDS * (2 / 12) ** 0.5,
            method=self._meter.method,
            devices=tuple(parts),
            invalid=tuple(reasons),
        )


def _turned(zone: str, joules: float, ceiling_joules: float, seconds: float) -> tuple[Invalid, ...]:
    """The reason a counter tells nothing: so long was counted that it may have gone round once more."""
    if joules + ceiling_joules > MOST_WATTS * seconds:
        return ()
    return (
        Invalid(
            "counter-wrapped",
            f"{zone} drew {joules:.4g} J in {seconds:.4g} s, or {ceiling_joules:.4g} J more: its counter may have "
            f"started again unseen. Meter windows of {ceiling_joules / MOST_WATTS:.3g} s at most: a shorter "
            "--energy-window, or less work in one",
        ),
    )


def packages(root: Path = POWERCAP) -> list[Path]:
    """Zones of whole processor packages whose counter this process may read."""
    found = []
    for zone in sorted(root.glob("intel-rapl:*")):
        try:
            name = (zone / "name").read_text().strip()
            int((zone / "energy_uj").read_text())
            int((zone / "max_energy_range_uj").read_text())
        except (OSError, ValueError):
            continue
        if name.startswith("package"):
            found.append(zone)
    return found
