"""What a level is compared with: blessed sessions of the same work on the same hardware."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pytest_llm_energy.hardware.fingerprint import Fingerprint
from pytest_llm_energy.serving.scenario import Identity, differences
from pytest_llm_energy.verdicts import statistics
from pytest_llm_energy.verdicts.baselines import Baseline, Session, samples_of, since_moved
from pytest_llm_energy.verdicts.causes import Cause
from pytest_llm_energy.verdicts.measured import Arm, CaseKey, metering_sd
from pytest_llm_energy.verdicts.noise import Noise
from pytest_llm_energy.verdicts.quantities import JOULES, SECONDS, WATTS, Quantity
from pytest_llm_energy.verdicts.rows import Change, Drift, LevelReason
from pytest_llm_energy.verdicts.statistics import ALPHA, Interval


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Blessed sessions that a level may be compared with.

    Attributes:
        sessions: those it is judged by; empty where there are none.
        first: the earliest that it can be compared with at all: of any board, and of these.
        reason: code of why there are none.
        note: the same in words.
    """

    sessions: Sequence[Session] = ()
    first: Sequence[Session] = ()
    reason: LevelReason | None = None
    note: str | None = None


def gated(arm: Arm, key: CaseKey) -> bool:
    """Whether the level of an arm may fail a test: not a CPU's, and not an estimated one."""
    return key.gpu != "cpu" and not arm.estimated


def reference_of(arm: Arm, key: CaseKey, baseline: Baseline | None, here: Fingerprint) -> Reference:
    """Blessed sessions of an arm, from the last one on that moved its level on purpose; or why there are none.

    Boards differ by more than the sessions of one board do, so those of these boards are the reference alone,
    where there are any.
    """
    case = baseline.cases.get(key.case) if baseline else None
    if baseline is None or case is None or arm.name not in case.arms:
        says = f"no baseline of {key.finding} {key.case} {arm.name} on {key.gpu}"
        return Reference(reason="no-baseline", note=says)
    if differs := differences(case.arms[arm.name], arm_identity(arm)):
        says = "the baseline served something else: " + "; ".join(differs)
        return Reference(reason="scenario-differs", note=says)
    sessions = [session for session in baseline.sessions if samples_of(session, key.case, arm.name)]
    if not sessions:
        return Reference(reason="no-baseline", note=f"no blessed session has samples of {key.case} {arm.name}")
    matching = [session for session in sessions if session.fingerprint.identity == here.identity]
    if not matching:
        differs = differences(sessions[-1].fingerprint.identity, here.identity)
        says = "the baseline is of other hardware: " + "; ".join(differs)
        return Reference(reason="hardware-differs", note=says)
    methods = {run.reading.method for run in arm.runs}
    alike = [session for session in matching if {session.method} == methods]
    if not alike:
        then = ", ".join(sorted({session.method for session in matching}))
        says = (
            f"the baseline was metered by {then}, and this by {', '.join(sorted(methods))}: choose --energy-meter"
        )
        return Reference(reason="method-differs", note=says)
    since = since_moved(alike, key.case, arm.name)
    own = _on(here.boards, alike)
    return Reference(sessions=_on(here.boards, since) or since, first=[alike[0], *own[:1]])


def change_since(
    arm: Arm,
    key: CaseKey,
    sessions: Sequence[Session],
    *,
    here: Fingerprint,
    stack: Mapping[str, str],
    noise: Noise,
    alpha: float = ALPHA,
) -> Change:
    """A level against blessed sessions, of which there is at least one."""
    joules, reference_joules = _against(arm, key, sessions, here, noise=noise, alpha=alpha)
    seconds, _ = _against(arm, key, sessions, here, of=SECONDS, noise=noise, alpha=alpha)
    watts, _ = _against(arm, key, sessions, here, of=WATTS, noise=noise, alpha=alpha)
    first = sessions[0]
    boards = _boards(sessions)
    other_board = boards != set(here.boards)
    where = " on other boards" if other_board else " on this board" if boards else ""
    count = "1 session" if len(sessions) == 1 else f"{len(sessions)} sessions"
    return Change(
        joules=joules,
        cause=Cause.of(joules, seconds, watts),
        reference_joules=reference_joules,
        reference=f"baseline, {count}{where} since {first.when[:10]} ({first.reason})",
        other_board=other_board,
        stack=_changed_since(sessions[-1], here, stack),
    )


def _changed_since(session: Session, here: Fingerprint, stack: Mapping[str, str]) -> tuple[str, ...]:
    """What serves otherwise than in a session, and what the host runs otherwise, as far as both recorded it."""
    then, now = session.fingerprint.state, here.state
    recorded = then.keys() & now.keys()
    return tuple(
        differences(
            {**{name: then[name] for name in recorded}, **session.stack},
            {**{name: now[name] for name in recorded}, **stack},
        )
    )


def drift_of(
    arm: Arm, key: CaseKey, reference: Reference, here: Fingerprint, *, noise: Noise, alpha: float = ALPHA
) -> Drift | None:
    """How far a level is from the first blessed session, beyond doubt; None where that shows nothing more.

    Where the first session was on another board, whose difference may hide it, the first one on this board
    counts too. One session alone does not tell how much sessions scatter; those of the reference do.
    """
    for first in reference.first:
        if list(reference.sessions) == [first]:
            continue
        joules, _ = _against(arm, key, [first], here, scatter_of=reference.sessions, noise=noise, alpha=alpha)
        if joules.low > 0 or joules.high < 0:
            return Drift(joules=joules, since=first.when)
    return None


def _against(
    arm: Arm,
    key: CaseKey,
    sessions: Sequence[Session],
    here: Fingerprint,
    *,
    of: Quantity = JOULES,
    scatter_of: Sequence[Session] = (),
    noise: Noise,
    alpha: float,
) -> tuple[Interval, float]:
    """Relative change of a level since blessed sessions, and what it was then.

    Args:
        arm: the level.
        key: its case.
        sessions: that it is compared with.
        here: what the level was measured on.
        of: what changes: joules, or the time and power that they come from.
        scatter_of: sessions that tell how much such levels scatter, if not those.
        noise: what else is known of how levels scatter.
        alpha: chance, per bound, that it excludes the truth.
    """
    # Metered by the same method (reference_of sees to that), the same arm is known equally well on both sides.
    metering = 0.0 if of is SECONDS else metering_sd(arm.runs)
    reference = of.then(sessions, key.case, arm.name, relative_uncertainty=metering, scatter_of=scatter_of)
    now = of.now(arm, boards=here.boards, relative_uncertainty=metering)
    return statistics.change(now, reference, noise=noise, alpha=alpha), math.exp(reference.log_mean())


def _on(boards: Sequence[str], sessions: Sequence[Session]) -> list[Session]:
    return [session for session in sessions if set(session.fingerprint.boards) == set(boards)]


def _boards(sessions: Iterable[Session]) -> frozenset[str]:
    return frozenset(board for session in sessions for board in session.fingerprint.boards)


def by_start(arm: Arm) -> dict[str, list[float]]:
    """Joules per token of an arm's runs by engine start."""
    return JOULES.by_start(arm.runs)


def arm_identity(arm: Arm) -> Identity:
    """What must match before two levels of an arm are compared."""
    return arm.identity if arm.identity is not None else {"callable": arm.name}
