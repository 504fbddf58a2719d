"""Stored levels: what was measured and blessed before, and what the paper published."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from pytest_llm_energy.errors import BaselineError
from pytest_llm_energy.hardware.catalogue import gpu_spec
from pytest_llm_energy.hardware.fingerprint import Fingerprint
from pytest_llm_energy.serving.scenario import Identity
from pytest_llm_energy.verdicts.files import pretty, read_strict, write_whole

SCHEMA = 1

Positive = Annotated[float, msgspec.Meta(gt=0)]


class Samples(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Runs of one arm in one engine start."""

    joules_per_token: Annotated[tuple[Positive, ...], msgspec.Meta(min_length=1)]
    seconds_per_token: Annotated[tuple[Positive, ...], msgspec.Meta(min_length=1)]


class Session(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The starts of one suite run on one host state.

    Attributes:
        when: date and time the measuring began (ISO 8601, UTC).
        reason: why it was blessed.
        method: how it was metered.
        simulated: true when no real device was behind the figures.
        fingerprint: of host and devices, boards hashed.
        stack: versions of what served, by package.
        relative_uncertainty: of the metering of one run, one standard deviation, as it was stated then; the judge
            takes that of the run it judges, which is of the same arm and method.
        starts: samples by case and arm, one entry per engine start.
        moved: arms by case whose level this session moved, up or down on purpose; earlier sessions are no
            reference of theirs.
    """

    when: str
    reason: str
    method: str
    fingerprint: Fingerprint
    stack: dict[str, str]
    relative_uncertainty: Annotated[float, msgspec.Meta(ge=0)]
    starts: tuple[dict[str, dict[str, Samples]], ...]
    simulated: bool = False
    moved: dict[str, tuple[str, ...]] = {}


def samples_of(session: Session, case: str, arm: str) -> list[Samples]:
    """Samples of an arm of a case, one per engine start of a session that has any."""
    return [start[case][arm] for start in session.starts if arm in start.get(case, {})]


def watts_of(samples: Samples) -> tuple[float, ...]:
    """Mean power of each run, of all boards together."""
    runs = zip(samples.joules_per_token, samples.seconds_per_token, strict=False)
    return tuple(joules / seconds for joules, seconds in runs)


def watts_per_board(session: Session, case: str, arm: str) -> float:
    """Mean power of an arm in a session, in watts per board; of one that is in it."""
    watts = [each for samples in samples_of(session, case, arm) for each in watts_of(samples)]
    return statistics.fmean(watts) / max(1, len(session.fingerprint.boards))


def since_moved(sessions: Sequence[Session], case: str, arm: str) -> Sequence[Session]:
    """From the last session on that moved the level: what was before is no longer meant."""
    moved = [number for number, session in enumerate(sessions) if arm in session.moved.get(case, ())]
    return sessions[moved[-1] :] if moved else sessions


class BudgetChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A budget was set.

    Attributes:
        when: date and time (ISO 8601, UTC).
        old: the budget before; None where the suite's was taken.
        new: the budget since.
        reason: why.
    """

    when: str
    old: Annotated[float, msgspec.Meta(gt=0)] | None
    new: Annotated[float, msgspec.Meta(gt=0)]
    reason: str


class Absent(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A claim is known not to hold on this GPU model.

    Attributes:
        when: date and time it was recorded (ISO 8601, UTC).
        reason: why it does not hold.
    """

    when: str
    reason: str


class BaselineCase(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a case serves, and how much more it may take.

    Attributes:
        tp: devices it runs on.
        arms: identity of each arm's scenario; other identities are not compared with it.
        budget: allowed relative increase of a level; None takes the suite's.
        budget_changes: how it came to be that, in order.
        absent: claims that are known not to hold on this GPU model, as reports word them.
    """

    tp: int
    arms: dict[str, Identity]
    budget: Annotated[float, msgspec.Meta(gt=0)] | None = None
    budget_changes: tuple[BudgetChange, ...] = ()
    absent: dict[str, Absent] = {}


class Trimmed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Something was taken out of a baseline.

    Attributes:
        when: date and time (ISO 8601, UTC).
        what: ``CASE``, ``CASE: ARM`` or ``CASE: CLAIM``.
        reason: why.
    """

    when: str
    what: str
    reason: str


class Baseline(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Blessed sessions of one finding on one GPU model; file ``<gpu>/<finding>.json``.

    Attributes:
        schema: of the file.
        finding: what the test file is about.
        gpu: key of the GPU model.
        cases: what each case serves, and what is recorded of it.
        sessions: in the order they were blessed; the first stays for ever.
        trimmed: what was taken out, in order.
    """

    schema: int
    finding: str
    gpu: str
    cases: dict[str, BaselineCase]
    sessions: tuple[Session, ...]
    trimmed: tuple[Trimmed, ...] = ()


class Figure(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A published figure.

    Attributes:
        id: name within the finding.
        says: the statement in one sentence.
        quantity: what the figure is about.
        relation: ``equals``, ``at_most`` ("up to"), or ``direction`` (no number given).
        direction: which way the effect goes.
        value: relative change (negative saves) or a number of ``unit``; None for a mere direction.
        unit: ``fraction`` or ``tokens``.
        tolerance: absolute, in ``unit``; None where none is stated.
        gpu: key of the GPU it was published for; None where the source names none.
        where: further conditions, by name.
        source: section or figure.
    """

    id: str
    says: str
    quantity: Literal["energy", "latency", "power", "length", "count"]
    relation: Literal["equals", "at_most", "direction"]
    direction: Literal["saves", "costs", "flat", "linear", "ordering"]
    value: float | None
    unit: Literal["fraction", "tokens"]
    tolerance: float | None
    gpu: str | None
    where: dict[str, str]
    source: str


class Published(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The published figures of one finding; file ``published/<finding>.json``."""

    schema: int
    finding: str
    claim: str
    source: str
    figures: tuple[Figure, ...]

    def figure(self, figure_id: str) -> Figure:
        """The figure of that id.

        Raises:
            BaselineError: there is none; lists the known ones.
        """
        for figure in self.figures:
            if figure.id == figure_id:
                return figure
        known = ", ".join(figure.id for figure in self.figures)
        raise BaselineError(f"{self.finding} has no published figure {figure_id!r}; known: {known}")


def baseline_path(folder: Path, gpu: str, finding: str) -> Path:
    """Where the baseline of a finding on a GPU model lies."""
    return folder / gpu / f"{finding}.json"


def read_baseline(folder: Path, gpu: str, finding: str) -> Baseline | None:
    """The baseline, None where there is none yet.

    Raises:
        BaselineError: the file cannot be read, is corrupt, of a newer schema, or lies in the wrong place.
    """
    path = baseline_path(folder, gpu, finding)
    if not path.exists():
        return None
    baseline = read_strict(path, Baseline, schema=SCHEMA)
    if (baseline.gpu, baseline.finding) != (gpu, finding):
        raise BaselineError(f"{path} is the baseline of {baseline.finding} on {baseline.gpu}: move it there")
    for number, session in enumerate(baseline.sessions):
        for start in session.starts:
            if unknown := start.keys() - baseline.cases.keys():
                raise BaselineError(f"{path}: sessions[{number}] has samples of {sorted(unknown)}, not in cases")
    return baseline


def write_baseline(folder: Path, baseline: Baseline) -> Path:
    """Write a baseline in one step.

    Raises:
        BaselineError: it cannot be written; the old file stays.
    """
    path = baseline_path(folder, baseline.gpu, baseline.finding)
    write_whole(path, pretty(baseline))
    return path


def read_published(folder: Path, finding: str) -> Published | None:
    """The published figures of a finding, None where it has none.

    Raises:
        BaselineError: the file is corrupt or names an unknown GPU.
    """
    path = folder / "published" / f"{finding}.json"
    if not path.exists():
        return None
    published = read_strict(path, Published, schema=SCHEMA)
    for figure in published.figures:
        if figure.gpu is not None:
            gpu_spec(figure.gpu)
    return published
