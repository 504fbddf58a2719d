"""Turning a journal into baselines: the one way in."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from pytest_llm_energy.errors import BaselineError
from pytest_llm_energy.verdicts.baselines import (
    SCHEMA,
    Baseline,
    BaselineCase,
    Samples,
    Session,
    baseline_path,
    read_baseline,
    samples_of,
    write_baseline,
)
from pytest_llm_energy.verdicts.journal import Journal
from pytest_llm_energy.verdicts.measured import Arm, CaseKey, Measured, metering_sd, stack_of
from pytest_llm_energy.verdicts.noise import UNMEASURED, GpuBaselines, Noise, read_gpu_baselines
from pytest_llm_energy.verdicts.records import Checked, Opened
from pytest_llm_energy.verdicts.reference import (
    arm_identity,
    by_start,
    change_since,
    gated,
    reference_of,
)
from pytest_llm_energy.verdicts.statistics import Interval

Kind = Literal["create", "raise", "lower", "keep", "board"]
"""What blessing does to a level: there was none to compare with, the new one is above or below the blessed sessions
beyond doubt, or it agrees with them; or it is of another board, and said to differ for that reason alone."""


class Blessed(msgspec.Struct, frozen=True, kw_only=True):
    """What blessing does to one level.

    Attributes:
        path: the baseline file.
        key: the case.
        arm: the arm.
        unit: ``token`` or ``call``.
        kind: what is done to it.
        joules: the new level, per unit.
        reference_joules: the level that was blessed, None where none compares.
        change: the new level against that one.
        other_board: whether those are of other boards alone.
        note: why none compares, where there is a baseline, or why little can be told.
    """

    path: Path
    key: CaseKey
    arm: str
    unit: str
    kind: Kind
    joules: float
    reference_joules: float | None = None
    change: Interval | None = None
    other_board: bool = False
    note: str | None = None


class Prepared(msgspec.Struct, frozen=True, kw_only=True):
    """A finding's baseline with what a journal adds to it.

    Attributes:
        baseline: as it would be.
        levels: what that does to each level, empty where all is blessed already.
    """

    baseline: Baseline
    levels: tuple[Blessed, ...]


def bless(
    journal: Journal,
    folder: Path,
    *,
    reason: str,
    with_arguments: bool = False,
    allow_raise: bool = False,
    add_board: bool = False,
) -> list[Blessed]:
    """Add a journal's sessions to the baselines of the findings it measured.

    A journal holds one session, or one per suite run and set of boards where it was resumed or has several; what is
    blessed of them already stays as it is. Of a case that a later run metered on it has the first run's
    rounds. Sessions are added, never replaced: the first one stays, so that creep since then can be seen. One
    that raises or lowers a level is where that level's reference begins. Every file is prepared before the first
    is written.

    Args:
        journal: what was measured.
        folder: of the baselines.
        reason: why these levels are right.
        with_arguments: bless also what was measured with engine arguments that the scenarios do not say.
        allow_raise: bless also levels that are above their blessed sessions beyond doubt.
        add_board: levels that differ from those of other boards alone do so for the boards' sake: they move
            nothing, and stand beside those as one more of what boards differ by.

    Raises:
        BaselineError: no reason is given, the journal holds nothing to bless, its sessions are blessed already, a
            case now serves something else than its baseline, a level is raised and may not be, or a file cannot be
            read or written: all of this GPU model tell how levels scatter.
    """
    if not reason.strip():
        raise BaselineError("blessing needs a reason: --reason 'why these levels are right'")
    arguments = {name: v for o in journal.openings for name, v in o.arguments.items() if name != "endpoint"}
    if arguments and not with_arguments:
        given = ", ".join(f"{name}={value}" for name, value in arguments.items())
        raise BaselineError(
            f"{journal.path} was measured with --energy-argument {given}, which the scenarios do not say: measure "
            "without, or bless it all the same with --with-arguments"
        )
    gpu = journal.opened.gpu
    gpu_baselines = read_gpu_baselines(folder, gpu)
    for finding in gpu_baselines.unread:
        read_baseline(folder, gpu, finding)
    prepared = []
    for finding, checks in _findings(journal, "bless").items():
        old = read_baseline(folder, gpu, finding)
        path = baseline_path(folder, gpu, finding)
        made = _prepare(journal, old, path, checks, reason, gpu_baselines=gpu_baselines, add_board=add_board)
        prepared.append(made)
    levels = [level for made in prepared for level in made.levels]
    if not levels:
        when = ", ".join(sorted({opened.when for opened in journal.openings}))
        raise BaselineError(f"the session of {when} is blessed already")
    raised = [level for level in levels if level.kind == "raise"]
    if raised and not allow_raise:
        elsewhere = [ADD_BOARD] if any(level.other_board for level in raised) else []
        raise BaselineError("\n".join([RAISED.format(len(raised)), *map(_says, raised), *elsewhere]))
    for made in prepared:
        if made.levels:
            write_baseline(folder, made.baseline)
    return levels


RAISED = "levels that this would raise: {}; nothing was blessed. If that is meant, bless with --allow-raise:"

ADD_BOARD = (
    "  No blessed session is of this board. If the board, or its host, is what takes more, and not the stack: "
    "--add-board keeps its levels beside those of the others, and moves none."
)


def _says(level: Blessed) -> str:
    assert level.change is not None
    low, high = level.change.low * 100, level.change.high * 100
    return f"  {level.key}, {level.arm}: between {low:+.1f} % and {high:+.1f} % J/{level.unit}"


def as_baselines(journal: Journal, *, reason: str) -> dict[str, Baseline]:
    """What a journal alone would make the baselines of its findings, by finding; nothing is written.

    Raises:
        BaselineError: the journal holds nothing to compare with.
    """
    findings = _findings(journal, "compare with")
    return {f: _prepare(journal, None, journal.path, checks, reason).baseline for f, checks in findings.items()}


def _findings(journal: Journal, what: str) -> dict[str, list[Checked]]:
    """Checks of cases that ran to their end with valid runs, by finding."""
    findings: dict[str, list[Checked]] = {}
    unfinished = journal.unfinished
    for check in journal.in_one_run:
        if check.key not in unfinished and all(arm.runs for arm in journal.measured(check).arms):
            findings.setdefault(check.key.finding, []).append(check)
    if not findings:
        raise BaselineError(
            f"{journal.path} holds no checked case that ran to its end with valid runs: nothing to {what}"
        )
    return dict(sorted(findings.items()))


def _prepare(
    journal: Journal,
    old: Baseline | None,
    path: Path,
    checks: list[Checked],
    reason: str,
    *,
    gpu_baselines: GpuBaselines = UNMEASURED,
    add_board: bool = False,
) -> Prepared:
    """A finding's baseline with what a journal adds to the old one."""
    sessions = list(old.sessions) if old else []
    cases = dict(old.cases) if old else {}
    levels: list[Blessed] = []
    for opened in journal.openings:
        known = [each for each in sessions if (each.when, each.fingerprint) == (opened.when, opened.fingerprint)]
        own = []
        for check in checks:
            if journal.opened_for(check.key) is opened and (arms := _not_in(known, check, journal.measured(check))):
                own.append((check, arms))
        if not own:
            continue
        for check, arms in own:
            cases[check.key.case] = _case(cases.get(check.key.case), check, arms, str(path))
        of_session = []
        for check, arms in own:
            noise = gpu_baselines.noise(method=opened.method, simulated=opened.simulated, of=check.key)
            of_session += [_level(path, journal, check, arm, old, noise) for arm in arms]
        if add_board:
            of_session = [_of_board(level) for level in of_session]
        sessions.append(_session(journal, opened, own, reason, _moved(of_session)))
        levels += of_session
    baseline = Baseline(
        schema=SCHEMA,
        finding=checks[0].key.finding,
        gpu=journal.opened.gpu,
        cases=cases,
        sessions=tuple(sessions),
        trimmed=old.trimmed if old else (),
    )
    return Prepared(baseline=baseline, levels=tuple({(level.key, level.arm): level for level in levels}.values()))


