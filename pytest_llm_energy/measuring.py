"""From arms to runs: warm up, size the window, interleave, meter, repeat what was invalid."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from pytest_llm_energy.errors import MeasurementError
from pytest_llm_energy.metering.meter import Meter
from pytest_llm_energy.serving.pool import Engine
from pytest_llm_energy.serving.scenario import Identity, Scenario, Served
from pytest_llm_energy.verdicts.measured import Run

Say = Callable[[str], None]

MANY = 100
"""Above so many batches a window, one batch is too short to be timed alone."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is measured.

    Attributes:
        runs: metered windows per arm.
        window_seconds: shortest window; whole batches are repeated until it is filled.
        retries: further tries for invalid or disturbed readings, per arm.
        warm_up_batches: most batches before metering; two at least are run.
        warm_up_seconds: time after which warming up ends even if batches still get faster.
        settled: relative difference of consecutive batches' durations below which warming up ends.
    """

    runs: int
    window_seconds: float
    retries: int = 3
    warm_up_batches: int = 20
    warm_up_seconds: float = 20.0
    settled: float = 0.05


class Work(Protocol):
    """Something that can be run a number of times and says what it served."""

    name: str
    identity: Identity | None
    start: str

    def prepare(self) -> None:
        """Make ready what no window should hold."""

    def run(self, batches: int) -> Served:
        """Run whole batches; the times returned cover exactly this work."""


class EngineWork:
    """A scenario on a started engine."""

    def __init__(self, name: str, scenario: Scenario, engine: Engine, say: Say) -> None:
        self.name = name
        self.identity: Identity | None = scenario.identity()
        self.start = engine.start
        self._scenario = scenario
        self._engine = engine
        self._say = say

    def prepare(self) -> None:
        """Hand the engine the scenario's batch."""
        self._engine.prepare(self._scenario, self._say)

    def run(self, batches: int) -> Served:
        """Serve the scenario's batch."""
        return self._engine.run(self._scenario, batches, self._say)


class CallableWork:
    """A function of the caller's, run in this process."""

    start = "in-process"

    def __init__(self, name: str, function: Callable[[], object]) -> None:
        self.name = name
        self.identity: Identity | None = None
        self._function = function

    def prepare(self) -> None:
        """Nothing to prepare."""

    def run(self, batches: int) -> Served:
        """Call the function; a GPU's work must be synchronised by the function itself."""
        started = time.monotonic()
        for _ in range(batches):
            self._function()
        return Served(started=started, ended=time.monotonic(), requests=batches)


def measure(
    works: Sequence[Work], meter: Meter, plan: Plan, *, record: Callable[[Work, Run], None], say: Say
) -> None:
    """Meter every work ``plan.runs`` times, interleaved: A B, B A, A B, ...

    Args:
        works: what to run; all are warm before the first window opens.
        meter: what meters it.
        plan: how often, and how long.
        record: told of each run as it ends, invalid ones included; a later run of the same round replaces an
            earlier one.
        say: told what is going on.

    Raises:
        MeasurementError: an arm's readings stay invalid.
    """
    batches = {work.name: _warm_up(work, plan, say) for work in works}
    retries = dict.fromkeys(batches, plan.retries)
    for number in range(plan.runs):
        for work in works if number % 2 == 0 else reversed(works):
            say(f"measuring {work.name} (run {number + 1} of {plan.runs})")
            run = _metered(work, meter, batches[work.name], number)
            record(work, run)
            counts = run.reading.valid
            while (not run.reading.valid or run.reading.disturbed) and retries[work.name]:
                retries[work.name] -= 1
                say(f"repeating {work.name}: {(*run.reading.invalid, *run.reading.disturbed)[0].says}")
                run = _metered(work, meter, batches[work.name], number)
                record(work, run)
                counts = counts or run.reading.valid
            if not counts:
                reasons = "; ".join(reason.says for reason in run.reading.invalid)
                raise MeasurementError(
                    f"arm {work.name!r} has no valid run after {plan.retries} retries: {reasons}"
                )


def _warm_up(work: Work, plan: Plan, say: Say) -> int:
    """Run until batches take equally long; the number of batches that fill a window."""
    begun = time.monotonic()
    previous = math.inf
    work.prepare()
    for number in range(1, plan.warm_up_batches + 1):
        say(f"warming up {work.name} (batch {number})")
        served = work.run(1)
        seconds = served.ended - served.started
        settled = abs(seconds - previous) <= plan.settled * seconds
        if number >= 2 and (settled or time.monotonic() - begun > plan.warm_up_seconds):
            break
        previous = seconds
    batches = max(1, math.ceil(plan.window_seconds / max(seconds, 1e-7)))
    while batches > MANY:
        # One short call says little about many of them: run what should fill the window, and see.
        served = work.run(batches)
        taken = served.ended - served.started
        if taken >= plan.window_seconds:
            break
        batches = math.ceil(1.1 * batches * plan.window_seconds / max(taken, 1e-4))
    return batches


def _metered(work: Work, meter: Meter, batches: int, number: int) -> Run:
    work.prepare()
    window = meter.open()
    try:
        served = work.run(batches)
    except BaseException:
        window.abandon()
        raise
    return Run(
        start=work.start,
        round=number,
        reading=window.close(served.started, served.ended),
        served=served,
    )
