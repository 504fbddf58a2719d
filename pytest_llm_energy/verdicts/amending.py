"""Changes of baselines that no measurement makes: the budget of a case."""

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

import msgspec

from pytest_llm_energy.errors import BaselineError
from pytest_llm_energy.verdicts.baselines import (
    Baseline,
    BudgetChange,
    read_baseline,
    write_baseline,
)
from pytest_llm_energy.verdicts.measured import CaseKey


def set_budget(folder: Path, case: str, budget: float, *, reason: str, when: str) -> tuple[Path, BudgetChange]:
    """Set how much more the levels of a case may take; the change is recorded beside it.

    Args:
        folder: of the baselines.
        case: as reports write it, ``FINDING CASE on GPU``; the GPU model may be left out where one alone has it.
        budget: relative increase that passes from now on.
        reason: why.
        when: the time now (ISO 8601, UTC).

    Returns:
        The file that was written, and the change.

    Raises:
        BaselineError: no reason is given, the case is not known, or has this budget; or a file cannot be read or
            written.
    """
    _need(reason, "a budget")
    baseline, key = find_case(read_baselines(folder), case)
    old = baseline.cases[key.case]
    if old.budget == budget:
        raise BaselineError(f"{key} has a budget of {budget:.3g} already")
    change = BudgetChange(when=when, old=old.budget, new=budget, reason=reason)
    new = msgspec.structs.replace(old, budget=budget, budget_changes=(*old.budget_changes, change))
    changed = msgspec.structs.replace(baseline, cases={**baseline.cases, key.case: new})
    return write_baseline(folder, changed), change


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
    """The case of that name, as reports write it; the GPU model may be left out where one alone has it.

    Raises:
        BaselineError: there is none, or there are several.
    """
    cases = [(b, CaseKey(gpu=b.gpu, finding=b.finding, case=case)) for b in baselines for case in b.cases]
    found = [(b, key) for b, key in cases if name in (str(key), f"{key.finding} {key.case}")]
    if len(found) == 1:
        return found[0]
    if found:
        raise BaselineError(f"several baselines have the case {name!r}: {', '.join(str(key) for _, key in found)}")
    near = ", ".join(get_close_matches(name, [str(key) for _, key in cases], n=3, cutoff=0.4))
    raise BaselineError(f"no baseline has the case {name!r}" + (f"; near: {near}" if near else ""))


def _need(reason: str, what: str) -> None:
    if not reason.strip():
        raise BaselineError(f"{what} needs a reason: --reason 'why this is right'")
