"""Meters on where verdicts are open, as long as there is time for it."""

import math
from collections.abc import Collection, Sequence
from typing import NamedTuple

from pytest_llm_energy.arm_runs import ArmRuns
from pytest_llm_energy.errors import EnergyError, ServedOtherwiseError, warn_in_any_case
from pytest_llm_energy.session import EnergySession
from pytest_llm_energy.verdicts.further import halving, unsettled, wanting_starts
from pytest_llm_energy.verdicts.judge import Conditions, judge
from pytest_llm_energy.verdicts.records import Checked
from pytest_llm_energy.verdicts.rows import LevelRow, Row, failing
from pytest_llm_energy.works import Say

WHY = "not settled"


def settled(
    series: ArmRuns, check: Checked, conditions: Conditions, *, session: EnergySession, say: Say
) -> list[Row]:
    """Judge; meter on what is open, as often as there may be looks; meter once more what would fail.

    If the user interrupts what is metered beyond the plan, the rounds that are whole are judged, and the run stops.

    Args:
        series: what has been metered; more is added.
        check: what is asked.
        conditions: what it is judged by.
        session: knows how often, for how long, and whether the user interrupted.
        say: told what is going on.

    Raises:
        EnergyError: as of ``metered_on`` and ``judge``.
    """
    rows, patience = judge(check, series.measured(), conditions), session.patience
    for look in range(0 if check.before else 1, patience.looks):
        if not metered_on(series, rows, arms=check.arms, looks=patience.looks - look, session=session, say=say):
            break
        rows = judge(check, series.measured(), conditions)
    if failing(rows, "on") and patience.confirms and not (series.repeated or patience.interrupted):
        try:
            series.meter_again(session.plan, say, why="would fail")
        except KeyboardInterrupt:
            _interrupted(series, check.arms, session=session, say=say)
            rows = judge(check, series.measured(), conditions)
        except EnergyError as error:
            warn_in_any_case(f"{series.key} fails, and could not be metered again: {error}")
        else:
            rows = judge(check, series.measured(), conditions)
    return rows


def metered_on(
    series: ArmRuns, rows: Sequence[Row], *, arms: Collection[str], looks: int, session: EnergySession, say: Say
) -> bool:
    """Meter on what is open, so that its variance is about half of what it was.

    What engine starts leave open is metered on new ones; or as often again on those there are, where time is too
    short for new ones. If they do not start, or the user interrupts, what has been metered stands.

    Args:
        series: what has been metered.
        rows: what it says.
        arms: those that the rows are of.
        looks: how many further ones there may be.
        session: knows how much time is left for it, and whether the user interrupted.
        say: told what is going on.

    Returns:
        Whether anything was metered: there is nothing to do where nothing is open that so many looks may well
        decide, or the time that is left is too short.

    Raises:
        EngineError: an engine that was there failed, or a new one is of another stack than an earlier run's.
        MeasurementError: an arm's readings stayed invalid.
    """
    if series.failed or session.patience.interrupted:
        return False
    if series.before:  # what a baseline judges, and claims, are of the run that began it
        rows = list(filter(_beside, rows))
    alone = all(map(_beside, (row for row in rows if row.verdict == "inconclusive")))
    startable = series.startable(arms)
    found = unsettled(rows, arms, looks=looks, startable=startable)
    anew = wanting_starts(rows, found) if startable else frozenset()
    if anew and not alone:
        anew = found
    parts = [*_on_new_starts(series, rows, anew, alone=alone), *_on_those_there(series, found - anew, alone=alone)]
    if not session.patience.allows(_seconds(series, parts)):
        parts = _on_those_there(series, unsettled(rows, arms, looks=looks), alone=alone)
        if not session.patience.allows(_seconds(series, parts)):
            return False
    for number, (group, rounds, starts) in enumerate(parts):
        try:
            with session.patience.taken():
                series.meter_again(session.plan, say, why=WHY, only=group, rounds=rounds, starts=starts)
        except KeyboardInterrupt:
            _interrupted(series, group, session=session, say=say)
            return True
        except EnergyError as error:
            if not starts or isinstance(error, ServedOtherwiseError):
                raise
            warn_in_any_case(f"{series.key} could not be metered on new engine starts: {error}")
            return number > 0
    return bool(parts)


def _beside(row: Row) -> bool:
    """Whether it is a level beside another stack's."""
    return isinstance(row, LevelRow) and row.side_by_side


def _interrupted(series: ArmRuns, arms: Collection[str], *, session: EnergySession, say: Say) -> None:
    """Keep what these arms had when the user interrupted; nothing more is metered."""
    session.patience.interrupted = True
    series.count_whole_rounds(arms)
    say(f"interrupted: judged by the {series.rounds} runs an arm that there are, and the run stops")


class Further(NamedTuple):
    """Arms that are metered on together.

    Attributes:
        arms: their names.
        rounds: how many more.
        starts: on how many new engine starts, 0 for those that are there.
    """

    arms: frozenset[str]
    rounds: int
    starts: int


def _on_those_there(series: ArmRuns, arms: frozenset[str], *, alone: bool) -> list[Further]:
    """As many rounds again on the engines that there are."""
    return [Further(group, series.rounds_of(group), 0) for group in _groups(series, arms, alone=alone)]


def _on_new_starts(series: ArmRuns, rows: Sequence[Row], arms: frozenset[str], *, alone: bool) -> list[Further]:
    """What halves the variance of each level soonest; as many rounds and starts again where that cannot be told."""
    found = []
    for group in _groups(series, arms, alone=alone):
        again = Further(group, series.rounds_of(group), series.starts_of(group))
        cost = series.start_seconds(group) / max(series.round_seconds(group), 1e-9)
        of_each = [halving(row, cost) for row in rows if isinstance(row, LevelRow) and row.arm in group]
        if alone and (told := [each for each in of_each if each]):
            starts, rounds = (max(of) for of in zip(*told, strict=True))
            again = Further(group, starts * rounds, starts)
        found.append(again)
    return found


def _groups(series: ArmRuns, arms: frozenset[str], *, alone: bool) -> list[frozenset[str]]:
    """Arms that are metered together.

    Each level may be a matter of its arm alone; what is judged by the runs of several arms needs rounds that all of
    them have.
    """
    return series.alike(arms) if alone else [arms] if arms else []


def _seconds(series: ArmRuns, parts: Sequence[Further]) -> float:
    """About what metering them takes."""
    return math.fsum(series.seconds_again(group, rounds=rounds, starts=starts) for group, rounds, starts in parts)
