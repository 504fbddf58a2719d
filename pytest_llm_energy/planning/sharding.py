"""Running a part of the energy cases: the parts are disjoint, are all, and take about as long as each other."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import pytest

from pytest_llm_energy.fixtures import CASE, measures
from pytest_llm_energy.planning.durations import Durations
from pytest_llm_energy.session import EnergySession
from pytest_llm_energy.verdicts.measured import CaseKey


@dataclass(frozen=True, kw_only=True)
class Task:
    """A case as a shard sees it.

    Attributes:
        key: the case.
        seconds: how long it takes on engines that are alive.
        engines: keys of the engines it runs on, sorted.
    """

    key: CaseKey
    seconds: float
    engines: tuple[str, ...] = ()


@dataclass(frozen=True)
class Part:
    """Tasks of the same engines that stay in one shard, at least one."""

    tasks: tuple[Task, ...]

    @property
    def first(self) -> CaseKey:
        """The case that tells parts apart which cost the same."""
        return min(task.key for task in self.tasks)

    @property
    def engines(self) -> tuple[str, ...]:
        """Keys of the engines it runs on."""
        return self.tasks[0].engines

    @property
    def serving_seconds(self) -> float:
        """How long it takes on engines that are alive."""
        return sum(task.seconds for task in self.tasks)

    def seconds(self, start_seconds: Mapping[str, float], *, alive: Collection[str] = ()) -> float:
        """How long it takes, with the starts of those of its engines that are not alive."""
        starting = sum(start_seconds[engine] for engine in self.engines if engine not in alive)
        return starting + self.serving_seconds

    def halves(self) -> tuple["Part", "Part"]:
        """Two parts that take about as long, of two tasks or more."""
        halves: tuple[list[Task], list[Task]] = ([], [])
        for task in sorted(self.tasks, key=lambda task: (-task.seconds, task.key)):
            min(halves, key=lambda half: (sum(t.seconds for t in half), len(half))).append(task)
        return Part(tuple(halves[0])), Part(tuple(halves[1]))


def partition(tasks: Iterable[Task], start_seconds: Mapping[str, float], shards: int) -> list[set[CaseKey]]:
    """Cases of each shard: part by part, the longest first, to the shard that is soonest done with it.

    Cases of the same engines stay together unless that would leave a shard empty or waiting. The result does not
    depend on the order of the tasks.

    Args:
        tasks: the cases, each key once.
        start_seconds: what starting an engine takes, by its key.
        shards: how many shards.
    """
    cases: list[set[CaseKey]] = [set() for _ in range(shards)]
    engines: list[set[str]] = [set() for _ in range(shards)]
    loads = [0.0] * shards
    parts = _parts(tasks, start_seconds, shards)
    for part in sorted(parts, key=lambda part: (-part.seconds(start_seconds), part.first)):
        done = [load + part.seconds(start_seconds, alive=e) for load, e in zip(loads, engines, strict=True)]
        shard = min(range(shards), key=lambda n: (done[n], len(cases[n])))
        loads[shard] = done[shard]
        engines[shard].update(part.engines)
        cases[shard].update(task.key for task in part.tasks)
    return cases


def _parts(tasks: Iterable[Task], start_seconds: Mapping[str, float], shards: int) -> list[Part]:
    """Cases by their engines, halved while a shard would stay empty, or have that part alone and be done last.

    Halving costs further engine starts; for balance alone it is done only while each half serves for as long as
    its engines take to start.
    """
    groups: dict[tuple[str, ...], list[Task]] = {}
    for task in sorted(tasks, key=lambda task: task.key):
        groups.setdefault(task.engines, []).append(task)
    parts = [Part(tuple(group)) for group in groups.values()]
    fair = sum(part.seconds(start_seconds) for part in parts) / shards

    def worth_halving(part: Part) -> bool:
        seconds = part.seconds(start_seconds)
        return seconds > fair and part.serving_seconds >= 2 * (seconds - part.serving_seconds)

    while halved := [p for p in parts if len(p.tasks) > 1 and (len(parts) < shards or worth_halving(p))]:
        longest = max(halved, key=lambda part: (part.seconds(start_seconds), part.first))
        parts.remove(longest)
        parts += longest.halves()
    return parts


class Shards:
    """Deselects what other shards run; registered when ``--energy-shard`` is given."""

    def __init__(self, session: EnergySession, shard: int, of: int) -> None:
        """Read how long cases take.

        Args:
            session: what this process holds.
            shard: which shard runs here, from 1.
            of: how many there are.

        Raises:
            JournalError: the journal of ``--energy-costs`` cannot be read.
        """
        self._session = session
        self._durations = Durations(session)
        self._shard = shard
        self._of = of

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Keep this shard's part of what -m and -k selected; tests that measure nothing are of the first."""
        measuring = [item for item in items if CASE in item.stash and measures(item)]
        own = self._own(measuring)
        resumed = self._session.resumed.finished if self._session.resumed else set()
        known = {item.stash[CASE] for item in measuring}
        # What an earlier run finished and no shard runs now goes on in the first one's journal.
        self._session.elsewhere = frozenset((known if self._shard == 1 else known | resumed) - own)
        others = [
            item for item in items if not (item.stash[CASE] in own if item in measuring else self._shard == 1)
        ]
        if others:
            config.hook.pytest_deselected(items=others)
            items[:] = [item for item in items if item not in others]

    def _own(self, items: Sequence[pytest.Item]) -> set[CaseKey]:
        tasks = []
        start_seconds = {}
        for item in items:
            engines = self._durations.engines(item)
            start_seconds.update(engines)
            seconds = self._durations.seconds(item)
            tasks.append(Task(key=item.stash[CASE], seconds=seconds, engines=tuple(sorted(engines))))
        return partition(tasks, start_seconds, self._of)[self._shard - 1]
