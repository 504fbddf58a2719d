"""From arms to runs: start engines, warm up, size the window, interleave, meter, repeat what was invalid."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

from pytest_llm_energy.errors import MeasurementError, OutOfMemoryError
from pytest_llm_energy.metering.meter import Meter, Reading
from pytest_llm_energy.serving.pool import Engine
from pytest_llm_energy.serving.scenario import Identity, Scenario, Served
from pytest_llm_energy.serving.stack import Side
from pytest_llm_energy.verdicts.measured import Run

Say = Callable[[str], None]

LEAST_REQUESTS = 8
"""A window of online serving is at least as long as so many requests take to end, one after another."""

GOLDEN = (5**0.5 - 1) / 2
"""Steps by this part of a range fill it evenly."""

MANY = 100
"""Above so many batches a window, one batch is too short to be timed alone."""

Warmed = dict[tuple[str, Side], tuple[str, int]]
"""The engine start on which a work was warmed up last, and the batches that fill its window, by arm and side."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is measured.

    Attributes:
        runs: metered windows per arm and stack, over all starts.
        starts: engine starts per arm and stack, which share the runs.
        window_seconds: shortest window; whole batches are repeated until it is filled.
        retries: further tries for invalid or disturbed readings, per arm.
        warm_up_batches: most batches before metering; two at least are run.
        warm_up_seconds: time after which warming up ends even if batches still get faster.
        settled: part by which a batch must be faster than the one before for warming up to go on. A slower one is
            noise, which no further batch would end.
    """

    runs: int
    window_seconds: float
    starts: int = 1
    retries: int = 3
    warm_up_batches: int = 20
    warm_up_seconds: float = 20.0
    settled: float = 0.05

    def rounds(self, starts: int) -> list[range]:
        """Numbers of the rounds that fall on each of so many starts, as evenly as they divide."""
        runs = max(self.runs, starts)
        edges = [number * runs // starts for number in range(starts + 1)]
        return [range(low, high) for low, high in pairwise(edges)]


class Work(Protocol):
    """Something that can be run a number of times and says what it served.

    Attributes:
        name: of the arm.
        side: of the stack it runs on.
        identity: its scenario as plain JSON; None for a callable.
        meter: meters the devices it runs on.
        place: equal for works that one engine start serves.
        endless: whether it goes on until it is stopped, rather than for so many batches.
    """

    name: str
    side: Side
    meter: Meter
    identity: Identity | None
    place: str
    endless: bool

    @property
    def start(self) -> str:
        """Id of the engine start that serves it now."""

    def begin(self) -> None:
        """Have an engine started, unless one is there."""

    def end(self) -> None:
        """Have the engine ended."""

    def prepare(self) -> None:
        """Make ready what no window should hold."""

    def metered(self, batches: int, window_seconds: float) -> tuple[Reading, Served]:
        """Meter a window of it: so many whole batches, or so long where it does not end by itself."""

    def run(self, batches: int) -> Served:
        """Run whole batches; the times returned cover exactly this work."""


def around(work: Work, batches: int) -> tuple[Reading, Served]:
    """Meter whole batches, with the devices at rest before and after."""
    window = work.meter.open()
    try:
        served = work.run(batches)
    except BaseException:
        window.abandon()
        raise
    return window.close(served.started, served.ended), served


class EngineWork:
    """A scenario on an engine of a stack."""

    def __init__(
        self,
        name: str,
        scenario: Scenario,
        *,
        side: Side,
        meter: Meter,
        begin: Callable[[], Engine],
        end: Callable[[], None],
        say: Say,
    ) -> None:
        self.name = name
        self.side = side
        self.meter = meter
        self.identity: Identity | None = scenario.identity()
        self.place = f"{side} {scenario.engine_key}"
        self.endless = scenario.online is not None
        self.end = end
        self._scenario = scenario
        self._begin = begin
        self._engine: Engine | None = None
        self._say = say
        self._windows = 0

    @property
    def start(self) -> str:
        """Id of the engine start that serves it now."""
        return self._started.start

    def metered(self, batches: int, window_seconds: float) -> tuple[Reading, Served]:
        """Meter static batches from rest to rest, and online serving while its batch is full.

        Raises:
            EngineError: the engine failed.
            MeterError: the devices cannot be read.
        """
        if not self.endless:
            return around(self, batches)
        self._windows += 1
        try:
            cycle = self._started.serve(self._scenario, self._say)
            # Requests end in turn, and a prompt is worked off at each end: a window shall see its share of them.
            time.sleep(self._windows * GOLDEN % 1 * cycle)
            steady = self.meter.steady(max(window_seconds, LEAST_REQUESTS * cycle))
            served = self._started.stop(steady.started, steady.ended, self._say)
        except BaseException:
            self.end()  # or its requests would go on arriving
            raise
        if steady.reading.valid and not served.output_tokens:
            raise MeasurementError(f"{self._scenario}: no token came back in {steady.reading.seconds:.3g} s")
        return steady.reading, served

    @property
    def _started(self) -> Engine:
        assert self._engine is not None, "begin comes first"
        return self._engine

    def begin(self) -> None:
        """Have the engine started, unless it is there."""
        self._engine = self._begin()

    def prepare(self) -> None:
        """Hand the engine the scenario's batch."""
        self._started.prepare(self._scenario, self._say)

    def run(self, batches: int) -> Served:
        """Serve the scenario's batch; online, requests that keep it full for about as long as a batch takes."""
        if not self.endless:
            return self._started.run(self._scenario, batches, self._say)
        begun = time.monotonic()
        self._started.serve(self._scenario, self._say)
        full = time.monotonic()
        time.sleep(full - begun)
        return self._started.stop(full, time.monotonic(), self._say)


