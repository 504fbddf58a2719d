"""What can go wrong, one type per room, written for the person reading CI."""

import warnings


class EnergyError(Exception):
    """Base of every error this package raises on purpose: what happened, where, what to do."""


class UsageError(EnergyError):
    """An option, mark or argument that means nothing here; lists what does."""


class HardwareError(EnergyError):
    """Devices could not be read."""


class MeterError(EnergyError):
    """Joules cannot be metered on this host, or a window could not be read."""


class ScenarioError(EnergyError, ValueError):
    """A scenario or a set of arms that contradicts itself."""


class EngineError(EnergyError):
    """An engine could not load, refused the work, ran out of memory or died; carries its last words."""


class ServedOtherwiseError(EngineError):
    """An arm is to have further runs, and is served by another stack than before."""


class OutOfMemoryError(EngineError):
    """An engine did not fit into the memory of its devices."""


class MeasurementError(EnergyError):
    """No valid run of an arm was obtained."""


class JournalError(EnergyError):
    """A journal could not be written or read."""


class BaselineError(EnergyError):
    """A baseline file is corrupt, of another schema, or could not be written."""


class TraceError(EnergyError):
    """A trace of requests could not be read; nothing was counted."""


def warn_in_any_case(says: str, category: type[Warning] = UserWarning) -> None:
    """Warn of what went wrong where the rest must be done all the same, also where warnings are errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn(says, category, stacklevel=3)
