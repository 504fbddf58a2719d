"""Which cases a time budget chose, what each costs, and what was left out, as text."""

from collections.abc import Iterator, Sequence

import msgspec

from pytest_llm_energy.reporting import words
from pytest_llm_energy.reporting.tables import natural, short_cases, table
from pytest_llm_energy.verdicts.measured import CaseKey


class StatedCost(msgspec.Struct, frozen=True, kw_only=True):
    """What a case is expected to cost, before it is measured.

    Attributes:
        key: the case.
        starts: engine starts that it adds to the cases that are run; engines that are alive are not started again.
        start_seconds: how long those take.
        metered_seconds: in windows.
        seconds: in all, with engine starts, warming up and what passes between windows.
    """

    key: CaseKey
    starts: int
    start_seconds: float
    metered_seconds: float
    seconds: float


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """The cases of a GPU model that are run, and those that a time budget leaves out.

    Attributes:
        gpu: key of the GPU model.
        budget_seconds: how long the cases may take; None where no budget is given, and nothing is left out.
        kept: cases to measure, in the order in which they run.
        left_out: the others, in that order.
        free: further cases that take no time: measured before, or to be skipped here.
        reserved_seconds: of the budget, for metering on where verdicts are open.
    """

    gpu: str
    budget_seconds: float | None
    kept: tuple[StatedCost, ...]
    left_out: tuple[StatedCost, ...] = ()
    free: int = 0
    reserved_seconds: float = 0.0

    @property
    def seconds(self) -> float:
        """How long the cases that are run are expected to take."""
        return sum(cost.seconds for cost in self.kept)

    @property
    def spare_seconds(self) -> float:
        """What the budget leaves over."""
        return max(0.0, (self.budget_seconds or 0.0) - self.reserved_seconds - self.seconds)

    @property
    def fits_nothing(self) -> bool:
        """Whether there are cases to measure, and the budget has room for none."""
        return bool(self.left_out) and not self.kept and not self.free


def selection_lines(selection: Selection) -> Iterator[str]:
    """How many cases are run and how long that takes, and which are left out, each by name.

    ``time budget 15m: 21 of 43 cases on h200, about 14m (9 engine starts 5m, windows 8m)``
    ``left out: 22 cases: batching 16; cuda-graphs 8, 32; ...``
    """
    cases = len(selection.kept) + len(selection.left_out)
    budget = selection.budget_seconds
    what = f"time budget {words.duration(budget)}: {len(selection.kept)} of " if budget is not None else ""
    free = (
        f"; {words.counted(selection.free, 'case')} more, measured before or skipped here" if selection.free else ""
    )
    yield (f"{what}{words.counted(cases, 'case')} on {selection.gpu}, about {_in_all(selection.kept)}{free}")
    if selection.left_out:
        yield f"left out: {words.counted(len(selection.left_out), 'case')}: {_named(selection)}"


def too_little(selection: Selection) -> str:
    """What the cheapest case takes, where none fits."""
    cheapest = min(selection.left_out, key=lambda cost: (cost.seconds, cost.key))
    reserved = words.duration(selection.reserved_seconds)
    return (
        f"--energy-time-budget={words.duration(selection.budget_seconds or 0.0)}: none of "
        f"{words.counted(len(selection.left_out), 'case')} fits; the cheapest, {cheapest.key}, takes about "
        f"{_in_all([cheapest])}{f'; {reserved} are kept for --energy-settle' if selection.reserved_seconds else ''}"
    )


def kept_table(selection: Selection, *, style: str) -> str:
    """What each case costs that is run, with the engine starts that it adds to those before it."""
    return _table(selection, selection.kept, style=style)


def left_out_table(selection: Selection, *, style: str) -> str:
    """What each case that is left out would cost beside those that are run."""
    return _table(selection, selection.left_out, style=style)


def _table(selection: Selection, costs: Sequence[StatedCost], *, style: str) -> str:
    cases = _short(selection)
    records = [
        {
            "finding": cost.key.finding,
            "case": cases[cost.key],
            "engine starts": str(cost.starts or ""),
            "starting": words.about(cost.start_seconds) if cost.starts else "",
            "windows": words.about(cost.metered_seconds),
            "in all": words.about(cost.seconds),
        }
        for cost in costs
    ]
    return table(records, right=("engine starts", "starting", "windows", "in all"), style=style)


def _in_all(costs: Sequence[StatedCost]) -> str:
    """Sums of cases that run one after another: ``14m (9 engine starts 5m, windows 8m)``."""
    starts = sum(cost.starts for cost in costs)
    starting = words.about(sum(cost.start_seconds for cost in costs))
    windows = words.about(sum(cost.metered_seconds for cost in costs))
    parts = [f"{words.counted(starts, 'engine start')} {starting}"] if starts else []
    parts.append(f"windows {windows}")
    return f"{words.about(sum(cost.seconds for cost in costs))} ({', '.join(parts)})"


def _short(selection: Selection) -> dict[CaseKey, str]:
    return short_cases(cost.key for cost in (*selection.kept, *selection.left_out))


def _named(selection: Selection) -> str:
    """The cases left out, by finding: ``batching 16; cuda-graphs 8, 32``."""
    cases = _short(selection)
    findings: dict[str, dict[str, list[str]]] = {}
    for key in sorted((cost.key for cost in selection.left_out), key=natural):
        test, _, parameters = cases[key].partition("[")
        tests = findings.setdefault(key.finding, {})
        tests.setdefault(test if parameters else "", []).append(parameters.removesuffix("]") or test)
    return "; ".join(
        f"{finding} {', '.join(_folded(test, names) for test, names in tests.items())}"
        for finding, tests in findings.items()
    )


def _folded(test: str, parameters: Sequence[str]) -> str:
    """Cases of one test: ``falls[4, 16]``, or ``4, 16`` where its finding has no other."""
    listed = ", ".join(parameters)
    return f"{test}[{listed}]" if test else listed
