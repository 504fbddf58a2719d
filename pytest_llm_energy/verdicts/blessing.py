"""Turning a journal into baselines: the one way in."""

from pathlib import Path

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
    write_baseline,
)
from pytest_llm_energy.verdicts.journal import Journal
from pytest_llm_energy.verdicts.judge import arm_identity, by_start, relative_uncertainty
from pytest_llm_energy.verdicts.measured import Arm
from pytest_llm_energy.verdicts.records import Checked, Opened


class Blessed(msgspec.Struct, frozen=True, kw_only=True):
    """What blessing did to one case.

    Attributes:
        path: the baseline file.
        case: the case.
        created: whether the case is new in that file.
        sessions: blessed sessions the file holds now.
    """

    path: Path
    case: str
    created: bool
    sessions: int


def bless(journal: Journal, folder: Path, *, reason: str, with_arguments: bool = False) -> list[Blessed]:
    """Add a journal's sessions to the baselines of the findings it measured.

    A journal holds one session, or one per suite run and set of boards where it was resumed or has several; those
    that are blessed already stay as they are. Sessions are added, never replaced: the first one stays, so that
    creep since then can be seen. Every file is prepared before the first is written.

    Args:
        journal: what was measured.
        folder: of the baselines.
        reason: why these levels are right.
        with_arguments: bless also what was measured with engine arguments that the scenarios do not say.

    Raises:
        BaselineError: no reason is given, the journal holds nothing to bless, its sessions are blessed already, a
            case now serves something else than its baseline, or a file cannot be read or written.
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
    prepared = []
    for finding, checks in _findings(journal, "bless").items():
        old = read_baseline(folder, journal.opened.gpu, finding)
        place = str(baseline_path(folder, journal.opened.gpu, finding))
        prepared.append(_prepare(journal, old, place, checks, reason))
    if not any(checks for _, _, checks in prepared):
        when = ", ".join(sorted({opened.when for opened in journal.openings}))
        raise BaselineError(f"the session of {when} is blessed already")
    report = []
    for baseline, created, checks in (done for done in prepared if done[2]):
        path = write_baseline(folder, baseline)
        for check in checks:
            case = check.key.case
            fresh = case in created
            report.append(Blessed(path=path, case=case, created=fresh, sessions=len(baseline.sessions)))
    return report


def as_baselines(journal: Journal, *, reason: str) -> dict[str, Baseline]:
    """What a journal alone would make the baselines of its findings, by finding; nothing is written.

    Raises:
        BaselineError: the journal holds nothing to compare with.
    """
    findings = _findings(journal, "compare with")
    place = str(journal.path)
    return {f: _prepare(journal, None, place, checks, reason)[0] for f, checks in findings.items()}


def _findings(journal: Journal, what: str) -> dict[str, list[Checked]]:
    """Checks of cases with valid runs, by finding."""
    findings: dict[str, list[Checked]] = {}
    for check in journal.checks:
        if check.key not in journal.cut and all(arm.runs for arm in journal.measured(check).arms):
            findings.setdefault(check.key.finding, []).append(check)
    if not findings:
        raise BaselineError(f"{journal.path} holds no checked case with valid runs: nothing to {what}")
    return dict(sorted(findings.items()))


def _prepare(
    journal: Journal, old: Baseline | None, place: str, checks: list[Checked], reason: str
) -> tuple[Baseline, set[str], list[Checked]]:
    """A finding's baseline with what a journal adds to the old one, the cases new in it, and those added."""
    sessions = list(old.sessions) if old else []
    known = [(session.when, session.fingerprint) for session in sessions]
    cases = dict(old.cases) if old else {}
    added: list[Checked] = []
    for opened in journal.openings:
        own = [check for check in checks if journal.opened_for(check.key) is opened]
        if not own or (opened.when, opened.fingerprint) in known:
            continue
        for check in own:
            arms = journal.measured(check).arms
            cases[check.key.case] = _case(cases.get(check.key.case), check, arms, f"{place}: {check.key.case}")
        sessions.append(_session(journal, opened, own, reason))
        added += own
    created = {check.key.case for check in added} - (old.cases.keys() if old else set())
    baseline = Baseline(
        schema=SCHEMA, finding=checks[0].key.finding, gpu=journal.opened.gpu, cases=cases, sessions=tuple(sessions)
    )
    return baseline, created, added


def _session(journal: Journal, opened: Opened, checks: list[Checked], reason: str) -> Session:
    """What one suite run measured of a finding on the same devices."""
    starts: list[dict[str, dict[str, Samples]]] = []
    uncertainties = []
    stack: dict[str, str] = {}
    for check in checks:
        measured = journal.measured(check)
        stack |= journal.stack(measured)
        for arm in measured.arms:
            uncertainties.append(relative_uncertainty(arm))
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
    )


def _case(old: BaselineCase | None, check: Checked, arms: tuple[Arm, ...], place: str) -> BaselineCase:
    identities = {arm.name: arm_identity(arm) for arm in arms}
    known = old.arms if old else {}
    changed = sorted(name for name in known.keys() & identities.keys() if known[name] != identities[name])
    if changed:
        raise BaselineError(
            f"{place} now serves something else in {', '.join(changed)}; delete the case and its samples from "
            "the file to begin it anew"
        )
    return BaselineCase(tp=check.tp, arms={**known, **identities}, budget=old.budget if old else None)


def _samples(arm: Arm) -> list[Samples]:
    seconds: dict[str, list[float]] = {}
    for run in arm.runs:
        seconds.setdefault(run.start, []).append(run.seconds_per_unit)
    return [
        Samples(joules_per_token=tuple(joules), seconds_per_token=tuple(seconds[start]))
        for start, joules in by_start(arm).items()
    ]
