"""Meters on where verdicts are open, as long as there is time for it."""

import math
import warnings
from collections.abc import Collection, Sequence

from pytest_llm_energy.arm_runs import ArmRuns
from pytest_llm_energy.errors import EnergyError
from pytest_llm_energy.session import EnergySession
from pytest_llm_energy.verdicts.rows import LevelRow, Row, beside, unsettled, wanting_starts
from pytest_llm_energy.works import Say

WHY = "not settled"


def metered_on(
    series: ArmRuns, rows: Sequence[Row], *, arms: Collection[str], looks: int, session: EnergySession, say: Say
) -> bool:
    """Meter what is open as often again as it has been.

    What engine starts leave open is metered on new ones; or as before, where time is too short for them. If new
    ones do not start, what has been metered stands.

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
    found = unsettled(rows, arms, looks=looks, startable=startable)
    anew = wanting_starts(rows, found) if startable else frozenset()
    if anew and not all(isinstance(row, LevelRow) and beside(row) for row in rows if row.verdict == "inconclusive"):
        anew = found  # what is judged by runs of several arms needs rounds that all of them have
    if not session.may_settle(_seconds(series, found - anew, anew)):
        found, anew = unsettled(rows, arms, looks=looks), frozenset()
        if not session.may_settle(_seconds(series, found, anew)):
            return False
    with session.settling():
        for group in series.alike(anew):
            try:
                series.meter_again(session.plan, say, why=WHY, only=group, anew=True)
            except EnergyError as error:
                warn_that_it_stands(f"{series.key} could not be metered on new engine starts: {error}")
                return False
        for group in series.alike(found - anew):
            series.meter_again(session.plan, say, why=WHY, only=group)
    return bool(found)


def _seconds(series: ArmRuns, alive: Collection[str], anew: Collection[str]) -> float:
    """About what metering on takes of arms on the engines that are there, and of others on new ones."""
    on_alive = math.fsum(series.seconds_again(group) for group in series.alike(alive))
    return on_alive + math.fsum(series.seconds_again(group, anew=True) for group in series.alike(anew))


def warn_that_it_stands(says: str) -> None:
    """Warn of what could not be metered again; what has been measured stands, also where warnings are errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn(says, stacklevel=3)
