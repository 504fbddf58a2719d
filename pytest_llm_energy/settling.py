"""Meters on where verdicts are open, as long as there is time for it."""

import warnings
from collections.abc import Collection, Sequence

from pytest_llm_energy.arm_runs import ArmRuns
from pytest_llm_energy.errors import EnergyError
from pytest_llm_energy.session import EnergySession
from pytest_llm_energy.verdicts.rows import Row, unsettled, wanting_starts
from pytest_llm_energy.works import Say

WHY = "not settled"


def metered_on(
    series: ArmRuns, rows: Sequence[Row], *, arms: Collection[str], looks: int, session: EnergySession, say: Say
) -> bool:
    """Meter what is open as often again as it has been.

    What engine starts leave open is metered on new ones; or on those that are there, where time is too short. If
    new ones do not start, what has been metered stands.

    Args:
        series: what has been metered.
        rows: what it says.
        arms: those that the rows are of.
        looks: how many further ones there may be.
        session: knows how much time is left for it.
        say: told what is going on.

    Returns:
        Whether anything was metered: there is nothing to do where nothing is open that so many looks may well
        decide, or the time that is left is too short.

    Raises:
        EngineError: an engine that was there failed.
        MeasurementError: an arm's readings stayed invalid.
    """
    startable = series.startable(arms)
    open_ = unsettled(rows, arms, looks=looks, startable=startable)
    anew = wanting_starts(rows, open_) if startable else frozenset()
    seconds = series.seconds_again(open_ - anew) + series.seconds_again(anew, anew=True)
    if anew and not session.may_settle(seconds):
        open_, anew = unsettled(rows, arms, looks=looks), frozenset()
        seconds = series.seconds_again(open_)
    if not open_ or not session.may_settle(seconds):
        return False
    alive = open_ - anew
    with session.settling():
        if alive:
            series.meter_again(session.plan, say, why=WHY, only=alive)
        if anew:
            try:
                series.meter_again(session.plan, say, why=WHY, only=anew, anew=True)
            except EnergyError as error:
                warn_that_it_stands(f"{series.key} is judged by the engine starts that it has: {error}")
                return bool(alive)
    return True


def warn_that_it_stands(says: str) -> None:
    """Warn of what could not be metered again; what has been measured stands, also where warnings are errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn(says, stacklevel=3)