def _not_in(known: Sequence[Session], check: Checked, measured: Measured) -> tuple[Arm, ...]:
    """Arms that no session has samples of: none of them was blessed, or they were taken out again."""
    case = check.key.case
    return tuple(arm for arm in measured.arms if not any(samples_of(each, case, arm.name) for each in known))


def _level(path: Path, journal: Journal, check: Checked, arm: Arm, old: Baseline | None, noise: Noise) -> Blessed:
    """What blessing an arm of a check does to its level, by the judge's own interval."""
    here = journal.opened_for(check.key).fingerprint
    reference = reference_of(arm, check.key, old, here)
    level = Blessed(
        path=path, key=check.key, arm=arm.name, unit=arm.unit, kind="create", joules=arm.joules_per_token
    )
    if not reference.sessions:
        note = reference.note if reference.reason != "no-baseline" else None
        return msgspec.structs.replace(level, note=note)
    change = change_since(arm, check.key, reference.sessions, here=here, stack={}, noise=noise)
    kind: Kind = "raise" if change.joules.low > 0 else "lower" if change.joules.high < 0 else "keep"
    # Where nothing is gated, a raise would loosen nothing, and sessions scatter by more than the interval says.
    return msgspec.structs.replace(
        level,
        kind=kind if gated(arm, check.key) else "keep",
        reference_joules=change.reference_joules,
        change=change.joules,
        other_board=change.other_board,
        note=OTHER_BOARD if change.other_board else None,
    )


