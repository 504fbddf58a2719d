"""What ``energy_meter.window()`` yields."""

from dataclasses import dataclass

from pytest_llm_energy.errors import EnergyError
from pytest_llm_energy.metering.meter import Reading


@dataclass
class WindowReading:
    """What ``energy_meter.window()`` yields; ``reading`` is there once the window is closed."""

    name: str
    _reading: Reading | None = None

    @property
    def reading(self) -> Reading:
        """Joules of the window, with seconds, uncertainty, method and validity.

        Raises:
            EnergyError: the window is still open.
        """
        if self._reading is None:
            raise EnergyError(f"window {self.name!r} is still open: read it after the with-block")
        return self._reading

    @property
    def joules(self) -> float:
        """Energy of the window.

        Raises:
            EnergyError: the window is open, or its reading is invalid.
        """
        if not self.reading.valid:
            says = "; ".join(reason.says for reason in self.reading.invalid)
            raise EnergyError(f"window {self.name!r} has no valid reading: {says}")
        return self.reading.joules

    @property
    def seconds(self) -> float:
        """Length of the window."""
        return self.reading.seconds
