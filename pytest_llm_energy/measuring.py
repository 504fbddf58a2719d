"""From arms to runs: start engines, warm up, size the window, interleave, meter, repeat what was invalid."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from pytest_llm_energy.errors import MeasurementError, OutOfMemoryError
from pytest_llm_energy.serving.stack import Side
from pytest_llm_energy.verdicts.measured import Run
from pytest_llm_energy.works import Say, Work

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


CPU_PLAN = Plan(runs=5, window_seconds=0.5)
"""On a shared CPU more, shorter windows: noise there comes in bursts that interleaving spreads over the arms."""

GPU_PLAN = Plan(runs=3, window_seconds=1.5)
"""J/token of plain vLLM spreads by 0.37 % between such windows on an H200, and by 0.25 % between those of 2.5 s on
others (medians of 14 arms in docs/measurements/h200). The suite's cases are expected to take a quarter less so."""


def measure(
    works: Sequence[Work],
    plan: Plan,
    *,
    record: Callable[[Work, Run], None],
    say: Say,
    first: int = 0,
    warmed: Warmed | None = None,
    beside: Sequence[Work] = (),
    anew: bool = False,
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
        beside: others whose engines may be there, and are ended where they leave no room.
        anew: whether engines that are there are started again, as they are for a plan of several starts.

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

    if first and (anew or plan.starts > 1):
        _end(works)  # each start has as many runs as any other
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
            error = _together(works if number % 2 == 0 else works[::-1], warm, beside)
            if error is None:
                yield works, rounds
                continue
            if len(places) == 1:
                raise error
            say("the engines do not fit on the devices together: each has them in turn")
            apart = True
        if starts == 1:
            yield from _in_turn(works, places, plan.rounds(2), warm)
            return
        yield from _in_turn(works, places if number % 2 == 0 else places[::-1], [rounds], warm)


def _together(
    works: Sequence[Work], warm: Callable[[Work], None], beside: Sequence[Work]
) -> OutOfMemoryError | None:
    """Have all engines warm at once; why not, where they do not fit even once others have made room."""
    for others in ([work for work in beside if work not in works], []):
        try:
            for work in works:
                work.begin()
            for work in works:
                warm(work)
            return None
        except OutOfMemoryError as error:
            _end([*works, *others])
            if not others:
                return error
    return None


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
    window = work.metered(batches, plan.window_seconds)
    return Run(
        start=work.start,
        round=number,
        reading=window.reading,
        served=window.served,
        host=window.host,
    )
