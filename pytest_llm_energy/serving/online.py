"""Online serving: requests that keep arriving, and what was served of them between two moments.

Runs inside a worker. Standard library only. An engine says how one request is served; here requests arrive, take
the places of those that finish, and are tallied while they are served.
"""

import asyncio
import bisect
import math
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from .worker import RefusedError

Generate = Callable[[int, int], AsyncIterator[int]]
"""Serves the request of a number with so many output tokens; yields how many have come, as they come. Where an
engine streams pieces without saying how many tokens each holds, 1 for each piece."""

Pieces = list[tuple[float, float]]
"""A request's tokens: when some came, and how many."""

Running = Callable[[], float | None]
"""How many requests the engine runs at this moment, as far as it tells."""

WAITING = 3
"""Batches of requests that wait in the queue, where they arrive as fast as they are served: the engine must
not run out of them before it is noticed that some have finished."""

GENERATIONS = 4
"""A rate that has not filled the batch after the batch has been served so often will not fill it."""

PATIENCE_SECONDS = 5.0
"""Longest wait for the token that each request was at when the window ended."""

LOOK_SECONDS = 0.1
"""How often the engine is asked how many requests it runs."""

LEAST_LOOKS = 10

LEAST_FULL = 0.98
"""Share of the batch that must be in flight on average for it to count as kept full."""

LEAST_RUNNING = 0.75
"""The same of what the engine says it runs. Ten looks a second fall by chance between the end of
some requests and the beginning of others; a cache that is too small leaves half of the batch out, or more."""

Answer = TypeVar("Answer")


