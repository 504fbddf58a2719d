"""What is metered: scenarios on engines, and functions of the caller's."""

import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

from pytest_llm_energy.errors import MeasurementError
from pytest_llm_energy.metering.host_speed import Host, HostSpeed
from pytest_llm_energy.metering.meter import Meter, Reading
from pytest_llm_energy.serving.pool import Engine
from pytest_llm_energy.serving.scenario import Identity, Scenario, Served
from pytest_llm_energy.serving.stack import Side

Say = Callable[[str], None]

LEAST_REQUESTS = 8
"""A window of online serving is at least as long as so many requests take to end, one after another."""

GOLDEN = (5**0.5 - 1) / 2
"""Steps by this part of a range fill it evenly."""


class MeteredWindow(NamedTuple):
    """One metered window of a work.

    Attributes:
        reading: joules.
        served: requests and tokens.
        host: its processors meanwhile; None where they were not probed.
    """

    reading: Reading
    served: Served
    host: Host | None = None


class Work(Protocol):
    """Something that can be run a number of times and says what it served.

    Attributes:
        name: of the arm.
        side: of the stack it runs on.
        identity: its scenario as plain JSON; None for a callable.
        meter: meters the devices it runs on.
        place: equal for works that one engine start serves.
        endless: whether it goes on until it is stopped, rather than for so many batches.
        starting_seconds: what the start of its engine took; None where it has none that could be started again.
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

    @property
    def starting_seconds(self) -> float | None:
        """What the start of its engine took."""

    def begin(self) -> None:
        """Have an engine started, unless one is there."""

    def end(self) -> None:
        """Have the engine ended."""

    def prepare(self) -> None:
        """Make ready what no window should hold."""

    def metered(self, batches: int, window_seconds: float) -> MeteredWindow:
        """Meter a window of it: so many whole batches, or so long where it does not end by itself."""

    def run(self, batches: int) -> Served:
        """Run whole batches; the times returned cover exactly this work."""


def around(work: Work, batches: int, host: HostSpeed | None = None) -> MeteredWindow:
    """Meter whole batches, with the devices at rest before and after.

    Args:
        work: what to meter.
        batches: how many.
        host: probes the host's processors meanwhile.
    """
    window = work.meter.open()
    try:
        if host:
            host.begin()
        try:
            served = work.run(batches)
        finally:
            seen = host.end() if host else None
    except BaseException:
        window.abandon()
        raise
    return MeteredWindow(window.close(served.started, served.ended), served, seen)


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
        probing: Callable[[Engine], HostSpeed | None] = lambda engine: None,
        expected_seconds: float | None = None,
    ) -> None:
        """Nothing is started.

        Args:
            name: of the arm.
            scenario: what is served.
            side: of the stack that serves.
            meter: meters the devices.
            begin: has the engine started, unless it is there.
            end: has it ended.
            say: told what is going on.
            probing: what probes the host's processors while an engine serves, None where nothing does.
            expected_seconds: what starts of its engine took before; None where none is known, or can be started.
        """
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
        self._probing = probing
        self._expected_seconds = expected_seconds
        self._host: HostSpeed | None = None
        self._windows = 0

    @property
    def start(self) -> str:
        """Id of the engine start that serves it now."""
        return self._started.start

    @property
    def starting_seconds(self) -> float | None:
        """What the start of its engine took, or will about take; None for a server that runs."""
        if self._engine is None:
            return self._expected_seconds
        return None if self._started.endpoint else self._started.load_seconds

    def metered(self, batches: int, window_seconds: float) -> MeteredWindow:
        """Meter static batches from rest to rest, and online serving while its batch is full.

        Raises:
            EngineError: the engine failed.
            MeterError: the devices cannot be read.
        """
        if not self.endless:
            return around(self, batches, self._host)
        self._windows += 1
        try:
            cycle = self._started.serve(self._scenario, self._say)
            # Requests end in turn, and a prompt is worked off at each end: a window shall see its share of them.
            time.sleep(self._windows * GOLDEN % 1 * cycle)
            if self._host:
                self._host.begin()
            try:
                steady = self.meter.steady(max(window_seconds, LEAST_REQUESTS * cycle))
            finally:
                seen = self._host.end() if self._host else None
            served = self._started.stop(steady.started, steady.ended, self._say)
        except BaseException:
            self.end()  # or its requests would go on arriving
            raise
        if steady.reading.valid and not served.output_tokens:
            raise MeasurementError(f"{self._scenario}: no token came back in {steady.reading.seconds:.3g} s")
        return MeteredWindow(steady.reading, served, seen)

    @property
    def _started(self) -> Engine:
        assert self._engine is not None, "begin comes first"
        return self._engine

    def begin(self) -> None:
        """Have the engine started, unless it is there."""
        engine = self._begin()
        if engine is not self._engine:
            self._engine, self._host = engine, self._probing(engine)

    def prepare(self) -> None:
        """Hand the engine the scenario's batch."""
        self._started.prepare(self._scenario, self._say)
        if self._host:
            self._host.prepare()

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
    starting_seconds = None

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

    def metered(self, batches: int, window_seconds: float) -> MeteredWindow:
        """Meter so many calls."""
        return around(self, batches)

    def run(self, batches: int) -> Served:
        """Call the function; a GPU's work must be synchronised by the function itself."""
        started = time.monotonic()
        for _ in range(batches):
            self._function()
        return Served(started=started, ended=time.monotonic(), requests=batches)