def _of_board(level: Blessed) -> Blessed:
    """The level as one that differs from those of other boards because they do."""
    if level.other_board and level.kind in ("raise", "lower"):
        return msgspec.structs.replace(level, kind="board")
    return level


OTHER_BOARD = (
    "no blessed session is of this board, and boards differ: a raise may not show; from now on its levels are "
    "compared with this session"
)


def _moved(levels: list[Blessed]) -> dict[str, tuple[str, ...]]:
    """Arms by case whose level is raised or lowered."""
    moved: dict[str, list[str]] = {}
    for level in levels:
        if level.kind in ("raise", "lower"):
            moved.setdefault(level.key.case, []).append(level.arm)
    return {case: tuple(sorted(set(arms))) for case, arms in sorted(moved.items())}


def _session(
    journal: Journal,
    opened: Opened,
    measured: Sequence[tuple[Checked, Sequence[Arm]]],
    reason: str,
    moved: dict[str, tuple[str, ...]],
) -> Session:
    """What one suite run measured of a finding on the same devices."""
    starts: list[dict[str, dict[str, Samples]]] = []
    uncertainties = []
    stack: dict[str, str] = {}
    for check, arms in measured:
        stack |= stack_of([run for arm in arms for run in arm.runs], journal.stacks)
        for arm in arms:
            uncertainties.append(metering_sd(arm.runs))
            for number, samples in enumerate(_samples(arm)):
                if number == len(starts):
                    starts.append({})
                starts[number].setdefault(check.key.case, {})[arm.name] = samples
    return Session(
        when=opened.when,
        reason=reason,
        method=opened.method,
        fingerprint=opened.fingerprint,
        stack=stack,
        relative_uncertainty=max(uncertainties),
        starts=tuple(starts),
        simulated=opened.simulated,
        moved=moved,
    )


def _case(old: BaselineCase | None, check: Checked, arms: tuple[Arm, ...], place: str) -> BaselineCase:
    identities = {arm.name: arm_identity(arm) for arm in arms}
    kept = old or BaselineCase(tp=check.tp, arms={})
    both = kept.arms.keys() & identities.keys()
    changed = sorted(name for name in both if kept.arms[name] != identities[name])
    if changed:
        only = " ".join(f"--only '{check.key}: {arm}'" for arm in changed)
        raise BaselineError(
            f"{place}: {check.key.case} now serves something else in {', '.join(changed)}; to begin that anew: "
            f"llm-energy trim {only} --reason ..."
        )
    return msgspec.structs.replace(kept, tp=check.tp, arms={**kept.arms, **identities})


def _samples(arm: Arm) -> list[Samples]:
    seconds: dict[str, list[float]] = {}
    for run in arm.runs:
        seconds.setdefault(run.start, []).append(run.seconds_per_unit)
    return [
        Samples(joules_per_token=tuple(joules), seconds_per_token=tuple(seconds[start]))
        for start, joules in by_start(arm).items()
    ]