class LoopThread:
    """An event loop in a thread of its own, for engines that are driven asynchronously."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True, name="serving").start()

    def run(self, what: Coroutine[Any, Any, Answer]) -> Answer:
        """Run it there and wait for it."""
        return asyncio.run_coroutine_threadsafe(what, self._loop).result()


@dataclass
class Tally:
    """What happened when, in monotonic seconds.

    Attributes:
        requests: the tokens of each.
        finished: when each request was complete.
        in_flight: requests that had arrived and were not complete, after each change.
        running: requests that the engine ran, each time it was asked.
    """

    requests: list[Pieces] = field(default_factory=list)
    finished: list[float] = field(default_factory=list)
    in_flight: list[tuple[float, int]] = field(default_factory=list)
    running: list[tuple[float, float]] = field(default_factory=list)

    def tokens_between(self, started: float, ended: float) -> float:
        """Tokens between two moments; those that a request gets next after one, in proportion to the time."""
        return sum(_tokens_by(pieces, ended) - _tokens_by(pieces, started) for pieces in self.requests)

    def first_tokens_between(self, started: float, ended: float) -> int:
        """Requests whose prompts were worked off between two moments."""
        return sum(started < pieces[0][0] <= ended for pieces in self.requests if pieces)

    def mean_in_flight(self, started: float, ended: float, *, most: int) -> float:
        """Requests in flight between two moments, on average over the time, any more than ``most`` left out."""
        before = [number for moment, number in self.in_flight if moment <= started][-1:] or [0]
        within = [(moment, number) for moment, number in self.in_flight if started < moment < ended]
        moments = [started, *(moment for moment, _ in within), ended]
        numbers = [*before, *(number for _, number in within)]
        pieces = zip(numbers, moments, moments[1:], strict=False)
        return sum(min(number, most) * (later - earlier) for number, earlier, later in pieces) / (ended - started)

    def mean_running(self, started: float, ended: float) -> float | None:
        """Requests that the engine ran between two moments, on average; None where it was hardly asked then."""
        within = [number for moment, number in self.running if started <= moment <= ended]
        return sum(within) / len(within) if len(within) >= LEAST_LOOKS else None


def _tokens_by(pieces: Pieces, moment: float) -> float:
    after = bisect.bisect_right(pieces, moment, key=lambda piece: piece[0])
    tokens = sum(number for _, number in pieces[:after])
    if after in (0, len(pieces)):
        return tokens
    (earlier, _), (later, number) = pieces[after - 1], pieces[after]
    return tokens + number * (moment - earlier) / (later - earlier)


class Online:
    """Requests that arrive until they are stopped, served by an engine whose batch they keep full."""

    def __init__(
        self,
        generate: Generate,
        *,
        batch_size: int,
        input_tokens: int,
        output_tokens: int,
        request_rate: float | None = None,
        waiting: int = WAITING,
        counts: bool = True,
        running: Running | None = None,
    ) -> None:
        """Nothing arrives before ``fill``.

        Args:
            generate: serves one request.
            batch_size: requests that the engine serves at once, at most.
            input_tokens: prompt length of every request.
            output_tokens: tokens of every request, but of the first ``batch_size``, which are of even lengths up to
                that: so those that follow end one after another, and not all at once.
            request_rate: arrivals per second, evenly spaced; None for as many as are served.
            waiting: batches that wait in the engine's queue, where there is no rate; 0 for an engine that would
                serve them too: then no more than a batch is in flight, whatever the rate.
            counts: whether what the engine yields are numbers of tokens, and not just pieces.
            running: asks the engine how many requests it runs.
        """
        self._generate = generate
        self._batch_size = batch_size
        self._input_tokens = input_tokens
        self._output_tokens = output_tokens
        self._rate = request_rate
        self._most = (1 + waiting) * batch_size if request_rate is None or not waiting else math.inf
        self._counts = counts
        self._running = running
        self._tally = Tally()
        self._open: list[Pieces] = []
        self._served: set[asyncio.Task[None]] = set()
        self._helpers: list[asyncio.Task[None]] = []
        self._changed = asyncio.Event()
        self._begun = 0.0
        self._failure: BaseException | None = None

    async def fill(self) -> float:
        """Let requests arrive; returns when the batch is full of requests of even progress.

        Returns:
            Seconds from the end of one request to that of the next.

        Raises:
            RefusedError: the rate does not fill the batch.
        """
        self._begun = time.monotonic()
        self._helpers = [asyncio.create_task(self._arrive())]
        if self._running is not None:
            self._helpers.append(asyncio.create_task(self._look(self._running)))
        while len(self._tally.finished) < self._batch_size or len(self._served) < self._batch_size:
            await self._wait_for_change()
            self._raise_of_helpers()
            if self._rate is not None and len(self._tally.finished) > GENERATIONS * self._batch_size:
                most = max(number for _, number in self._tally.in_flight)
                self._failure = RefusedError(
                    f"at {self._rate:g} requests/s no more than {most} of {self._batch_size} requests were in "
                    "flight: the engine keeps up. Ask for a higher rate, or a smaller batch"
                )
            if self._failure is not None:
                await self._cancel()
                raise self._failure
        return (self._tally.finished[-1] - self._begun) / len(self._tally.finished)

    async def stop(self, started: float, ended: float) -> dict[str, Any]:
        """Let no more arrive, and say what was served between two moments.

        Those in flight are dropped; or, where pieces are counted, served to their end: then it is known what one
        holds.

        Raises:
            RefusedError: the batch was not full all the time.
        """
        self._raise_of_helpers()
        if self._counts:
            await self._wait_for_tokens_after(ended)
        else:
            self._helpers[0].cancel()
            await asyncio.gather(*self._served, return_exceptions=True)
        await self._cancel()
        if self._failure is not None:
            raise self._failure
        tally = self._tally
        size = self._batch_size
        flying = tally.mean_in_flight(started, ended, most=size)
        if flying < LEAST_FULL * size:
            at = "" if self._rate is None else f" at {self._rate:g} requests/s"
            raise RefusedError(
                f"the batch was not kept full{at}: {flying:.1f} of {size} requests were in flight on average"
            )
        mean = tally.mean_running(started, ended)
        # A request is missing in one step of as many as it has tokens: it has ended, and the next has not begun.
        if mean is not None and mean < LEAST_RUNNING * size * (1 - 1 / self._output_tokens):
            raise RefusedError(
                f"the engine ran {mean:.1f} of {size} requests at once on average, though more were waiting: is "
                "its KV cache too small for them?"
            )
        return {
            "started": started,
            "ended": ended,
            "requests": sum(started < moment <= ended for moment in tally.finished),
            "input_tokens": tally.first_tokens_between(started, ended) * self._input_tokens,
            "output_tokens": round(tally.tokens_between(started, ended)),
        }

    async def _arrive(self) -> None:
        for number, length in enumerate(self._lengths()):
            if self._rate is not None:
                await asyncio.sleep(self._begun + number / self._rate - time.monotonic())
            while len(self._served) >= self._most:
                await self._wait_for_change()
            if self._failure is not None:
                return
            task = asyncio.create_task(self._serve(number, length))
            self._served.add(task)
            task.add_done_callback(self._done)
            self._count()

    def _lengths(self) -> Iterator[int]:
        for number in range(1, self._batch_size + 1):
            yield math.ceil(self._output_tokens * number / self._batch_size)
        while True:
            yield self._output_tokens

    async def _serve(self, number: int, length: int) -> None:
        came: Pieces = []
        self._tally.requests.append(came)
        self._open.append(came)
        try:
            async for tokens in self._generate(number, length):
                if tokens:
                    came.append((time.monotonic(), tokens))
        finally:
            self._open = [other for other in self._open if other is not came]
        produced = sum(tokens for _, tokens in came)
        if not self._counts:
            came[:] = [(moment, tokens * length / produced) for moment, tokens in came]
        elif produced != length:
            raise RefusedError(f"{length} output tokens were asked for, and {produced:g} came back")
        self._tally.finished.append(time.monotonic())

    async def _look(self, running: Running) -> None:
        while True:
            if (number := running()) is not None:
                self._tally.running.append((time.monotonic(), number))
            await asyncio.sleep(LOOK_SECONDS)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._served.discard(task)
        self._count()
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failure = self._failure or error

    def _count(self) -> None:
        self._changed.set()
        self._tally.in_flight.append((time.monotonic(), len(self._served)))

    async def _wait_for_change(self) -> None:
        """Wait until a request arrives or ends."""
        self._changed.clear()
        await self._changed.wait()

    async def _wait_for_tokens_after(self, moment: float) -> None:
        """Wait until every request that is being served has got a token after a moment: it was under way then."""
        until = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < until and any(came and came[-1][0] <= moment for came in self._open):
            await asyncio.sleep(0.002)

    def _raise_of_helpers(self) -> None:
        for task in self._helpers:
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                self._failure = self._failure or error

    async def _cancel(self) -> None:
        tasks = [*self._helpers, *self._served]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
