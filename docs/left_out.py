"""What the gate says of every recorded level, were only other boards blessed: nothing changed between them."""

import itertools
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import msgspec
from tabulate import tabulate

from docs.h200 import SESSIONS
from docs.journals import BASELINES, blessed, fenced, read
from pytest_llm_energy.verdicts.baselines import Session, read_baseline
from pytest_llm_energy.verdicts.budgets import DEFAULT_BUDGET
from pytest_llm_energy.verdicts.judge import decide
from pytest_llm_energy.verdicts.noise import GpuBaselines
from pytest_llm_energy.verdicts.reference import change_since, reference_of
from pytest_llm_energy.verdicts.statistics import Interval

MOST_BOARDS = 4
"""Few levels were on more than one board beside so many."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A recorded level against sessions on other boards.

    Attributes:
        here: the journal and its boards.
        boards: those that sessions on are blessed.
        joules: the change.
    """

    here: tuple[str, tuple[str, ...]]
    boards: frozenset[tuple[str, ...]]
    joules: Interval

    @property
    def alarms(self) -> bool:
        """Whether the level would be called regressed."""
        return decide(self.joules, DEFAULT_BUDGET)[0] == "regressed"


def comparisons() -> Iterator[Comparison]:
    """Every recorded level against the sessions of every few other boards."""
    for name in SESSIONS:
        journal = read(f"h200/{name}")
        for check in journal.measurements:
            key = check.key
            opened = journal.opened_for(key)
            here, baseline = opened.fingerprint, read_baseline(BASELINES, key.gpu, key.finding)
            noise = _elsewhere(key.gpu, here.boards).noise(method=opened.method, simulated=False, of=key)
            for arm in journal.measured(check).arms:
                elsewhere = here.boards and tuple(f"not {board}" for board in here.boards)
                from_anywhere = reference_of(
                    arm, key, baseline, type(here)(identity=here.identity, state=here.state, boards=elsewhere)
                ).sessions
                others: dict[tuple[str, ...], list[Session]] = {}
                for session in from_anywhere:
                    if set(session.fingerprint.boards).isdisjoint(here.boards):
                        others.setdefault(session.fingerprint.boards, []).append(session)
                for count in range(1, MOST_BOARDS + 1):
                    for chosen in itertools.combinations(others, count):
                        sessions = [session for boards in chosen for session in others[boards]]
                        change = change_since(arm, key, sessions, here=here, stack={}, noise=noise)
                        yield Comparison(here=(name, here.boards), boards=frozenset(chosen), joules=change.joules)


@cache
def _elsewhere(gpu: str, boards: tuple[str, ...]) -> GpuBaselines:
    """All blessed sessions of a GPU model but those on these boards, which would tell of themselves."""
    return GpuBaselines(
        baselines=tuple(
            msgspec.structs.replace(
                baseline,
                sessions=tuple(s for s in baseline.sessions if set(s.fingerprint.boards).isdisjoint(boards)),
            )
            for baseline in blessed(gpu).baselines
        )
    )


def table() -> str:
    """By how many boards were blessed: how often the gate alarms, whether intervals hold, and what it could see."""
    found = list(comparisons())
    rows = []
    for count in range(1, MOST_BOARDS + 1):
        these = [each for each in found if len(each.boards) == count]
        changes = [each.joules for each in these]
        suites = {(each.here, each.boards) for each in these}
        alarmed = {(each.here, each.boards) for each in these if each.alarms}
        alarms = sum(each.alarms for each in these)
        held = sum(change.low <= 0 <= change.high for change in changes)
        lows, middle, highs = statistics.quantiles((change.half_width for change in changes), n=4)
        rows.append(
            [
                count,
                len(changes),
                f"{alarms / len(changes):.1%}",
                f"{len(alarmed)} of {len(suites)}",
                f"{held / len(changes):.1%}",
                f"{middle:.0%} ({lows:.0%} to {highs:.0%})",
            ]
        )
    headers = [
        "boards blessed",
        "comparisons",
        "regressed",
        "suites with an alarm",
        "intervals that hold",
        "sees (quartiles)",
    ]
    return fenced([tabulate(rows, headers, disable_numparse=True)])
