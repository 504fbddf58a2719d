"""Taking out of baselines what nobody measures any more."""

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path

import msgspec

from pytest_llm_energy.errors import BaselineError
from pytest_llm_energy.verdicts.amending import near, need_reason
from pytest_llm_energy.verdicts.baselines import Baseline, BaselineCase, Samples, Session, Trimmed, write_baseline
from pytest_llm_energy.verdicts.measured import CaseKey
from pytest_llm_energy.verdicts.naming import names_of, spelt


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a baseline: a case, or one arm or recorded claim of it.

    Attributes:
        key: the case.
        arm: the arm, None for the whole case.
        claim: the claim that is recorded as absent, None for the whole case.
    """

    key: CaseKey
    arm: str | None = None
    claim: str | None = None

    def __str__(self) -> str:
        within = self.arm or self.claim
        return f"{self.key}: {within}" if within else str(self.key)

    @property
    def names(self) -> list[str]:
        """Every name that means it, spelt alike."""
        within = self.arm or self.claim
        return [f"{name}: {spelt(within)}" if within else name for name in names_of(self.key)]


def unused(
    baselines: Iterable[Baseline], collected: Mapping[CaseKey, AbstractSet[str] | None], *, only_collected: bool
) -> list[Part]:
    """Cases of baselines that are not collected, and arms that a collected case has no more.

    Args:
        baselines: of GPU models that were collected for.
        collected: cases with the names of their arms, None where a test's body alone knows them.
        only_collected: look at those findings alone of which some case was collected.
    """
    findings = {key.finding for key in collected}
    found = []
    for part in _parts(baselines):
        if only_collected and part.key.finding not in findings:
            continue
        if part == Part(key=part.key):
            gone = part.key not in collected
        else:
            arms = collected.get(part.key)
            gone = part.arm is not None and arms is not None and part.arm not in arms
        if gone:
            found.append(part)
    return found


def named(baselines: Iterable[Baseline], name: str) -> Part:
    """The part of that name, as reports write it: ``FINDING CASE on GPU``, with ``: ARM`` or ``: CLAIM`` after it.

    Raises:
        BaselineError: there is none, or there are several.
    """
    parts = list(_parts(baselines))
    found = [part for part in parts if spelt(name) in part.names]
    if not found:
        raise BaselineError(f"no baseline holds {name!r}{near(name, map(str, parts))}")
    if len(found) > 1:
        raise BaselineError(f"several baselines hold {name!r}: {', '.join(map(str, found))}")
    return found[0]


def trim(
    folder: Path, baselines: Iterable[Baseline], parts: Sequence[Part], *, reason: str, when: str
) -> list[Path]:
    """Take parts out of baselines, which record that; sessions stay, without the samples of what is gone.

    Raises:
        BaselineError: no reason is given, or a file cannot be written.
    """
    need_reason(reason, "trimming")
    written = []
    for baseline in baselines:
        own = [part for part in parts if (part.key.gpu, part.key.finding) == (baseline.gpu, baseline.finding)]
        if own:
            record = tuple(Trimmed(when=when, what=_within(part), reason=reason) for part in own)
            for part in own:
                baseline = _without(baseline, part)
            kept = msgspec.structs.replace(baseline, trimmed=(*baseline.trimmed, *record))
            written.append(write_baseline(folder, kept))
    return written


def _parts(baselines: Iterable[Baseline]) -> Iterable[Part]:
    for baseline in baselines:
        for name, case in baseline.cases.items():
            key = CaseKey(gpu=baseline.gpu, finding=baseline.finding, case=name)
            yield Part(key=key)
            yield from (Part(key=key, arm=arm) for arm in case.arms)
            yield from (Part(key=key, claim=claim) for claim in case.absent)


def _within(part: Part) -> str:
    within = part.arm or part.claim
    return f"{part.key.case}: {within}" if within else part.key.case


def _without(baseline: Baseline, part: Part) -> Baseline:
    """A baseline without a part; a case without its last arm is gone too, unless more is recorded of it."""
    cases = dict(baseline.cases)
    name = part.key.case
    case = cases.pop(name, None)
    if case is None:  # with a part that held this one
        return baseline
    absent = {claim: since for claim, since in case.absent.items() if claim != part.claim}
    arms = case.arms
    if part.claim is None:
        arms = {arm: identity for arm, identity in case.arms.items() if part.arm not in (None, arm)}
    left = msgspec.structs.replace(case, arms=arms, absent=absent)
    if part != Part(key=part.key) and left != BaselineCase(tp=case.tp, arms={}):
        cases[name] = left
    sessions = tuple(_session_with(session, name, arms) for session in baseline.sessions)
    return msgspec.structs.replace(baseline, cases=cases, sessions=sessions)


def _session_with(session: Session, case: str, arms: Mapping[str, object]) -> Session:
    """A session whose samples of a case are those of these arms alone."""
    starts = []
    for start in session.starts:
        kept: dict[str, Samples] = {arm: s for arm, s in start.get(case, {}).items() if arm in arms}
        others = {name: samples for name, samples in start.items() if name != case}
        if whole := others | ({case: kept} if kept else {}):
            starts.append(whole)
    moved = {name: moved for name, moved in session.moved.items() if name != case}
    if still := tuple(arm for arm in session.moved.get(case, ()) if arm in arms):
        moved[case] = still
    return msgspec.structs.replace(session, starts=tuple(starts), moved=moved)
