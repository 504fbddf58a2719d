"""Time as meters see it: the host's monotonic clock, or a virtual one in simulations."""

import threading
import time
from collections.abc import Callable
from typing import Protocol

Stop = Callable[[], bool]
"""Ends what is repeated, also when it is called again; whether it has ended."""

JOIN_SECONDS = 5.0


class Clock(Protocol):
    """A clock that can be read, waited on, and asked to repeat something."""

    def monotonic(self) -> float:
        """Seconds since some fixed moment."""

    def sleep(self, seconds: float) -> None:
        """Let that much time pass; none when it is negative."""

    def repeat(self, period: float, action: Callable[[], None]) -> Stop:
        """Carry out an action every ``period`` seconds until the returned function is called."""


class SystemClock:
    """The host's monotonic clock, which a worker process on the same host shares."""

    def monotonic(self) -> float:
        """Seconds since boot or so."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Let the thread rest."""
        if seconds > 0:
            time.sleep(seconds)

    def repeat(self, period: float, action: Callable[[], None]) -> Stop:
        """Carry out the action in a thread of its own."""
        stopped = threading.Event()

        def run() -> None:
            while not stopped.wait(period):
                action()

        thread = threading.Thread(target=run, daemon=True, name="energy-witness")
        thread.start()

        def stop() -> bool:
            stopped.set()
            thread.join(JOIN_SECONDS)  # an action that hangs in a dead driver must not hang this process
            return not thread.is_alive()

        return stop
