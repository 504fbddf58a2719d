"""How much more a level may take, who says so, and whether that is looser than it was."""

from pytest_llm_energy.verdicts.baselines import BaselineCase
from pytest_llm_energy.verdicts.rows import Loosened

DEFAULT_BUDGET = 0.03
"""Relative increase that passes where nobody has set another: small against what upgrades cost, and above what
sessions on one board can resolve. Boards differ by more (``noise.ASSUMED``)."""


def budget_of(
    case: BaselineCase | None, *, overriding: float | None, stated: float | None, default: float
) -> tuple[float, Loosened | None]:
    """Budget of the levels of a case, and in which way it is looser than it was, if it is.

    Args:
        case: the case in its baseline, None where it has none.
        overriding: of the command line, above all others.
        stated: by the test.
        default: where neither test nor baseline have one; the ini file may have set it.
    """
    if overriding is not None:
        return overriding, _looser(overriding, Loosened(was=DEFAULT_BUDGET, by="command line"))
    if stated is not None:
        return stated, _looser(stated, Loosened(was=DEFAULT_BUDGET, by="test"))
    if case is not None and case.budget is not None:
        return case.budget, _looser(case.budget, _in_baseline(case))
    return default, _looser(default, Loosened(was=DEFAULT_BUDGET, by="ini file"))


def _looser(budget: float, loosened: Loosened) -> Loosened | None:
    return loosened if budget > loosened.was else None


def _in_baseline(case: BaselineCase) -> Loosened:
    """Against the tightest budget the case ever had, with the reason of the last change that loosened it."""
    earlier = [DEFAULT_BUDGET if change.old is None else change.old for change in case.budget_changes]
    was = min([DEFAULT_BUDGET, *earlier])
    loosening = [change for change, old in zip(case.budget_changes, earlier, strict=True) if change.new > old]
    if not loosening:
        return Loosened(was=was, by="baseline")
    return Loosened(was=was, by="baseline", reason=loosening[-1].reason, when=loosening[-1].when)
