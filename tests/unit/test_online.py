"""Requests that keep arriving at an engine, here one that takes ten milliseconds a token."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from pytest_llm_energy.serving.online import LoopThread, Online, Tally
from pytest_llm_energy.serving.worker import RefusedError

STEP_SECONDS = 0.01


class Batching:
    """An engine that serves so many requests at once, a token of each in every step."""

    piece = 1

    def __init__(self, most: int, *, break_after: int | None = None, lose: int = 0) -> None:
        self.lengths: list[int] = []
        self.running = 0
        self.given: list[float] = []
        self._slots = asyncio.Semaphore(most)
        self._break_after = break_after
        self._lose = lose

    async def generate(self, number: int, length: int) -> AsyncIterator[int]:
        self.lengths.append(length)
        if number == self._break_after:
            raise ConnectionError("the engine is gone")
        async with self._slots:
            self.running += 1
            try:
                for _ in range(length - (self._lose if number > 8 else 0)):
                    await asyncio.sleep(STEP_SECONDS)
                    self.given.append(time.monotonic())
                    yield self.piece
            finally:
                self.running -= 1


def online(engine: Batching, *, batch_size: int = 4, rate: float | None = None, **more: Any) -> Online:
    return Online(
        engine.generate,
        batch_size=batch_size,
        input_tokens=3,
        output_tokens=10,
        request_rate=rate,
        running=lambda: engine.running,
        **more,
    )


@contextmanager
def serving(requests: Online) -> Iterator[LoopThread]:
    loop = LoopThread()
    loop.run(requests.fill())
    yield loop


@pytest.mark.parametrize("rate", [None, 500.0], ids=["as-served", "at-a-rate"])
def test_what_a_full_batch_serves_between_two_moments_is_counted(rate: float | None) -> None:
    engine = Batching(4)
    requests = online(engine, rate=rate)
    with serving(requests) as loop:
        started = time.monotonic()
        time.sleep(0.5)
        ended = time.monotonic()
        served: dict[str, Any] = loop.run(requests.stop(started, ended))
    assert (served["started"], served["ended"]) == (started, ended)
    # Tokens are those that the engine says it gave out meanwhile, and one more a request that was under way.
    given = sum(started < moment <= ended for moment in engine.given)
    assert abs(served["output_tokens"] - given) <= 4
    assert served["requests"] == pytest.approx(served["output_tokens"] / 10, abs=4)
    assert served["input_tokens"] == pytest.approx(3 * served["output_tokens"] / 10, abs=12)


def test_the_first_requests_are_of_even_lengths_so_that_later_ones_do_not_end_together() -> None:
    engine = Batching(4)
    requests = online(engine)
    with serving(requests) as loop:
        loop.run(requests.stop(time.monotonic() - 1e-3, time.monotonic()))
    assert engine.lengths[:6] == [3, 5, 8, 10, 10, 10]


def test_a_rate_that_the_engine_keeps_up_with_is_refused() -> None:
    requests = online(Batching(4), rate=20.0)
    with pytest.raises(RefusedError, match=r"at 20 requests/s no more than \d of 4 requests were in flight"):
        LoopThread().run(requests.fill())


def test_an_engine_that_runs_fewer_than_asked_is_refused() -> None:
    requests = online(Batching(2))
    with serving(requests) as loop:
        started = time.monotonic()
        time.sleep(3.0)
        with pytest.raises(RefusedError, match=r"ran 2\.0 of 4 requests at once on average, though more were wait"):
            loop.run(requests.stop(started, time.monotonic()))


def test_a_batch_that_was_not_full_all_the_time_is_refused() -> None:
    engine = Batching(4)
    requests = online(engine, rate=500.0)
    with serving(requests) as loop:
        before = time.monotonic() - 5.0
        with pytest.raises(RefusedError, match=r"not kept full at 500 requests/s: \d\.\d of 4 requests"):
            loop.run(requests.stop(before, time.monotonic()))


def test_pieces_of_unknown_size_share_the_tokens_of_their_request_and_requests_run_to_their_end() -> None:
    class InHalves(Batching):
        """Streams ten tokens in five pieces."""

        async def generate(self, number: int, length: int) -> AsyncIterator[int]:
            async for piece in super().generate(number, -(-length // 2)):
                yield piece

    engine = InHalves(4)
    requests = online(engine, waiting=0, counts=False)
    with serving(requests) as loop:
        started = time.monotonic()
        time.sleep(0.5)
        ended = time.monotonic()
        served = loop.run(requests.stop(started, ended))
    given = sum(started < moment <= ended for moment in engine.given)
    assert served["output_tokens"] == pytest.approx(2 * given, abs=10)
    assert engine.running == 0


def test_the_token_that_a_request_is_at_when_the_window_ends_is_waited_for() -> None:
    requests = online(Batching(4))
    with serving(requests) as loop:
        started = time.monotonic()
        time.sleep(0.2)
        ended = time.monotonic()
        loop.run(requests.stop(started, ended))
    whole_length = requests._tally.requests[4:]
    under_way = [pieces for pieces in whole_length if pieces and len(pieces) < 10]
    assert len(under_way) >= 2
    assert all(pieces[-1][0] > ended for pieces in under_way)


def test_a_request_that_fails_while_the_batch_fills_ends_the_load() -> None:
    requests = online(Batching(4, break_after=5))
    with pytest.raises(ConnectionError, match="the engine is gone"):
        LoopThread().run(requests.fill())


def test_a_request_that_fails_or_falls_short_later_ends_the_load() -> None:
    for engine, says in ((Batching(4, break_after=30), "is gone"), (Batching(4, lose=1), "and 9 came back")):
        requests = online(engine)
        with serving(requests) as loop:
            started = time.monotonic()
            time.sleep(1.0)
            with pytest.raises((ConnectionError, RefusedError), match=says):
                loop.run(requests.stop(started, time.monotonic()))


def test_tokens_between_two_that_came_are_counted_in_proportion() -> None:
    tally = Tally(requests=[[(1.0, 4), (2.0, 4), (4.0, 2)], [(1.0, 1), (1.5, 1)]])
    moments = (0.5, 1.0, 1.5, 1.75, 2.0, 3.0, 9.0)
    assert [tally.tokens_between(0.0, moment) for moment in moments] == [0, 5, 8, 9, 10, 11, 12]
    assert tally.first_tokens_between(0.5, 1.0) == 2
    assert tally.first_tokens_between(1.0, 9.0) == 0
    assert Tally().tokens_between(0.0, 1.0) == 0


def test_requests_in_flight_are_averaged_over_the_time_and_a_moment_without_one_is_nothing() -> None:
    tally = Tally(in_flight=[(0.0, 2), (1.0, 0), (1.0, 8), (3.0, 1)])
    assert tally.mean_in_flight(0.5, 3.5, most=4) == pytest.approx((0.5 * 2 + 2 * 4 + 0.5 * 1) / 3)
    assert Tally().mean_in_flight(0.0, 1.0, most=4) == 0
    looks = [(0.0, 99.0), *((1.0 + 0.1 * number, 2.0 + number) for number in range(11))]
    assert Tally(running=looks).mean_running(0.5, 2.5) == 7.0
    assert Tally(running=looks).mean_running(0.5, 1.75) is None
