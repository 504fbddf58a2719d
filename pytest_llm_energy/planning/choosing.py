"""Which cases tell most in a given time, as a choice among values."""

from bisect import bisect, insort
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pytest_llm_energy.reporting.selection import StatedCost
from pytest_llm_energy.verdicts.measured import CaseKey

Place = tuple[int, str]
"""Number of devices and key of an engine: an engine lives no longer than the lease of its devices."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A case as a time budget sees it.

    Attributes:
        key: the case.
        engines: what it runs on.
        seconds: how long it takes on engines that are alive.
        metered_seconds: of that, in windows.
        position: of its parameters among those of its test; a test's first and last positions are its ends.
        recorded: whether it was measured before, which takes no time and leaves alive what is.
    """

    key: CaseKey
    engines: frozenset[Place] = frozenset()
    seconds: float = 0.0
    metered_seconds: float = 0.0
    position: tuple[int, ...] = ()
    recorded: bool = False

    @property
    def test(self) -> tuple[str, str]:
        """Finding and test function."""
        return self.key.finding, self.key.case.partition("[")[0]


@dataclass(frozen=True, kw_only=True)
class Starting:
    """What engine starts take.

    Attributes:
        seconds: of an engine, on every stack that starts it.
        counts: starts that this is.
        times: how often a case has its engines started (``--energy-starts``).
    """

    seconds: Mapping[Place, float]
    counts: Mapping[Place, int]
    times: int = 1

    def of(self, engines: Iterable[Place]) -> tuple[int, float]:
        """Number and seconds of the starts of these engines."""
        # Sorted, so that every process adds up in one order and comes to the same choice.
        places = sorted(engines)
        return sum(self.counts[place] for place in places), sum(self.seconds[place] for place in places)


@dataclass
class Choice:
    """Cases chosen so far, of those in the order in which they would run.

    An engine lives from one case to the next that wants it too, so what a case adds depends on the others.
    """

    cases: Sequence[Candidate]
    starting: Starting
    chosen: list[int] = field(default_factory=list)
    seconds: float = 0.0
    _measured: list[int] = field(default_factory=list)

    def added(self, number: int) -> StatedCost:
        """What one more case costs, beside those chosen."""
        case = self.cases[number]
        place = bisect(self._measured, number)
        before, after = (
            self.cases[self._measured[n]].engines if 0 <= n < len(self._measured) else frozenset[Place]()
            for n in (place - 1, place)
        )
        of = self.starting.of
        parts = [(1, of(case.engines - before)), (1, of(after - case.engines)), (-1, of(after - before))]
        parts.append((self.starting.times - 1, of(case.engines)))
        starts = 0 if case.recorded else sum(times * count for times, (count, _) in parts)
        starting = 0.0 if case.recorded else sum(times * seconds for times, (_, seconds) in parts)
        return StatedCost(
            key=case.key,
            starts=starts,
            start_seconds=starting,
            metered_seconds=case.metered_seconds,
            seconds=starting + case.seconds,
        )

    def add(self, number: int) -> None:
        """Choose a case."""
        self.seconds += self.added(number).seconds
        insort(self.chosen, number)
        if not self.cases[number].recorded:
            insort(self._measured, number)

    def in_order(self) -> Iterator[StatedCost]:
        """What each chosen case costs after those before it: the sums are those of the run."""
        so_far = Choice(self.cases, self.starting)
        for number in self.chosen:
            yield so_far.added(number)
            so_far.add(number)


def choose(cases: Sequence[Candidate], starting: Starting, budget_seconds: float) -> Choice:
    """The cases that tell most in the time there is.

    First a case of every finding, then others, as long as one fits; each time the one that tells most per second
    that it adds. A case of a test of which none is chosen tells 1 if it is an end of the test's series, and less
    towards its middle, down to a half. Another tells as much as it is far from the nearest one chosen, in parts of
    the series: so the other end comes before the middle, where a direction may turn.

    Args:
        cases: in the order in which they would run; those that were recorded cost nothing and are chosen.
        starting: what engine starts take.
        budget_seconds: how long the chosen ones may take.
    """
    everything, choice = Choice(cases, starting), Choice(cases, starting)
    for number, case in enumerate(cases):
        everything.add(number)
        if case.recorded:
            choice.add(number)
    if everything.seconds <= budget_seconds:
        return everything
    places = _places(cases)

    chosen = set(choice.chosen)
    tests: dict[tuple[str, str], list[int]] = {}
    for number, case in enumerate(cases):
        tests.setdefault(case.test, []).append(number)

    def best(numbers: Iterable[int]) -> int | None:
        """Of those that fit the one that tells most per second, and of equal ones the first."""
        found: list[tuple[float, int]] = []
        for number in numbers:
            seconds = choice.added(number).seconds
            if choice.seconds + seconds <= budget_seconds:
                near = [places[n] for n in tests[cases[number].test] if n in chosen]
                found.append((-_told(places[number], near) / max(seconds, 1e-9), number))
        return min(found)[1] if found else None

    def fill(left: Callable[[], Iterable[int]]) -> None:
        while (number := best(left())) is not None:
            choice.add(number)
            chosen.add(number)

    def of_new_findings() -> Iterator[int]:
        seen = {cases[number].key.finding for number in chosen}
        return (number for number, case in enumerate(cases) if case.key.finding not in seen)

    fill(of_new_findings)
    fill(lambda: (number for number in range(len(cases)) if number not in chosen))
    return choice


def _told(place: float, near: Collection[float]) -> float:
    """How much a case tells, by its place in its test's series, from 0 to 1, and those of the ones chosen."""
    return min(abs(place - other) for other in near) if near else max(place, 1 - place)


def _places(cases: Sequence[Candidate]) -> list[float]:
    """Where each case lies in its test's series, from 0 to 1, by the order of parameters."""
    series: dict[tuple[str, str], list[tuple[int, ...]]] = {}
    for case in cases:
        series.setdefault(case.test, []).append(case.position)
    ranks = {test: sorted(set(positions)) for test, positions in series.items()}
    return [ranks[c.test].index(c.position) / max(1, len(ranks[c.test]) - 1) for c in cases]