class CallableWork:
    """A function of the caller's, run in this process."""

    start = "in-process"
    place = "in-process"
    endless = False
    side: Side = "present"

    def __init__(self, name: str, function: Callable[[], object], *, meter: Meter) -> None:
        self.name = name
        self.meter = meter
        self.identity: Identity | None = None
        self._function = function

    def begin(self) -> None:
        """Nothing to start."""

    def end(self) -> None:
        """Nothing to end."""

    def prepare(self) -> None:
        """Nothing to prepare."""

    def metered(self, batches: int, window_seconds: float) -> tuple[Reading, Served]:
        """Meter so many calls."""
        return around(self, batches)

    def run(self, batches: int) -> Served:
        """Call the function; a GPU's work must be synchronised by the function itself."""
        started = time.monotonic()
        for _ in range(batches):
            self._function()
        return Served(started=started, ended=time.monotonic(), requests=batches)


def measure(
    works: Sequence[Work],
    plan: Plan,
    *,
    record: Callable[[Work, Run], None],
    say: Say,
    first: int = 0,
    warmed: Warmed | None = None,
    beside: Sequence[Work] = (),
) -> None:
    """Meter every work ``plan.runs`` times, interleaved: A B, B A, A B, ...

    All engines are started before the first window opens. Where they do not fit on the devices together, each has
    them in turn: A, B, B, A, with an engine start each time.

    Args:
        works: what to run; those on another stack follow their arm on the present one.
        plan: how often, how long, and over how many engine starts.
        record: told of each run as it ends, invalid ones included; a later run of the same round replaces an
            earlier one.
        say: told what is going on.
        first: number of the first round: those before it have been measured.
        warmed: what those found; a work whose engine has served on since is not warmed up again. What this call
            finds is put there.
        beside: others whose engines may be there and end with theirs, so that there is room.

    Raises:
        MeasurementError: an arm's readings stay invalid.
    """
    warmed = {} if warmed is None else warmed
    batches: dict[str, int] = {}
    retries = {(work.name, work.side): plan.retries for work in works}

    def warm(work: Work) -> None:
        work.begin()
        start, fills = warmed.get((work.name, work.side), (None, 0))
        if start != work.start:
            fills = _warm_up(work, plan, say)
        warmed[work.name, work.side] = work.start, fills
        batches[work.name] = max(fills, batches.get(work.name, 0))

    if first and plan.starts > 1:
        _end([*works, *beside])  # each start has as many runs as any other
    for group, rounds in _blocks(works, plan, warm, say, beside=beside):
        for number in (first + each for each in rounds):
            for work in group if number % 2 == 0 else reversed(group):
                of = first + max(plan.runs, plan.starts)
                _run(work, batches[work.name], number, plan, of=of, retries=retries, record=record, say=say)


