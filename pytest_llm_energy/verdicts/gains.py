"""What an optimisation gains on one GPU model against what it gains on another, by the baselines of both.

Nothing is measured for this: an optimisation's arm and its control lie side by side in the baselines, and so do the
GPU models. The effect is compared in the case of the smallest batch that both have with the same scenarios, for
there the host is most of what there is to spare.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from pytest_llm_energy.errors import BaselineError
from pytest_llm_energy.verdicts.baselines import (
    Absent,
    Baseline,
    BaselineCase,
    Figure,
    Session,
    baseline_path,
    read_baseline,
    samples_of,
    since_moved,
)
from pytest_llm_energy.verdicts.claims import Outcome, Statement
from pytest_llm_energy.verdicts.gpu_speed import faster_first
from pytest_llm_energy.verdicts.measured import CaseKey
from pytest_llm_energy.verdicts.noise import GpuBaselines, read_gpu_baselines
from pytest_llm_energy.verdicts.quantities import JOULES
from pytest_llm_energy.verdicts.rows import ClaimRow
from pytest_llm_energy.verdicts.statements import judge_statement
from pytest_llm_energy.verdicts.statistics import Contrast, apart


class Optimisation(msgspec.Struct, frozen=True, kw_only=True):
    """Something that saves energy, as a finding measures it.

    Attributes:
        name: what ids call it.
        finding: whose baselines have it.
        arm: name of the arm that has it.
        control: name of the arm that has it not.
        figure: id of the published figure about it and the speed of GPUs.
    """

    name: str
    finding: str
    arm: str
    control: str
    figure: str

    def __str__(self) -> str:
        return self.name

    def says(self, faster: str, slower: str) -> str:
        """The claim in words."""
        return f"{self.arm} gains more against {self.control} on {faster} than on {slower}"


COMPILE = Optimisation(
    name="compile",
    finding="torch-compile",
    arm="compiled",
    control="eager",
    figure="compile-gains-more-on-faster-gpus",
)
GRAPHS = Optimisation(
    name="graphs",
    finding="cuda-graphs",
    arm="graphs",
    control="eager",
    figure="graphs-gain-more-on-faster-gpus",
)
SPECULATION = Optimisation(
    name="speculation",
    finding="speculative-decoding",
    arm="speculative",
    control="plain",
    figure="speculation-gains-most-on-fastest-gpu",
)
HARDWARE_SPEED = "hardware-speed"
"""The finding that what an optimisation gains depends on the GPU model."""

OPTIMISATIONS = (COMPILE, GRAPHS, SPECULATION)


@dataclass(frozen=True, kw_only=True)
class Compared:
    """An effect on two GPU models.

    Attributes:
        statement: that the faster one gains more, with the interval of the ratio of its effect to the other's.
        faster: key of the GPU model that is.
        case: the case that both have.
        note: what was compared, in words.
        absent: statements that the baseline of either records as known not to hold.
    """

    statement: Statement
    faster: str
    case: str
    note: str
    absent: Mapping[str, Absent]

    def row(self, key: CaseKey, figure: Figure | None) -> ClaimRow:
        """The verdict on it, for the case that asks for it."""
        row = judge_statement(self.statement, key, figure, absent=self.absent)
        return msgspec.structs.replace(
            row, note="; ".join(filter(None, [self.note, row.note])), judged_by="baselines"
        )


@dataclass(frozen=True, kw_only=True)
class NotCompared:
    """Another GPU model with a baseline, and why the two are not compared."""

    gpu: str
    why: str

    def __str__(self) -> str:
        return f"not compared with {self.gpu}: {self.why}"


THEN = "then llm-energy bless JOURNAL --reason ..."
"""What makes a measurement a baseline."""


@dataclass(frozen=True, kw_only=True)
class Gains:
    """An optimisation on one GPU model against all others.

    Attributes:
        optimisation: what gains.
        gpu: key of the GPU model.
        measured: whether it has a baseline itself.
        compared: the others that it is compared with.
        not_compared: the others that it is not.
    """

    optimisation: Optimisation
    gpu: str
    measured: bool = True
    compared: tuple[Compared, ...] = ()
    not_compared: tuple[NotCompared, ...] = ()

    def rows(self, key: CaseKey, figure: Figure | None) -> list[ClaimRow]:
        """A verdict per pair of GPU models; the first also tells which are not compared."""
        rows = [each.row(key, figure) for each in self.compared]
        if rows and self.not_compared:
            note = "; ".join([str(rows[0].note), *map(str, self.not_compared)])
            rows[0] = msgspec.structs.replace(rows[0], note=note)
        return rows

    @property
    def why_none(self) -> str | None:
        """Why nothing is compared, and how to change that; None where something is."""
        if self.compared:
            return None
        finding = self.optimisation.finding
        if not self.measured:
            return f"{self.gpu} has no baseline of {finding}: measure it, {THEN}"
        if self.not_compared:
            return f"{finding} of {self.gpu} is {'; '.join(map(str, self.not_compared))}"
        return f"only {self.gpu} has a baseline of {finding}: measure it on another GPU model, {THEN}"


def gains(folder: Path, optimisation: Optimisation, gpu: str, figure: Figure | None) -> Gains:
    """Compare what an optimisation gains on a GPU model with what it gains on every other.

    Args:
        folder: of the baselines.
        optimisation: what gains.
        gpu: key of the GPU model.
        figure: what was published of it: where that ranks GPU models, they are as fast as it says.

    Raises:
        BaselineError: the baseline of this GPU model cannot be read; of another, that is why it is not compared.
    """
    if read_baseline(folder, gpu, optimisation.finding) is None:
        return Gains(optimisation=optimisation, gpu=gpu, measured=False)
    own = _Known.read(folder, gpu, optimisation.finding)
    compared, not_compared = [], []
    for other in _gpus_with(folder, optimisation.finding):
        if other == gpu:
            continue
        try:
            compared.append(_compare(optimisation, own, _Known.read(folder, other, optimisation.finding), figure))
        except BaselineError as error:
            not_compared.append(NotCompared(gpu=other, why=str(error)))
    return Gains(optimisation=optimisation, gpu=gpu, compared=tuple(compared), not_compared=tuple(not_compared))


def all_gains(folder: Path, figures: Mapping[str, Figure]) -> Iterator[tuple[Optimisation, Compared]]:
    """Every pair of GPU models whose baselines are compared, once, optimisation by optimisation.

    Args:
        folder: of the baselines.
        figures: what was published, by id.
    """
    for optimisation in OPTIMISATIONS:
        seen = set()
        for gpu in _gpus_with(folder, optimisation.finding):
            for compared in gains(folder, optimisation, gpu, figures.get(optimisation.figure)).compared:
                if compared.statement.says not in seen:
                    seen.add(compared.statement.says)
                    yield optimisation, compared


def _gpus_with(folder: Path, finding: str) -> list[str]:
    """GPU models with a baseline of a finding; not a CPU, whose joules are estimated."""
    paths = sorted(folder.glob(f"*/{finding}.json"))
    return [path.parent.name for path in paths if path.parent.name not in ("published", "cpu")]


@dataclass(frozen=True, kw_only=True)
class _Known:
    """What the baselines of a GPU model hold."""

    gpu: str
    baseline: Baseline
    all: GpuBaselines

    @classmethod
    def read(cls, folder: Path, gpu: str, finding: str) -> "_Known":
        """Read all baselines of a GPU model, which tell how levels scatter there.

        Raises:
            BaselineError: that of the finding cannot be read.
        """
        found = read_gpu_baselines(folder, gpu)
        for baseline in found.baselines:
            if baseline.finding == finding:
                return cls(gpu=gpu, baseline=baseline, all=found)
        raise BaselineError(f"{baseline_path(folder, gpu, finding)} cannot be read")

    def contrast(self, optimisation: Optimisation, case: str, *, simulated: bool) -> Contrast | None:
        """An optimisation in a case, by the sessions that hold both arms; None where there are none.

        Those are meant that are on the hardware of the last one, metered as that was, with neither arm moved since.
        """
        arms = (optimisation.arm, optimisation.control)
        whole = [
            session
            for session in self.baseline.sessions
            if session.simulated == simulated and all(samples_of(session, case, arm) for arm in arms)
        ]
        alike = [session for session in whole if _conditions(session) == _conditions(whole[-1])]
        since = min((since_moved(alike, case, arm) for arm in arms), key=len)
        if not since or since[-1].fingerprint.identity.get("mig"):  # a slice of a GPU has a part of its speed
            return None
        uncertainty = max(session.relative_uncertainty for session in since)
        arm, control = (JOULES.then(since, case, arm, relative_uncertainty=uncertainty) for arm in arms)
        key = CaseKey(gpu=self.gpu, finding=self.baseline.finding, case=case)
        noise = self.all.noise(method=since[-1].method, simulated=simulated, of=key)
        return Contrast(arm=arm, control=control, noise=noise)


def _conditions(session: Session) -> tuple[object, ...]:
    return session.fingerprint.identity, session.method


def _compare(optimisation: Optimisation, one: _Known, other: _Known, figure: Figure | None) -> Compared:
    """One GPU model against another.

    Raises:
        BaselineError: which of them is faster is not known, or they have no case in common.
    """
    ranked = faster_first(one.gpu, other.gpu, figure)
    faster, slower = (next(known for known in (one, other) if known.gpu == gpu) for gpu in ranked)
    for case in _common(optimisation, faster.baseline, slower.baseline):
        for simulated in (False, True):
            fast, slow = (known.contrast(optimisation, case, simulated=simulated) for known in (faster, slower))
            if fast is None or slow is None:
                continue
            interval = apart(fast, slow)
            says = optimisation.says(faster.gpu, slower.gpu)
            outcome: Outcome = "holds" if interval.high < 0 else "fails" if interval.low > 0 else "open"
            effects = ", ".join(_effect(known.gpu, side) for known, side in ((faster, fast), (slower, slow)))
            return Compared(
                statement=Statement(says=says, interval=interval, kind="effect", outcome=outcome),
                faster=faster.gpu,
                case=case,
                note=f"by baselines of {optimisation.finding} {case}: {effects}",
                absent={**slower.baseline.cases[case].absent, **faster.baseline.cases[case].absent},
            )
    raise BaselineError(f"no case of {optimisation.finding} that both have measured alike, with the same scenarios")


def _effect(gpu: str, contrast: Contrast) -> str:
    boards = len(contrast.arm.by_board)
    return f"{contrast.effect * 100:+.1f} % on {boards} {'board' if boards == 1 else 'boards'} of {gpu}"


def _common(optimisation: Optimisation, one: Baseline, other: Baseline) -> list[str]:
    """Cases in which both serve the same arms, the smallest batch first."""
    arms = (optimisation.arm, optimisation.control)
    found = [
        name
        for name, case in one.cases.items()
        if name in other.cases and _scenarios(case, arms) == _scenarios(other.cases[name], arms) != []
    ]
    return sorted(found, key=lambda name: (_batch_size(one.cases[name], optimisation), len(name), name))


def _scenarios(case: BaselineCase, arms: Sequence[str]) -> list[object]:
    """What the arms serve; nothing of a case that lacks one."""
    return [case.arms[arm] for arm in arms] if case.arms.keys() >= set(arms) else []


def _batch_size(case: BaselineCase, optimisation: Optimisation) -> int:
    return int(case.arms[optimisation.control].get("batch_size", 1))
