"""What a baseline records beside levels: the budget of a case, and claims that are known not to hold."""

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

import msgspec

from pytest_llm_energy.errors import BaselineError
from pytest_llm_energy.verdicts.baselines import (
    Absent,
    Baseline,
    BaselineCase,
    BudgetChange,
    read_baseline,
    read_published,
    write_baseline,
)
from pytest_llm_energy.verdicts.gains import HARDWARE_SPEED, all_gains
from pytest_llm_energy.verdicts.journal import Journal
from pytest_llm_energy.verdicts.judge import judge_recorded
from pytest_llm_energy.verdicts.measured import CaseKey
from pytest_llm_energy.verdicts.naming import names_of, spelt
from pytest_llm_energy.verdicts.noise import read_gpu_baselines
from pytest_llm_energy.verdicts.rows import ClaimRow


def set_budget(
    folder: Path, case: str, budget: float, *, reason: str, when: str
) -> tuple[Path, CaseKey, BudgetChange]:
    """Set how much more the levels of a case may take; the change is recorded beside it.

    Args:
        folder: of the baselines.
        case: as reports write it, ``FINDING CASE on GPU``; the GPU model may be left out where one alone has it.
        budget: relative increase that passes from now on.
        reason: why.
        when: the time now (ISO 8601, UTC).

    Returns:
        The file that was written, the case, and the change.

    Raises:
        BaselineError: no reason is given, the case is not known, or has this budget; or a file cannot be read or
            written.
    """
    need_reason(reason, "a budget")
    baseline, key = find_case(read_baselines(folder), case)
    old = baseline.cases[key.case]
    if old.budget == budget:
        raise BaselineError(f"{key} has a budget of {budget:.3g} already")
    change = BudgetChange(when=when, old=old.budget, new=budget, reason=reason)
    new = msgspec.structs.replace(old, budget=budget, budget_changes=(*old.budget_changes, change))
    return write_baseline(folder, _with_case(baseline, key.case, new)), key, change


def set_absent(
    journal: Journal | None, folder: Path, claim: str, *, reason: str, when: str
) -> tuple[Path, ClaimRow]:
    """Record that a claim does not hold on a GPU model, as a journal shows, or as baselines of two do.

    A claim about two GPU models is recorded with the case that was compared, in the baseline of the faster one.

    Args:
        journal: in which the claim is contradicted; None for a claim about baselines.
        folder: of the baselines.
        claim: as reports write it, ``FINDING CASE: CLAIM``, or with ``on GPU`` and the verdict.
        reason: why it does not hold there.
        when: the time now (ISO 8601, UTC).

    Returns:
        The file that was written, and what the journal shows.

    Raises:
        BaselineError: no reason is given, the journal has no such claim or does not contradict it, or is needed and
            not given, its case has no baseline yet; or a file cannot be read or written.
        EnergyError: a case of the journal cannot be judged.
    """
    need_reason(reason, "a finding that does not hold")
    row = _find_gain(folder, claim) or _find_claim(journal, folder, claim)
    baseline = read_baseline(folder, row.key.gpu, row.key.finding)
    if baseline is None or row.key.case not in baseline.cases:
        raise BaselineError(f"{row.key} has no baseline to record that in: llm-energy bless JOURNAL --reason ...")
    if row.verdict == "absent":
        raise BaselineError(f"{row.key}: {row.says}: {row.note}; that is recorded already")
    if row.verdict != "contradicts":
        shows = journal.path if journal and row.judged_by == "runs" else folder
        raise BaselineError(f"{shows} does not contradict it: {row.key}: {row.verdict}: {row.says}")
    old = baseline.cases[row.key.case]
    new = msgspec.structs.replace(old, absent={**old.absent, row.says: Absent(when=when, reason=reason)})
    return write_baseline(folder, _with_case(baseline, row.key.case, new)), row


def _find_gain(folder: Path, name: str) -> ClaimRow | None:
    """What the baselines show of a claim about two GPU models, as one of the case that was compared."""
    published = read_published(folder, HARDWARE_SPEED)
    figures = {figure.id: figure for figure in published.figures} if published else {}
    for optimisation, compared in all_gains(folder, figures):
        if spelt(name).endswith(f": {spelt(compared.statement.says)}"):
            key = CaseKey(gpu=compared.faster, finding=optimisation.finding, case=compared.case)
            return compared.row(key, figures.get(optimisation.figure))
    return None


def _find_claim(journal: Journal | None, folder: Path, name: str) -> ClaimRow:
    """What a journal shows of the claim of that name; cases of other names may have ended in an error."""
    if journal is None:
        raise BaselineError(f"no baselines of two GPU models show {name!r}: name the journal that does, before it")
    name = spelt(name)
    keys = [key for key in sorted(journal.cases) if any(name.startswith(f"{says}: ") for says in names_of(key))]
    if not keys:
        raise BaselineError(f"{journal.path} has no case of {name!r}{near(name, map(str, journal.cases))}")
    if len(keys) > 1:
        raise BaselineError(f"{journal.path} has several cases of {name!r}: {', '.join(map(str, keys))}")
    (key,) = keys
    rows = judge_recorded(
        journal,
        key,
        baseline=read_baseline(folder, key.gpu, key.finding),
        published=read_published(folder, key.finding),
        budget=None,
        gpu_baselines=read_gpu_baselines(folder, key.gpu),
    )
    claims = [row for row in rows if isinstance(row, ClaimRow)]
    for row in claims:
        if name.endswith(f": {spelt(row.says)}"):  # with the verdict between, in the line of a failure
            return row
    raise BaselineError(f"the journal has no claim {name!r}{near(name, [f'{key}: {row.says}' for row in claims])}")


def near(name: str, known: Iterable[str]) -> str:
    """The end of a message about a name that is not known: those that are like it."""
    found = get_close_matches(name, list(known), n=3, cutoff=0.4)
    return f"; near: {', '.join(found)}" if found else ""


def _with_case(baseline: Baseline, name: str, case: BaselineCase) -> Baseline:
    return msgspec.structs.replace(baseline, cases={**baseline.cases, name: case})


def read_baselines(folder: Path) -> list[Baseline]:
    """Every baseline in a folder, of all GPU models.

    Raises:
        BaselineError: there is none, or one cannot be read.
    """
    paths = [path for path in sorted(folder.glob("*/*.json")) if path.parent.name != "published"]
    found = [read_baseline(folder, path.parent.name, path.stem) for path in paths]
    if not found:
        raise BaselineError(f"{folder} holds no baseline: name the folder with --baselines")
    return [baseline for baseline in found if baseline is not None]


def find_case(baselines: Iterable[Baseline], name: str) -> tuple[Baseline, CaseKey]:
    """The case of that name, as messages or tables write it; what one case alone has of it is enough.

    Raises:
        BaselineError: there is none, or there are several.
    """
    cases = [(b, CaseKey(gpu=b.gpu, finding=b.finding, case=case)) for b in baselines for case in b.cases]
    found = [(b, key) for b, key in cases if spelt(name) in names_of(key)]
    if len(found) == 1:
        return found[0]
    if found:
        raise BaselineError(f"several baselines have the case {name!r}: {', '.join(str(key) for _, key in found)}")
    raise BaselineError(f"no baseline has the case {name!r}{near(name, [str(key) for _, key in cases])}")


def need_reason(reason: str, what: str) -> None:
    """Refuse a change that nobody gives a reason for.

    Raises:
        BaselineError: the reason is empty.
    """
    if not reason.strip():
        raise BaselineError(f"{what} needs a reason: --reason 'why this is right'")