def _blocks(
    works: Sequence[Work], plan: Plan, warm: Callable[[Work], None], say: Say, *, beside: Sequence[Work]
) -> Iterator[tuple[Sequence[Work], range]]:
    """Works with their engines warm, and the rounds to run them; fresh starts for each of the plan's starts.

    Engines are loaded one after another, and warmed up after that: some take their memory with the first batch.
    """
    apart = False
    starts = plan.starts
    places = list(dict.fromkeys(work.place for work in works))
    for number, rounds in enumerate(plan.rounds(starts)):
        if number:
            _end(works)
        if not apart:
            try:
                for work in works if number % 2 == 0 else reversed(works):
                    work.begin()
                for work in works:
                    warm(work)
            except OutOfMemoryError:
                _end([*works, *beside])
                if len(places) == 1:
                    raise
                say("the engines do not fit on the devices together: each has them in turn")
                apart = True
            else:
                yield works, rounds
                continue
        if starts == 1:
            yield from _in_turn(works, places, plan.rounds(2), warm)
            return
        yield from _in_turn(works, places if number % 2 == 0 else places[::-1], [rounds], warm)


def _in_turn(
    works: Sequence[Work], places: Sequence[str], blocks: Sequence[range], warm: Callable[[Work], None]
) -> Iterator[tuple[Sequence[Work], range]]:
    """One engine at a time: A B, then B A."""
    for number, rounds in enumerate(blocks):
        for place in places if number % 2 == 0 else reversed(places):
            _end(works)
            group = [work for work in works if work.place == place]
            for work in group:
                warm(work)
            yield group, rounds


def _end(works: Sequence[Work]) -> None:
    for work in works:
        work.end()


def _run(
    work: Work,
    batches: int,
    number: int,
    plan: Plan,
    *,
    of: int,
    retries: dict[tuple[str, Side], int],
    record: Callable[[Work, Run], None],
    say: Say,
) -> None:
    """One run of a round that counts, after as many tries as are left.

    Raises:
        MeasurementError: its readings stay invalid.
    """
    where = "" if work.side == "present" else " on the other stack"
    left = retries[work.name, work.side]
    say(f"measuring {work.name}{where} (run {number + 1} of {of})")
    run = _metered(work, batches, number, plan)
    record(work, run)
    counts = run.reading.valid
    while (not run.reading.valid or run.reading.disturbed) and retries[work.name, work.side]:
        retries[work.name, work.side] -= 1
        say(f"repeating {work.name}{where}: {(*run.reading.invalid, *run.reading.disturbed)[0].says}")
        run = _metered(work, batches, number, plan)
        record(work, run)
        counts = counts or run.reading.valid
    if not counts:
        reasons = "; ".join(reason.says for reason in run.reading.invalid)
        raise MeasurementError(
            f"arm {work.name!r}{where} has no valid run in round {number + 1} of {of}, for which it had {left} of "
            f"{plan.retries} retries left: {reasons}"
        )


def _warm_up(work: Work, plan: Plan, say: Say) -> int:
    """Run until batches get no faster; the number of batches that fill a window."""
    begun = time.monotonic()
    previous = fastest = math.inf
    work.prepare()
    for number in range(1, plan.warm_up_batches + 1):
        say(f"warming up {work.name} (batch {number})")
        served = work.run(1)
        seconds = served.ended - served.started
        fastest = min(fastest, seconds)
        settled = seconds >= (1 - plan.settled) * previous
        if number >= 2 and (settled or time.monotonic() - begun > plan.warm_up_seconds):
            break
        previous = seconds
    if work.endless:
        return 1
    batches = max(1, math.ceil(plan.window_seconds / max(fastest, 1e-7)))
    while batches > MANY:
        # One short call says little about many of them: run what should fill the window, and see.
        served = work.run(batches)
        taken = served.ended - served.started
        if taken >= plan.window_seconds:
            break
        batches = math.ceil(1.1 * batches * plan.window_seconds / max(taken, 1e-4))
    return batches


def _metered(work: Work, batches: int, number: int, plan: Plan) -> Run:
    work.prepare()
    reading, served = work.metered(batches, plan.window_seconds)
    return Run(start=work.start, round=number, reading=reading, served=served)
